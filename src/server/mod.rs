//! Servers: they accept connections, or receive datagrams, and call a handler for each in a greenlet of its own.
//!
//! One greenlet takes the work in (`Core::take_in` is its loop). It is stopped by killing it, which cannot
//! lose anything: it suspends only before the system call that takes a connection or a datagram, never between
//! that and the spawning of the handler. Each piece of work has an entry in `Core::live`, from its spawning
//! until its greenlet is about to end.

#![deny(unsafe_code)]

mod prefork;
mod source;
mod spread;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::SocketAddr as UnixAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crate::coro::unwind;
use crate::greenlet::{Builder, Greenlet, Handle, current, joinall, killall, park_timeout, yield_now};
use crate::hub::hub;
use crate::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket, UnixDatagram, UnixListener, UnixStream};
use crate::sys::clock::NEVER;
use crate::task::{Ended, Reason};
use crate::timeout::timeout;

pub use self::prefork::{Prefork, Preforked, Worker, WorkerEvent};
pub use self::source::{DatagramSocket, Listener, Source};
pub use self::spread::Spread;

/// gevent's number: enough that a busy listener costs one turn in a hundred, few enough that the others hardly notice.
const MAX_ACCEPT: usize = 100;
/// Datagrams cost their senders nothing, so there is a limit also where none was asked for.
const MAX_DATAGRAMS: usize = 1000;
/// How long the first pause is after an error; each one that follows is twice as long. As gevent's.
const MIN_DELAY: Duration = Duration::from_millis(10);
/// How long a pause gets at most: a server that has descriptors again is to answer within a second.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// A server for TCP connections: see [`Server`].
pub type StreamServer = Server<TcpListener>;
/// A server for connections to a Unix socket: see [`Server`].
pub type UnixStreamServer = Server<UnixListener>;
/// A server for UDP datagrams: see [`Server`].
pub type DatagramServer = Server<UdpSocket>;
/// A server for datagrams to a Unix socket: see [`Server`].
pub type UnixDatagramServer = Server<UnixDatagram>;

/// A server: calls `handler` for each connection, or for each datagram, in a greenlet of its own.
///
/// [`StreamServer`], [`UnixStreamServer`], [`DatagramServer`] and [`UnixDatagramServer`] are its four kinds.
///
/// The handler of a connection owns the stream, so the connection is closed when the handler returns or panics; unless
/// it has given the stream to somebody else, who then keeps the connection. The handler of a datagram gets the data,
/// who has sent it, and the socket to answer with. A panic ends its own connection (or datagram) and nothing else.
///
/// Clones are the same server. The greenlets of a thread share it; none of its methods needs more than `&self`.
///
/// If accepting fails (descriptors or memory have run out), the server tries again as soon as one of its connections has ended,
/// or else after 10 ms, then 20 ms, and so on up to a second. A connection that was given up before it could be accepted
/// is skipped. If the listener itself is broken, the server closes, and [`serve_forever`](Self::serve_forever) returns the error.
/// [`after_error`](Self::after_error) can change all that.
///
/// **Dropping** the last clone closes the listener soon, without waiting. Live connections go on, as do greenlets whose handle is
/// dropped. A handler that holds a clone of its own server keeps it from being dropped until [`stop`](Self::stop) or
/// [`close`](Self::close).
///
/// In a program built with `panic = "abort"`, `close`, `stop` and `stop_accepting` panic, since they work by killing greenlets.
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
///
/// ```
/// use switchgrass::net::UdpSocket;
/// use switchgrass::server::DatagramServer;
///
/// let server = DatagramServer::bind("127.0.0.1:0", |data, peer, socket| {
///     let _ = socket.send_to(&data.to_ascii_uppercase(), peer);
/// })?;
/// server.start();
///
/// let client = UdpSocket::bind("127.0.0.1:0")?;
/// client.send_to(b"shout", server.local_addr())?;
/// let mut answer = [0; 16];
/// let (len, _) = client.recv_from(&mut answer)?;
/// assert_eq!(&answer[..len], b"SHOUT");
/// # std::io::Result::Ok(())
/// ```
pub struct Server<S: Source> {
    owner: Rc<Owner<S>>,
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
        Server::with(listener.into(), move |(stream, peer)| handler(stream, peer), usize::MAX)
    }
}

