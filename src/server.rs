//! A server for connections: accepts them, and calls a handler for each in a greenlet of its own.
//!
//! One greenlet accepts (`Server::accept` is its loop). It is stopped by killing it, which cannot lose a connection:
//! it suspends only before the system call that accepts one, never between that and the spawning of its handler.
//! Each connection has an entry in `Server::live`, from its spawning until its greenlet is about to end.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::coro::unwind;
use crate::greenlet::{Builder, Greenlet, Handle, current, joinall, killall, park_timeout, yield_now};
use crate::net::{TcpListener, TcpStream, ToSocketAddrs};
use crate::timeout::timeout;

/// gevent's number: enough that a busy listener costs one turn in a hundred, few enough that the others hardly notice.
const MAX_ACCEPT: usize = 100;
/// How long the first pause is after an error; each one that follows is twice as long. As gevent's.
const MIN_DELAY: Duration = Duration::from_millis(10);
/// How long a pause gets at most: a server that has descriptors again is to answer within a second.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// A TCP server: calls `handler` for each connection, in a greenlet of its own.
///
/// The handler owns the stream, so the connection is closed when the handler returns or panics; unless it has given the
/// stream to somebody else, who then keeps the connection. A panic ends its own connection and nothing else.
///
/// Clones are the same server. The greenlets of a thread share it; none of its methods needs more than `&self`.
///
/// If accepting fails (descriptors or memory have run out), the server tries again as soon as one of its connections has ended,
/// or else after 10 ms, then 20 ms, and so on up to a second. A connection that was given up before it could be accepted
/// is skipped. If the listener itself is broken, the server closes, and [`serve_forever`](Self::serve_forever) returns the error.
///
/// **Dropping** the last clone closes the listener soon, without waiting. Live connections go on, as do greenlets whose handle is
/// dropped. A handler that holds a clone of its own server keeps it from being dropped until [`stop`](Self::stop) or
/// [`close`](Self::close).
///
/// In a program built with `panic = "abort"`, `close` and `stop` panic, since they work by killing greenlets.
///
/// # Examples
///
/// ```
/// use std::io::{Read, Write};
/// use std::time::Duration;
/// use switchgrass::net::TcpStream;
/// use switchgrass::server::StreamServer;
///
/// let server = StreamServer::bind("127.0.0.1:0", |mut stream, peer| {
///     let _ = write!(stream, "hello, {}", peer.ip());
/// })?
/// .max_connections(1000);
/// server.start();
///
/// let mut greeting = String::new();
/// TcpStream::connect(server.local_addr())?.read_to_string(&mut greeting)?;
/// assert_eq!(greeting, "hello, 127.0.0.1");
///
/// server.stop(Duration::from_secs(1));
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone)]
pub struct StreamServer {
    owner: Rc<Owner>,
}

impl StreamServer {
    /// Listens on `addr` (see [`TcpListener::bind`]), and has `handler` called for each connection once it is
    /// [started](Self::start). May switch, if `addr` is a name that has to be looked up.
    ///
    /// # Errors
    ///
    /// If none of the addresses can be had, `AddrInUse` among others.
    pub fn bind(
        addr: impl ToSocketAddrs,
        handler: impl Fn(TcpStream, SocketAddr) + 'static,
    ) -> io::Result<StreamServer> {
        StreamServer::new(TcpListener::bind(addr)?, handler)
    }

    /// As [`bind`](Self::bind), with a listener that is there already: ours, std's, or an `OwnedFd`.
    ///
    /// # Errors
    ///
    /// If it has no address, since it is something else than a TCP socket.
    pub fn new(
        listener: impl Into<TcpListener>,
        handler: impl Fn(TcpStream, SocketAddr) + 'static,
    ) -> io::Result<StreamServer> {
        let listener = listener.into();
        listener.set_nonblocking(false)?;
        let server = Server {
            address: listener.local_addr()?,
            max_connections: Cell::new(usize::MAX),
            max_accept: Cell::new(MAX_ACCEPT),
            greenlets: RefCell::default(),
            unstarted: RefCell::new(Some((listener, Rc::new(handler)))),
            acceptor: RefCell::default(),
            broken: Cell::default(),
            live: RefCell::default(),
            waiting: Cell::default(),
            accepted: Cell::new(0),
            accept_errors: Cell::new(0),
        };
        Ok(StreamServer { owner: Rc::new(Owner(Rc::new(server))) })
    }

    /// Accepts nobody while there are `n` connections, and goes on when one has ended. The kernel queues those who come meanwhile.
    ///
    /// By default there is no limit but that of the descriptors.
    #[must_use]
    pub fn max_connections(self, n: usize) -> Self {
        self.server().max_connections.set(n);
        self
    }

