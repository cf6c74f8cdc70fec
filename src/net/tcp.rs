//! TCP.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{self, Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::addr::{ToSocketAddrs, each_address};
use super::descriptor::descriptor;
use crate::hub::hub;
use crate::io::{Direction, Io};
use crate::sys;
use crate::sys::clock::{NEVER, Nanos};

/// How many connections may wait to be accepted; the kernel takes less if `net.core.somaxconn` is less. A server that is busy for a
/// moment should not turn clients away, whose next attempt comes after a second.
const BACKLOG: u32 = 4096;

/// A TCP connection; [`std::net::TcpStream`], cooperative.
///
/// ```no_run
/// use std::io::{Read, Write};
/// use switchgrass::net::TcpStream;
///
/// let mut stream = TcpStream::connect("example.org:80")?;
/// stream.write_all(b"GET / HTTP/1.0\r\nHost: example.org\r\n\r\n")?;
/// let mut answer = String::new();
/// stream.read_to_string(&mut answer)?;
/// # std::io::Result::Ok(())
/// ```
pub struct TcpStream {
    io: Io<net::TcpStream>,
}

descriptor!(TcpStream, net::TcpStream);

impl TcpStream {
    /// Opens a connection to the first of the addresses that accepts one. May switch.
    ///
    /// # Errors
    ///
    /// If none does: the last one's error.
    pub fn connect<A: ToSocketAddrs>(addr: A) -> io::Result<TcpStream> {
        each_address(addr, |addr| TcpStream::connect_until(addr, NEVER))
    }

    /// Opens a connection, in no more than `timeout`. May switch.
    ///
    /// # Errors
    ///
    /// `TimedOut` if it takes longer. `InvalidInput` for a timeout of zero.
    pub fn connect_timeout(addr: &SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        if timeout.is_zero() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "cannot set a 0 duration timeout"));
        }
        TcpStream::connect_until(*addr, hub().deadline(timeout))
    }

    fn connect_until(addr: SocketAddr, deadline: Nanos) -> io::Result<TcpStream> {
        // mio starts the connection without waiting for it.
        let stream = TcpStream { io: Io::new(OwnedFd::from(mio::net::TcpStream::connect(addr)?).into()) };
        loop {
            if let Some(error) = stream.io.get().take_error()? {
                return Err(error);
            }
            // On loopback it is often there at once.
            match stream.io.get().peer_addr() {
                Ok(_) => return Ok(stream),
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                Err(error) => return Err(error),
            }
            stream.io.wait(Direction::Write, "connect of fd", deadline)?;
        }
    }

    /// See [`std::net::TcpStream::peer_addr`].
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.io.get().peer_addr()
    }

    /// See [`std::net::TcpStream::local_addr`].
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get().local_addr()
    }

    /// See [`std::net::TcpStream::shutdown`]. Wakes greenlets that wait for this socket.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.io.get().shutdown(how)
    }

    /// A second handle on the same connection. Each may have a greenlet that waits.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn try_clone(&self) -> io::Result<TcpStream> {
        Ok(TcpStream { io: self.io.duplicate(net::TcpStream::try_clone)? })
    }

    /// Limits how long one read may take. Of this handle, not of its clones.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.io.set_timeout(Direction::Read, timeout)
    }

    /// Limits how long one write, or one `write_all`, may take. Of this handle, not of its clones.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.io.set_timeout(Direction::Write, timeout)
    }

    /// The limit set by [`set_read_timeout`](Self::set_read_timeout).
    ///
    /// # Errors
    ///
    /// Never; the signature is std's.
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.io.timeout(Direction::Read))
    }

    /// The limit set by [`set_write_timeout`](Self::set_write_timeout).
    ///
    /// # Errors
    ///
    /// Never; the signature is std's.
    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.io.timeout(Direction::Write))
    }

    /// Reads without taking the data away. May switch.
    ///
    /// # Errors
    ///
    /// As `read`.
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.io.read_with("peek of fd", |stream| stream.peek(buf))
    }

    /// See [`std::net::TcpStream::set_nodelay`].
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.io.get().set_nodelay(nodelay)
    }

    /// See [`std::net::TcpStream::nodelay`].
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn nodelay(&self) -> io::Result<bool> {
        self.io.get().nodelay()
    }

    /// See [`std::net::TcpStream::set_ttl`].
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.io.get().set_ttl(ttl)
    }

    /// See [`std::net::TcpStream::ttl`].
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn ttl(&self) -> io::Result<u32> {
        self.io.get().ttl()
    }

    /// See [`std::net::TcpStream::take_error`].
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.io.get().take_error()
    }

    /// With `true`, operations that would wait give `WouldBlock` instead. Of this handle, not of its clones.
    ///
    /// # Errors
    ///
    /// Never; the signature is std's.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.io.set_nonblocking(nonblocking);
        Ok(())
    }
}