impl UnixStreamServer {
    /// Listens at `path`, and has `handler` called for each connection once it is [started](Self::start).
    ///
    /// The file that this makes stays when the server is closed. Remove it then, or before the next `bind`.
    ///
    /// # Errors
    ///
    /// As [`UnixListener::bind`]; `AddrInUse` if there is a file.
    pub fn bind(
        path: impl AsRef<Path>,
        handler: impl Fn(UnixStream, UnixAddr) + 'static,
    ) -> io::Result<UnixStreamServer> {
        UnixStreamServer::new(UnixListener::bind(path)?, handler)
    }

    /// As [`bind`](Self::bind), with a listener that is there already: ours, std's, or an `OwnedFd`.
    ///
    /// # Errors
    ///
    /// If it is something else than a Unix socket.
    pub fn new(
        listener: impl Into<UnixListener>,
        handler: impl Fn(UnixStream, UnixAddr) + 'static,
    ) -> io::Result<UnixStreamServer> {
        Server::with(listener.into(), move |(stream, peer)| handler(stream, peer), usize::MAX)
    }
}

impl DatagramServer {
    /// Makes a UDP socket at `addr`, and has `handler` called for each datagram once it is [started](Self::start). May switch, if
    /// `addr` is a name that has to be looked up.
    ///
    /// Datagrams are never cut off.
    ///
    /// # Errors
    ///
    /// If none of the addresses can be had, `AddrInUse` among others.
    pub fn bind(
        addr: impl ToSocketAddrs,
        handler: impl Fn(Vec<u8>, SocketAddr, &UdpSocket) + 'static,
    ) -> io::Result<DatagramServer> {
        DatagramServer::new(UdpSocket::bind(addr)?, handler)
    }

    /// As [`bind`](Self::bind), with a socket that is there already: ours, std's, or an `OwnedFd`.
    ///
    /// # Errors
    ///
    /// If it is something else than a UDP socket.
    pub fn new(
        socket: impl Into<UdpSocket>,
        handler: impl Fn(Vec<u8>, SocketAddr, &UdpSocket) + 'static,
    ) -> io::Result<DatagramServer> {
        Server::with(socket.into(), move |(data, peer, socket)| handler(data, peer, &socket), MAX_DATAGRAMS)
    }
}

impl UnixDatagramServer {
    /// Makes a datagram socket at `path`, and has `handler` called for each datagram once it is [started](Self::start).
    ///
    /// The file that this makes stays when the server is closed. Remove it then, or before the next `bind`. Only who
    /// has bound an address of its own can be answered.
    ///
    /// A datagram of more than 1 MiB, which takes a system with unusual settings, is not handled but an error: see
    /// [`after_error`](Self::after_error).
    ///
    /// # Errors
    ///
    /// As [`UnixDatagram::bind`]; `AddrInUse` if there is a file.
    pub fn bind(
        path: impl AsRef<Path>,
        handler: impl Fn(Vec<u8>, UnixAddr, &UnixDatagram) + 'static,
    ) -> io::Result<UnixDatagramServer> {
        UnixDatagramServer::new(UnixDatagram::bind(path)?, handler)
    }

    /// As [`bind`](Self::bind), with a socket that is there already: ours, std's, or an `OwnedFd`.
    ///
    /// # Errors
    ///
    /// If it is something else than a Unix socket.
    pub fn new(
        socket: impl Into<UnixDatagram>,
        handler: impl Fn(Vec<u8>, UnixAddr, &UnixDatagram) + 'static,
    ) -> io::Result<UnixDatagramServer> {
        Server::with(socket.into(), move |(data, peer, socket)| handler(data, peer, &socket), MAX_DATAGRAMS)
    }
}

