//! TCP.

use std::io;
use std::net::{self, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::addr::{ToSocketAddrs, each_address};
use crate::descriptor::macros::{as_std, byte_reader, byte_writer, descriptor, shutdown, timeouts};
use crate::descriptor::{Direction, Io};
use crate::hub::hub;
use crate::sys;
use crate::sys::clock::{NEVER, Nanos};

/// How many connections may wait to be accepted; the kernel takes less if `net.core.somaxconn` is less. A server that
/// is busy for a moment should not turn clients away, whose next attempt comes after a second.
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

descriptor!(TcpStream, std::net::TcpStream);
timeouts!(TcpStream);
shutdown!(TcpStream, std::net::TcpStream);
byte_reader!(TcpStream, read_stream);
byte_writer!(TcpStream);

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

    /// Reads without taking the data away. May switch.
    ///
    /// # Errors
    ///
    /// As `read`.
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.io.read_with("peek of fd", |stream| stream.peek(buf))
    }
}

as_std! { TcpStream, std::net::TcpStream:
    fn take_error() -> Option<io::Error>;
    fn peer_addr() -> SocketAddr;
    fn local_addr() -> SocketAddr;
    fn set_nodelay(nodelay: bool) -> ();
    fn nodelay() -> bool;
    fn set_ttl(ttl: u32) -> ();
    fn ttl() -> u32;
}

/// A TCP socket that accepts connections; [`std::net::TcpListener`], cooperative.
///
/// [`StreamServer`](crate::server::StreamServer) does around it what a server needs.
pub struct TcpListener {
    io: Io<net::TcpListener>,
}

descriptor!(TcpListener, std::net::TcpListener);

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
}

as_std! { TcpListener, std::net::TcpListener:
    fn take_error() -> Option<io::Error>;
    fn local_addr() -> SocketAddr;
    fn set_ttl(ttl: u32) -> ();
    fn ttl() -> u32;
}

/// What [`TcpListener::incoming`] gives.
#[derive(Debug)]
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct Incoming<'a> {
    listener: &'a TcpListener,
}

impl Iterator for Incoming<'_> {
    type Item = io::Result<TcpStream>;

    fn next(&mut self) -> Option<io::Result<TcpStream>> {
        Some(self.listener.accept().map(|(stream, _)| stream))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::MAX, None)
    }
}