impl Read for &TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.io.read_stream("read of fd", buf.len(), |mut stream| stream.read(buf))
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        self.io.read_stream("read of fd", len, |mut stream| stream.read_vectored(bufs))
    }
}

impl Write for &TcpStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.io.write_stream("write of fd", buf.len(), None, |mut stream| stream.write(buf))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        self.io.write_stream("write of fd", len, None, |mut stream| stream.write_vectored(bufs))
    }

    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        self.io.write_all("write of fd", buf, |mut stream, buf| stream.write(buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self).read_vectored(bufs)
    }
}

impl Write for TcpStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self).write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(bufs)
    }

    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        (&*self).write_all(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.io.get().fmt(f)
    }
}

/// A TCP socket that accepts connections; [`std::net::TcpListener`], cooperative.
///
/// `StreamServer` does around it what a server needs.
pub struct TcpListener {
    io: Io<net::TcpListener>,
}

descriptor!(TcpListener, net::TcpListener);

impl TcpListener {
    /// Listens on the first of the addresses that can be had, with `SO_REUSEADDR`, as std does.
    ///
    /// # Errors
    ///
    /// If none can be had: the last one's error.
    pub fn bind<A: ToSocketAddrs>(addr: A) -> io::Result<TcpListener> {
        each_address(addr, |addr| {
            let listener = net::TcpListener::bind(addr)?;
            sys::fd::listen(listener.as_fd(), BACKLOG)?;
            sys::fd::set_nonblocking(listener.as_fd(), true);
            Ok(TcpListener { io: Io::new(listener) })
        })
    }

    /// See [`std::net::TcpListener::local_addr`].
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get().local_addr()
    }

    /// A second handle on the same socket.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn try_clone(&self) -> io::Result<TcpListener> {
        Ok(TcpListener { io: self.io.duplicate(net::TcpListener::try_clone)? })
    }

    /// Waits for a connection. May switch.
    ///
    /// # Errors
    ///
    /// As std's; `EMFILE` among them, which a server had better wait a moment after.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (fd, addr) =
            self.io.read_with("accept of fd", |listener| sys::fd::accept_tcp(listener.as_fd()))?;
        Ok((TcpStream { io: Io::new(fd.into()) }, addr))
    }

    /// Connections as they come, for ever.
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming { listener: self }
    }

    /// See [`std::net::TcpListener::set_ttl`].
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.io.get().set_ttl(ttl)
    }

    /// See [`std::net::TcpListener::ttl`].
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn ttl(&self) -> io::Result<u32> {
        self.io.get().ttl()
    }

    /// See [`std::net::TcpListener::take_error`].
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.io.get().take_error()
    }

    /// With `true`, `accept` gives `WouldBlock` instead of waiting. Of this handle, not of its clones.
    ///
    /// # Errors
    ///
    /// Never; the signature is std's.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.io.set_nonblocking(nonblocking);
        Ok(())
    }
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.io.get().fmt(f)
    }
}

/// What [`TcpListener::incoming`] gives.
#[derive(Debug)]
pub struct Incoming<'a> {
    listener: &'a TcpListener,
}

impl Iterator for Incoming<'_> {
    type Item = io::Result<TcpStream>;

    fn next(&mut self) -> Option<io::Result<TcpStream>> {
        Some(self.listener.accept().map(|(stream, _)| stream))
    }
}