impl<L: Listener> Server<L> {
    /// Accepts nobody while there are `n` connections, and goes on when one has ended. The kernel
    /// queues those who come meanwhile.
    ///
    /// By default there is no limit but that of the descriptors.
    #[must_use]
    pub fn max_connections(self, n: usize) -> Self {
        self.core().limit.set(n);
        self
    }

    /// How many connections have a handler that has not returned yet.
    pub fn connections(&self) -> usize {
        self.core().live.borrow().len()
    }
}

impl<D: DatagramSocket> Server<D> {
    /// Receives nothing while `n` datagrams are being handled, and goes on when a handler has returned: 1000
    /// by default. The kernel queues what comes meanwhile; when its queue is full, UDP datagrams are lost, and
    /// who sends to a Unix socket waits.
    #[must_use]
    pub fn max_datagrams(self, n: usize) -> Self {
        self.core().limit.set(n);
        self
    }

    /// How many datagrams have a handler that has not returned yet.
    pub fn datagrams(&self) -> usize {
        self.core().live.borrow().len()
    }
}

impl<S: Source> Server<S> {
    fn with(source: S, handler: impl Fn(S::Work) + 'static, limit: usize) -> io::Result<Server<S>> {
        source.set_impatient(false)?;
        let core = Core {
            address: RefCell::new(source.address()?),
            limit: Cell::new(limit),
            max_accept: Cell::new(MAX_ACCEPT),
            greenlets: RefCell::default(),
            after_error: RefCell::new(Rc::new(AfterError::usual)),
            open: RefCell::new(Some(Open {
                source: Rc::new(source),
                replaced: Vec::new(),
                handler: Rc::new(handler),
            })),
            started: Cell::default(),
            shifts: RefCell::default(),
            on_duty: Cell::default(),
            next_shift: Cell::new(0),
            closed: Ended::new(),
            broken: Cell::default(),
            live: RefCell::default(),
            waiting: Cell::default(),
            accepted: Cell::new(0),
            errors: Cell::new(0),
        };
        Ok(Server { owner: Rc::new(Owner(Rc::new(core))) })
    }

    /// Lets the other greenlets have their turn after `n` connections were accepted (or datagrams
    /// received) at a stretch: 100 by default.
    ///
    /// Lower it if several processes share the listener, so that each gets its part.
    #[must_use]
    pub fn max_accept(self, n: usize) -> Self {
        self.core().max_accept.set(n.max(1));
        self
    }

    /// Spawns the greenlets of handlers by clones of `builder`, with its name and its stack size.
    #[must_use]
    pub fn greenlets(self, builder: Builder) -> Self {
        self.core().greenlets.replace(builder);
        self
    }

    /// Has `decide` called with each error of accepting (or receiving), and does as it says. [`AfterError::usual`]
    /// is what a server does otherwise.
    ///
    /// If `decide` panics, the server closes.
    ///
    /// ```
    /// use switchgrass::server::{AfterError, StreamServer};
    ///
    /// let server = StreamServer::bind("127.0.0.1:0", |_, _| {})?.after_error(|error| {
    ///     eprintln!("accept: {error}");
    ///     AfterError::usual(error)
    /// });
    /// # std::io::Result::Ok(())
    /// ```
    #[must_use]
    pub fn after_error(self, decide: impl Fn(&io::Error) -> AfterError + 'static) -> Self {
        self.core().after_error.replace(Rc::new(decide));
        self
    }

    /// Begins to accept connections, in a greenlet of its own. Does not switch.
    ///
    /// A server that has been started before, or closed, stays as it is.
    pub fn start(&self) {
        if !self.is_started() {
            self.start_accepting();
        }
    }

    /// Accepts connections (again): [starts](Self::start) the server, or undoes
    /// [`stop_accepting`](Self::stop_accepting). Does not switch.
    ///
    /// A server that accepts already, or is closed, stays as it is. In the child of a `fork`, where the greenlets of
    /// the parent are not, this has the server accept there, too.
    pub fn start_accepting(&self) {
        self.core().start_accepting();
    }