    /// Lets the other greenlets have their turn after `n` connections were accepted at a stretch: 100 by default.
    ///
    /// Lower it if several processes share the listener, so that each gets its part.
    #[must_use]
    pub fn max_accept(self, n: usize) -> Self {
        self.server().max_accept.set(n.max(1));
        self
    }

    /// Spawns the greenlets of connections by clones of `builder`, with its name and its stack size.
    #[must_use]
    pub fn greenlets(self, builder: Builder) -> Self {
        self.server().greenlets.replace(builder);
        self
    }

    /// Begins to accept connections, in a greenlet of its own. Does not switch.
    ///
    /// A server that has been started before, or closed, stays as it is.
    pub fn start(&self) {
        let server = self.server();
        let Some((listener, handler)) = server.unstarted.take() else { return };
        let name = format!("accept on {}", server.address);
        let accept = {
            let server = Rc::clone(server);
            move || {
                if let Err(error) = server.accept(&listener, &handler) {
                    server.broken.set(Some(error));
                }
            }
        };
        let Ok(acceptor) = Builder::new().name(name).spawn(accept) else {
            unreachable!("the default size of a stack is allowed");
        };
        server.acceptor.replace(Some(Rc::new(acceptor)));
    }

    /// Starts the server, unless that was done before, and waits until it was closed or stopped and its last connection
    /// has ended. May switch.
    ///
    /// So `main` may return after it, and no connection is cut short that [`stop`](Self::stop) has given time to. Called by a
    /// handler, this does not wait for its own connection.
    ///
    /// # Errors
    ///
    /// The error that broke the listener, at once and not more than once. Live connections go on.
    pub fn serve_forever(&self) -> io::Result<()> {
        self.start();
        let server = self.server();
        let acceptor = server.acceptor.borrow().clone();
        joinall(acceptor.iter().map(Rc::as_ref));
        match server.broken.take() {
            Some(error) => Err(error),
            None => {
                joinall(server.others().iter().map(Rc::as_ref));
                Ok(())
            }
        }
    }

    /// Closes the listener: whoever tries to connect is refused from now on. Live connections go on. May switch.
    ///
    /// Those who have connected, but were not accepted yet, lose their connection. A server that was closed stays closed.
    pub fn close(&self) {
        let server = self.server();
        server.unstarted.take();
        let acceptor = server.acceptor.borrow().clone();
        if let Some(acceptor) = acceptor {
            acceptor.kill();
        }
    }

    /// [Closes](Self::close) the listener, gives live connections the time `grace` to end, kills those that are left, and
    /// waits until they have ended. May switch.
    ///
    /// May be called again while it waits: with a shorter time, to be done sooner. Called by a handler, it leaves the handler's own
    /// connection out. A handler that catches its kill is waited for nevertheless; greenlets that a handler has spawned, and
    /// does not wait for, are its own concern.
    pub fn stop(&self, grace: Duration) -> Stopped {
        // Before anybody else runs, so that those are counted who end while the listener closes.
        let live = self.server().others();
        self.close();
        let connections = || live.iter().map(Rc::as_ref);
        let _ = timeout(grace, || joinall(connections()));
        let killed = connections().filter(|connection| !connection.is_ready()).count();
        killall(connections());
        Stopped { finished: live.len() - killed, killed }
    }

    /// Where it listens, or has listened. With the real port, if it was bound to port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.server().address
    }

    /// How many connections have a handler that has not returned yet.
    pub fn connections(&self) -> usize {
        self.server().live.borrow().len()
    }

    /// What the server has done so far.
    pub fn statistics(&self) -> Statistics {
        let server = self.server();
        Statistics {
            accepted: server.accepted.get(),
            accept_errors: server.accept_errors.get(),
            connections: self.connections(),
        }
    }

    fn server(&self) -> &Rc<Server> {
        &self.owner.0
    }
}

impl fmt::Debug for StreamServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamServer")
            .field("address", &self.local_addr())
            .field("statistics", &self.statistics())
            .finish_non_exhaustive()
    }
}

/// What became of the connections that were live when [`StreamServer::stop`] was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// How many ended within the grace time.
    pub finished: usize,
    /// How many this call had to kill.
    pub killed: usize,
}

/// See [`StreamServer::statistics`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// How many connections were accepted.
    pub accepted: u64,
    /// How often accepting failed.
    pub accept_errors: u64,
    /// How many connections are live.
    pub connections: usize,
}

type Handler = dyn Fn(TcpStream, SocketAddr);

/// What the clones of a [`StreamServer`] share, and its greenlets do not: the accepting ends when it is dropped.
struct Owner(Rc<Server>);

impl Drop for Owner {
    fn drop(&mut self) {
        // Where nothing can be killed, the server accepts as long as the thread lives.
        if let Some(acceptor) = self.0.acceptor.take().filter(|_| unwind::is_possible()) {
            acceptor.kill_nowait();
        }
    }
}

