//! Sockets between processes of one machine.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net;
use std::path::Path;

use crate::descriptor::macros::{as_std, byte_reader, byte_writer, descriptor, shutdown, timeouts};
use crate::descriptor::{Direction, Io, persist};
use crate::sys;
use crate::sys::clock::NEVER;
use crate::task::Reason;

use std::os::unix::net::SocketAddr;

/// A connection within the machine; [`std::os::unix::net::UnixStream`], cooperative.
///
/// ```
/// use std::io::{Read, Write};
/// use switchgrass::net::UnixStream;
///
/// let (mut here, mut there) = UnixStream::pair()?;
/// let greenlet = switchgrass::spawn(move || there.write_all(b"from the other end"));
/// let mut text = String::new();
/// here.read_to_string(&mut text)?;
/// assert_eq!(text, "from the other end");
/// # greenlet.join().unwrap()?;
/// # std::io::Result::Ok(())
/// ```
pub struct UnixStream {
    io: Io<net::UnixStream>,
}

descriptor!(UnixStream, std::os::unix::net::UnixStream);
timeouts!(UnixStream);
shutdown!(UnixStream, std::os::unix::net::UnixStream);
byte_reader!(UnixStream, read_chunks);
byte_writer!(UnixStream);

impl UnixStream {
    /// Opens a connection to the socket with this path. May switch.
    ///
    /// While the listener's queue is full, which gives no event when it is so no more, this tries again every now and then.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn connect<P: AsRef<Path>>(path: P) -> io::Result<UnixStream> {
        UnixStream::connect_with(|socket| socket.connect(&path))
    }

    /// Opens a connection to the socket with this address; see [`connect`](Self::connect). May switch.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn connect_addr(socket_addr: &SocketAddr) -> io::Result<UnixStream> {
        UnixStream::connect_with(|socket| socket.connect_addr(socket_addr))
    }

    fn connect_with(connect: impl Fn(&net::UnixDatagram) -> io::Result<()>) -> io::Result<UnixStream> {
        // std connects streams while it makes them, blocking. Its `connect` for datagram sockets is nothing but the system call.
        let socket = net::UnixDatagram::from(sys::fd::unix_stream()?);
        let reason = Reason::of("connect of fd", socket.as_raw_fd() as u64);
        persist(reason, NEVER, || connect(&socket))?;
        Ok(UnixStream { io: Io::new(OwnedFd::from(socket).into()) })
    }

    /// Two sockets that are connected to each other.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn pair() -> io::Result<(UnixStream, UnixStream)> {
        let (one, other) = net::UnixStream::pair()?;
        let ours = |stream: net::UnixStream| {
            sys::fd::set_nonblocking(stream.as_fd(), true);
            UnixStream { io: Io::new(stream) }
        };
        Ok((ours(one), ours(other)))
    }
}

as_std! { UnixStream, std::os::unix::net::UnixStream:
    fn take_error() -> Option<io::Error>;
    fn local_addr() -> SocketAddr;
    fn peer_addr() -> SocketAddr;
}

/// A socket that accepts connections from within the machine; [`std::os::unix::net::UnixListener`], cooperative.
pub struct UnixListener {
    io: Io<net::UnixListener>,
}

descriptor!(UnixListener, std::os::unix::net::UnixListener);

impl UnixListener {
    /// Listens at a path, where it makes a file that stays when the listener is dropped.
    ///
    /// # Errors
    ///
    /// As std's; `AddrInUse` if there is a file.
    pub fn bind<P: AsRef<Path>>(path: P) -> io::Result<UnixListener> {
        net::UnixListener::bind(path).map(UnixListener::new)
    }

    /// Listens at an address.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn bind_addr(socket_addr: &SocketAddr) -> io::Result<UnixListener> {
        net::UnixListener::bind_addr(socket_addr).map(UnixListener::new)
    }

    fn new(listener: net::UnixListener) -> UnixListener {
        sys::fd::set_nonblocking(listener.as_fd(), true);
        UnixListener { io: Io::new(listener) }
    }

    /// Waits for a connection. May switch.
    ///
    /// # Errors
    ///
    /// As std's; `EMFILE` among them, which a server had better wait a moment after.
    pub fn accept(&self) -> io::Result<(UnixStream, SocketAddr)> {
        let (fd, addr) =
            self.io.read_with("accept of fd", |listener| sys::fd::accept_unix(listener.as_fd()))?;
        Ok((UnixStream { io: Io::new(fd.into()) }, addr))
    }

    /// Connections as they come, for ever.
    pub fn incoming(&self) -> UnixIncoming<'_> {
        UnixIncoming { listener: self }
    }
}

as_std! { UnixListener, std::os::unix::net::UnixListener:
    fn take_error() -> Option<io::Error>;
    fn local_addr() -> SocketAddr;
}

impl<'a> IntoIterator for &'a UnixListener {
    type Item = io::Result<UnixStream>;
    type IntoIter = UnixIncoming<'a>;