    /// Accepts nobody until [`start_accepting`](Self::start_accepting): the listener stays open, and the kernel queues
    /// those who connect. Live connections go on. May switch.
    pub fn stop_accepting(&self) {
        if let Some(acceptor) = self.core().off_duty() {
            acceptor.kill();
        }
    }

    /// Goes over to another listener, from which connections are accepted next, under the same limits and by the same handler: to
    /// another address, or to one with other options. May switch.
    ///
    /// Nobody is refused meanwhile. Those who have connected to the old listener before this call are accepted
    /// still, first of all; then it is closed. (Who connects to it in that very moment may see a reset. That
    /// cannot be if both listeners are handles on one socket.) A server that does not accept at the moment closes
    /// the old one when it does again.
    ///
    /// # Errors
    ///
    /// If `listener` has no address. `NotConnected` if the server is closed.
    pub fn set_listener(&self, listener: impl Into<S>) -> io::Result<()> {
        let core = self.core();
        let listener: S = listener.into();
        listener.set_impatient(false)?;
        let address = listener.address()?;
        let accepts = self.is_accepting();
        self.stop_accepting();
        {
            let mut open = core.open.borrow_mut();
            let Some(open) = &mut *open else {
                let text = "this server is closed: make a new one for the listener";
                return Err(io::Error::new(io::ErrorKind::NotConnected, text));
            };
            let old = std::mem::replace(&mut open.source, Rc::new(listener));
            open.replaced.push(old);
        }
        core.address.replace(address);
        if accepts {
            core.start_accepting();
        }
        Ok(())
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
        let core = self.core();
        core.wait_until_closed("serve_forever: the server to be closed");
        match core.broken.take() {
            Some(error) => Err(error),
            None => {
                joinall(core.others().iter().map(Rc::as_ref));
                Ok(())
            }
        }
    }

    /// Closes the listener: whoever tries to connect is refused from now on. Live connections go on. May switch.
    ///
    /// Those who have connected, but were not accepted yet, lose their connection. A server that was closed stays
    /// closed. A datagram socket closes with the last handler that may answer by it.
    pub fn close(&self) {
        let core = self.core();
        drop(core.open.take());
        if let Some(acceptor) = core.off_duty() {
            acceptor.kill_nowait();
        }
        core.settle();
        core.wait_until_closed("close: the listener to be closed");
    }

    /// [Closes](Self::close) the listener, gives live connections the time `grace` to end, kills those that are left, and
    /// waits until they have ended. May switch.
    ///
    /// May be called again while it waits: with a shorter time, to be done sooner. Called by a handler, it leaves the
    /// handler's own connection out. A handler that catches its kill is waited for nevertheless; greenlets that a
    /// handler has spawned, and does not wait for, are its own concern.
    pub fn stop(&self, grace: Duration) -> Stopped {
        // Before anybody else runs, so that those are counted who end while the listener closes.
        let live = self.core().others();
        self.close();
        let connections = || live.iter().map(Rc::as_ref);
        let _ = timeout(grace, || joinall(connections()));
        let killed = connections().filter(|connection| !connection.is_ready()).count();
        killall(connections());
        Stopped { finished: live.len() - killed, killed }
    }

    /// Where it listens, or has listened. With the real port, if it was bound to port 0.
    pub fn local_addr(&self) -> S::Address {
        self.core().address.borrow().clone()
    }

    /// Whether it has been started, whatever has become of it since.
    pub fn is_started(&self) -> bool {
        self.core().started.get()
    }

    /// Whether it accepts connections now, or would if it were not [full](Self::is_full).
    pub fn is_accepting(&self) -> bool {
        self.core().acceptor().is_some()
    }

    /// Whether it has been closed, be it by an error.
    pub fn is_closed(&self) -> bool {
        self.core().open.borrow().is_none()
    }

    /// Whether there are as many connections as [`max_connections`](Self::max_connections) allows (or datagrams as
    /// [`max_datagrams`](Self::max_datagrams) does).
    pub fn is_full(&self) -> bool {
        self.core().is_full()
    }