struct Server {
    address: SocketAddr,
    max_connections: Cell<usize>,
    /// At least 1.
    max_accept: Cell<usize>,
    greenlets: RefCell<Builder>,
    /// Until `start` or `close` takes them. From then on they belong to the acceptor: the listener is closed when that ends, and the
    /// handler, which may hold a clone of the server, is dropped when the connections have ended, too.
    unstarted: RefCell<Option<(TcpListener, Rc<Handler>)>>,
    /// Set by `start`.
    acceptor: RefCell<Option<Rc<Greenlet<()>>>>,
    /// Why the acceptor has ended, if nobody has ended it.
    broken: Cell<Option<io::Error>>,
    /// The connections, by their number in the order of accepting.
    live: RefCell<BTreeMap<u64, Rc<Greenlet<()>>>>,
    /// The acceptor, while it waits for a connection to end.
    waiting: Cell<Option<Handle>>,
    accepted: Cell<u64>,
    accept_errors: Cell<u64>,
}

impl Server {
    /// Accepts until it is killed, or the listener turns out to be broken.
    fn accept(self: &Rc<Self>, listener: &TcpListener, handler: &Rc<Handler>) -> io::Result<()> {
        let mut delay = MIN_DELAY;
        loop {
            for _ in 0..self.max_accept.get() {
                while self.live.borrow().len() >= self.max_connections.get() {
                    self.wait_for_an_end(Duration::MAX);
                }
                match listener.accept() {
                    Ok((stream, peer)) => {
                        self.spawn(stream, peer, handler)?;
                        delay = MIN_DELAY;
                    }
                    Err(error) => {
                        self.accept_errors.set(self.accept_errors.get() + 1);
                        match verdict(&error) {
                            Verdict::Skip => {}
                            Verdict::Pause => {
                                self.wait_for_an_end(delay);
                                delay = MAX_DELAY.min(delay * 2);
                            }
                            Verdict::Broken => return Err(error),
                        }
                    }
                }
            }
            yield_now();
        }
    }

    /// Waits until a connection ends, but no longer than `duration`.
    fn wait_for_an_end(&self, duration: Duration) {
        self.waiting.set(Some(current()));
        park_timeout(duration);
        self.waiting.take();
    }

    fn spawn(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, handler: &Rc<Handler>) -> io::Result<()> {
        let number = self.accepted.get();
        self.accepted.set(number + 1);
        let place = Place { server: Rc::clone(self), number };
        let connection = Connection { handler: Rc::clone(handler), stream, peer, _place: place };
        let greenlet = self.greenlets.borrow().clone().spawn(move || connection.run())?;
        self.live.borrow_mut().insert(number, Rc::new(greenlet));
        Ok(())
    }

    /// The connections, but not the one whose handler calls this.
    fn others(&self) -> Vec<Rc<Greenlet<()>>> {
        let own = current().id();
        self.live.borrow().values().filter(|greenlet| greenlet.id() != own).cloned().collect()
    }
}

/// What the greenlet of a connection has.
struct Connection {
    handler: Rc<Handler>,
    stream: TcpStream,
    peer: SocketAddr,
    /// Last: it is given up when the stream is closed, also if the greenlet is killed before its first run.
    _place: Place,
}

impl Connection {
    fn run(self) {
        (self.handler)(self.stream, self.peer);
    }
}

/// The right to be in the list of live connections.
struct Place {
    server: Rc<Server>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let greenlet = self.server.live.borrow_mut().remove(&self.number);
        drop(greenlet);
        if let Some(acceptor) = self.server.waiting.take() {
            acceptor.unpark();
        }
    }
}

/// What an error of `accept` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// That connection is gone; the next one may be good.
    Skip,
    /// It would happen again at once.
    Pause,
    /// It will happen for ever.
    Broken,
}

fn verdict(error: &io::Error) -> Verdict {
    match error.raw_os_error() {
        Some(libc::ECONNABORTED | libc::ECONNRESET | libc::EPROTO) => Verdict::Skip,
        Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK) => Verdict::Broken,
        // EMFILE, ENFILE, ENOBUFS, ENOMEM, and whatever a network or a security module may come up with.
        _ => Verdict::Pause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_pause_can_help_gets_one() {
        let verdict = |errno| verdict(&io::Error::from_raw_os_error(errno));
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::ENETDOWN, libc::EPERM] {
            assert_eq!(verdict(errno), Verdict::Pause, "{}", io::Error::from_raw_os_error(errno));
        }
        assert_eq!(verdict(libc::ECONNABORTED), Verdict::Skip);
        assert_eq!(verdict(libc::EBADF), Verdict::Broken);
        assert_eq!(verdict(libc::EINVAL), Verdict::Broken);
    }
}