    fn into_iter(self) -> UnixIncoming<'a> {
        self.incoming()
    }
}

/// What [`UnixListener::incoming`] gives; std's `os::unix::net::Incoming`.
#[derive(Debug)]
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct UnixIncoming<'a> {
    listener: &'a UnixListener,
}

impl Iterator for UnixIncoming<'_> {
    type Item = io::Result<UnixStream>;

    fn next(&mut self) -> Option<io::Result<UnixStream>> {
        Some(self.listener.accept().map(|(stream, _)| stream))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::MAX, None)
    }
}

/// A datagram socket within the machine; [`std::os::unix::net::UnixDatagram`], cooperative.
///
/// Nothing is lost here, as it is with UDP: who sends to a socket whose queue is full waits.
pub struct UnixDatagram {
    io: Io<net::UnixDatagram>,
}

descriptor!(UnixDatagram, std::os::unix::net::UnixDatagram);
timeouts!(UnixDatagram);
shutdown!(UnixDatagram, std::os::unix::net::UnixDatagram);

impl UnixDatagram {
    /// Makes a socket at a path, where it makes a file that stays when the socket is dropped.
    ///
    /// # Errors
    ///
    /// As std's; `AddrInUse` if there is a file.
    pub fn bind<P: AsRef<Path>>(path: P) -> io::Result<UnixDatagram> {
        net::UnixDatagram::bind(path).map(UnixDatagram::new)
    }

    /// Makes a socket with an address.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn bind_addr(socket_addr: &SocketAddr) -> io::Result<UnixDatagram> {
        net::UnixDatagram::bind_addr(socket_addr).map(UnixDatagram::new)
    }

    /// Makes a socket without an address.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn unbound() -> io::Result<UnixDatagram> {
        net::UnixDatagram::unbound().map(UnixDatagram::new)
    }

    /// Two sockets that are connected to each other.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn pair() -> io::Result<(UnixDatagram, UnixDatagram)> {
        let (one, other) = net::UnixDatagram::pair()?;
        Ok((UnixDatagram::new(one), UnixDatagram::new(other)))
    }

    fn new(socket: net::UnixDatagram) -> UnixDatagram {
        sys::fd::set_nonblocking(socket.as_fd(), true);
        UnixDatagram { io: Io::new(socket) }
    }

    /// Sets the path that `send` sends to, and the only one that is received from.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn connect<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        self.io.get().connect(path)
    }

    /// Receives a datagram, and tells from whom. What does not fit into `buf` is lost. May switch.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.io.read_with("recv_from of fd", |socket| match socket.recv_from(buf) {
            // An address without a name, as std has it.
            Err(error) if is_end(socket, &error) => Ok((0, SocketAddr::from_pathname("")?)),
            result => result,
        })
    }

    /// Receives a datagram. What does not fit into `buf` is lost. May switch.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.io.read_with("recv of fd", |socket| match socket.recv(buf) {
            Err(error) if is_end(socket, &error) => Ok(0),
            result => result,
        })
    }

    /// Sends a datagram to the socket with this path. May switch.
    ///
    /// While that socket's queue is full, which gives no event when it is so no more, this tries again every now and then. On a
    /// connected socket, [`send`](Self::send) is told.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn send_to<P: AsRef<Path>>(&self, buf: &[u8], path: P) -> io::Result<usize> {
        self.send_with(|socket| socket.send_to(buf, &path))
    }

    /// Sends a datagram to the socket with this address; see [`send_to`](Self::send_to). May switch.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn send_to_addr(&self, buf: &[u8], socket_addr: &SocketAddr) -> io::Result<usize> {
        self.send_with(|socket| socket.send_to_addr(buf, socket_addr))
    }

    fn send_with(&self, send: impl Fn(&net::UnixDatagram) -> io::Result<usize>) -> io::Result<usize> {
        let socket = self.io.get();
        match send(socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.io.is_nonblocking() => {
                let reason = Reason::of("send_to of fd", socket.as_raw_fd() as u64);
                persist(reason, self.io.deadline(Direction::Write), || send(socket))
            }
            result => result,
        }
    }

    /// Sends a datagram to the socket that this one is connected to. May switch.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn send(&self, buf: &[u8]) -> io::Result<usize> {
        self.io.write_with("send of fd", |socket| socket.send(buf))
    }
}

/// Whether nothing is there because the socket was shut down for reading. A blocking call then gives 0; a non-blocking one, on a
/// datagram socket, does not tell.
fn is_end(socket: &net::UnixDatagram, error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock && sys::fd::is_read_closed(socket.as_fd())
}

as_std! { UnixDatagram, std::os::unix::net::UnixDatagram:
    fn take_error() -> Option<io::Error>;
    fn connect_addr(socket_addr: &SocketAddr) -> ();
    fn local_addr() -> SocketAddr;
    fn peer_addr() -> SocketAddr;
}