    /// What the server has done so far.
    pub fn statistics(&self) -> Statistics {
        let core = self.core();
        Statistics {
            accepted: core.accepted.get(),
            errors: core.errors.get(),
            live: core.live.borrow().len(),
        }
    }

    fn core(&self) -> &Rc<Core<S>> {
        &self.owner.0
    }
}

impl<S: Source> Clone for Server<S> {
    fn clone(&self) -> Self {
        Server { owner: Rc::clone(&self.owner) }
    }
}

impl<S: Source> fmt::Debug for Server<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.local_addr())
            .field("statistics", &self.statistics())
            .finish_non_exhaustive()
    }
}

/// What became of the connections that were live when [`Server::stop`] was called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// How many ended within the grace time.
    pub finished: usize,
    /// How many this call had to kill.
    pub killed: usize,
}

/// See [`Server::statistics`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// How many connections were accepted, or datagrams received.
    pub accepted: u64,
    /// How often accepting or receiving failed.
    pub errors: u64,
    /// How many connections or datagrams have a handler that has not returned yet.
    pub live: usize,
}

/// What a server does after an error of accepting a connection, or of receiving a datagram. See [`Server::after_error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterError {
    /// Goes on at once: that connection or datagram is gone, the next one may be good.
    Skip,
    /// Goes on when one of its connections has ended, or else after a pause, which gets longer with each error that
    /// follows. It would happen again at once.
    Pause,
    /// Closes, and [`Server::serve_forever`] returns the error: it will happen for ever.
    Close,
}

impl AfterError {
    /// What a server does unless it is told otherwise: it closes if the listener is none any more (`EBADF`, `EINVAL`,
    /// `ENOTSOCK`, `ESHUTDOWN`), skips what concerns one peer only (`ECONNABORTED`, `ECONNRESET`, `ECONNREFUSED`,
    /// `EPROTO`, a datagram that is too long), and pauses for all else, which is a lack of something (`EMFILE`,
    /// `ENFILE`, `ENOBUFS`, `ENOMEM`), or what a network or a security module may come up with.
    pub fn usual(error: &io::Error) -> AfterError {
        match error.raw_os_error() {
            Some(libc::ECONNABORTED | libc::ECONNRESET | libc::ECONNREFUSED | libc::EPROTO) => {
                AfterError::Skip
            }
            Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::ESHUTDOWN) => AfterError::Close,
            None if error.kind() == io::ErrorKind::InvalidData => AfterError::Skip,
            _ => AfterError::Pause,
        }
    }
}

type Handler<W> = dyn Fn(W);
type Policy = dyn Fn(&io::Error) -> AfterError;

/// What the clones of a [`Server`] share, and its greenlets do not: the accepting ends when it is dropped.
struct Owner<S: Source>(Rc<Core<S>>);

impl<S: Source> Drop for Owner<S> {
    fn drop(&mut self) {
        drop(self.0.open.take());
        // Where nothing can be killed, the server accepts as long as the thread lives.
        if let Some(acceptor) = self.0.off_duty().filter(|_| unwind::is_possible()) {
            acceptor.kill_nowait();
        }
    }
}

struct Core<S: Source> {
    address: RefCell<S::Address>,
    /// How many may be live.
    limit: Cell<usize>,
    /// At least 1.
    max_accept: Cell<usize>,
    greenlets: RefCell<Builder>,
    after_error: RefCell<Rc<Policy>>,
    /// What it serves; taken when it closes.
    open: RefCell<Option<Open<S>>>,
    started: Cell<bool>,
    /// The greenlets that take in, by the numbers of their shifts. More than one if the one before was killed
    /// by somebody who could not wait.
    shifts: RefCell<Vec<(u64, Rc<Greenlet<()>>)>>,
    /// Who is to take in; the others are about to end.
    on_duty: Cell<Option<u64>>,
    next_shift: Cell<u64>,
    /// It is closed, and nobody has the listener any more.
    closed: Ended,
    /// Why it is closed, if nobody has closed it.
    broken: Cell<Option<io::Error>>,
    /// The connections or datagrams, by their number in the order of coming.
    live: RefCell<BTreeMap<u64, Rc<Greenlet<()>>>>,
    /// The acceptor, while it waits for a handler to return.
    waiting: Cell<Option<Handle>>,
    accepted: Cell<u64>,
    errors: Cell<u64>,
}

struct Open<S: Source> {
    source: Rc<S>,
    /// What `set_listener` has put aside, oldest first: to be emptied before `source` has its turn.
    replaced: Vec<Rc<S>>,
    /// Given up when the server closes, and when the handlers that run have returned: it may hold a clone of the server.
    handler: Rc<Handler<S::Work>>,
}

impl<S: Source> Core<S> {
    fn start_accepting(self: &Rc<Self>) {
        if self.open.borrow().is_none() || self.acceptor().is_some() {
            return;
        }
        self.started.set(true);
        // In the child of a fork: those whose handlers run in the parent.
        self.live.borrow_mut().retain(|_, greenlet| !greenlet.is_ready());
        let number = self.next_shift.get();
        self.next_shift.set(number + 1);
        let shift = Shift { core: Rc::clone(self), number, error: None };
        let name = format!("accept on {:?}", self.address.borrow());
        let Ok(acceptor) = Builder::new().name(name).spawn(move || shift.work()) else {
            unreachable!("the default size of a stack is allowed");
        };
        self.shifts.borrow_mut().push((number, Rc::new(acceptor)));
        self.on_duty.set(Some(number));
    }

    /// The greenlet that takes in, unless a fork has left it behind.
    fn acceptor(&self) -> Option<Rc<Greenlet<()>>> {
        let own = self.on_duty.get()?;
        let shifts = self.shifts.borrow();
        let (_, acceptor) = shifts.iter().find(|(number, _)| *number == own)?;
        (!acceptor.is_ready()).then(|| Rc::clone(acceptor))
    }

    /// Nobody is to take in any more. Gives who was.
    fn off_duty(&self) -> Option<Rc<Greenlet<()>>> {
        let acceptor = self.acceptor();
        self.on_duty.set(None);
        acceptor
    }

    fn is_full(&self) -> bool {
        self.live.borrow().len() >= self.limit.get()
    }

    /// Tells those who wait for the server to be closed, if it is.
    fn settle(&self) {
        let all_have_ended = || self.shifts.borrow().iter().all(|(_, acceptor)| acceptor.is_ready());
        if self.open.borrow().is_none() && all_have_ended() {
            self.closed.set();
        }
    }

    fn wait_until_closed(&self, why: &'static str) {
        // Refused in a destructor that runs while its greenlet unwinds: then it closes soon.
        let _ = hub().wait_ended(&self.closed, false, Reason::new(why), NEVER);
    }

    /// Takes in from `source` until it is killed, or there is an error that says to close, which it gives. One that
    /// does not wait any more is emptied.
    fn take_in(self: &Rc<Self>, source: &Rc<S>, handler: &Rc<Handler<S::Work>>) -> io::Error {
        let mut buffer = vec![0; S::BUFFER];
        let mut delay = MIN_DELAY;
        loop {
            for _ in 0..self.max_accept.get() {
                while self.is_full() {
                    self.wait_for_an_end(Duration::MAX);
                }
                let error = match source.take(&mut buffer).and_then(|work| self.spawn(work, handler)) {
                    Ok(()) => {
                        delay = MIN_DELAY;
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return error,
                    Err(error) => error,
                };
                self.errors.set(self.errors.get() + 1);
                let decide = Rc::clone(&self.after_error.borrow());
                match decide(&error) {
                    AfterError::Skip => {}
                    AfterError::Pause => {
                        self.wait_for_an_end(delay);
                        delay = MAX_DELAY.min(delay * 2);
                    }
                    AfterError::Close => return error,
                }
            }
            yield_now();
        }
    }

    /// Waits until a handler returns, but no longer than `duration`.
    fn wait_for_an_end(&self, duration: Duration) {
        self.waiting.set(Some(current()));
        park_timeout(duration);
        self.waiting.take();
    }

    fn spawn(self: &Rc<Self>, work: S::Work, handler: &Rc<Handler<S::Work>>) -> io::Result<()> {
        let number = self.accepted.get();
        self.accepted.set(number + 1);
        let place = Place { core: Rc::clone(self), number };
        let job = Job { handler: Rc::clone(handler), work, _place: place };
        let greenlet = self.greenlets.borrow().clone().spawn(move || job.run())?;
        self.live.borrow_mut().insert(number, Rc::new(greenlet));
        Ok(())
    }

    /// The live ones, but not the one whose handler calls this.
    fn others(&self) -> Vec<Rc<Greenlet<()>>> {
        let own = current().id();
        self.live.borrow().values().filter(|greenlet| greenlet.id() != own).cloned().collect()
    }
}

/// The time for which one greenlet takes in.
struct Shift<S: Source> {
    core: Rc<Core<S>>,
    number: u64,
    /// Why it has ended, if nobody has ended it.
    error: Option<io::Error>,
}

impl<S: Source> Shift<S> {
    fn work(mut self) {
        let core = Rc::clone(&self.core);
        let Some(handler) = core.open.borrow().as_ref().map(|open| Rc::clone(&open.handler)) else { return };
        let oldest = || core.open.borrow().as_ref().and_then(|open| open.replaced.first().cloned());
        while let Some(old) = oldest() {
            // What is broken about it does not matter any more.
            if old.set_impatient(true).is_ok() {
                core.take_in(&old, &handler);
            }
            if let Some(open) = &mut *core.open.borrow_mut() {
                open.replaced.remove(0);
            }
        }
        let source = core.open.borrow().as_ref().map(|open| Rc::clone(&open.source));
        self.error = source.map(|source| core.take_in(&source, &handler));
    }
}

impl<S: Source> Drop for Shift<S> {
    fn drop(&mut self) {
        let core = &self.core;
        let own = {
            let mut shifts = core.shifts.borrow_mut();
            let position = shifts.iter().position(|(number, _)| *number == self.number);
            position.map(|position| shifts.swap_remove(position))
        };
        drop(own);
        // Who ends a shift has taken it off duty before.
        if core.on_duty.get() == Some(self.number) {
            core.on_duty.set(None);
            let error = self.error.take().unwrap_or_else(|| {
                io::Error::other("the greenlet that accepts is gone: `after_error` has panicked, or there was no stack for it")
            });
            core.broken.set(Some(error));
            drop(core.open.take());
        }
        core.settle();
    }
}

/// What the greenlet of a handler has.
struct Job<S: Source> {
    handler: Rc<Handler<S::Work>>,
    work: S::Work,
    /// Last: it is given up when the stream is closed, also if the greenlet is killed before its first run.
    _place: Place<S>,
}

impl<S: Source> Job<S> {
    fn run(self) {
        (self.handler)(self.work);
    }
}

/// The right to be in the list of live connections.
struct Place<S: Source> {
    core: Rc<Core<S>>,
    number: u64,
}

impl<S: Source> Drop for Place<S> {
    fn drop(&mut self) {
        let greenlet = self.core.live.borrow_mut().remove(&self.number);
        drop(greenlet);
        if let Some(acceptor) = self.core.waiting.take() {
            acceptor.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_pause_can_help_gets_one() {
        let usual = |errno| AfterError::usual(&io::Error::from_raw_os_error(errno));
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::ENETDOWN, libc::EPERM] {
            assert_eq!(usual(errno), AfterError::Pause, "{}", io::Error::from_raw_os_error(errno));
        }
        assert_eq!(usual(libc::ECONNABORTED), AfterError::Skip);
        for errno in [libc::EBADF, libc::EINVAL, libc::ENOTSOCK] {
            assert_eq!(usual(errno), AfterError::Close);
        }
    }
}
