//! A console to look into a running program: for `nc`, `socat` and scripts.
//!
//! ```
//! use std::io::{BufRead, BufReader, Write};
//! use switchgrass::backdoor::Backdoor;
//! use switchgrass::net::UnixStream;
//!
//! let path = std::env::temp_dir().join(format!("backdoor-doc-{}", std::process::id()));
//! let backdoor = Backdoor::bind(&path)?; // serves from now on, until it is dropped
//!
//! // In a shell: echo ps | nc -U PATH
//! let client = UnixStream::connect(&path)?;
//! writeln!(&client, "ps")?;
//! let answer: Vec<String> = BufReader::new(&client).lines().map_while(Result::ok).take_while(|line| line != ".").collect();
//! assert!(answer[0].starts_with("#ID\tHUB\tKIND\tSTATE\t"));
//! let main: Vec<&str> = answer[1].split('\t').collect();
//! assert_eq!((main[2], main[3]), ("main", "waits"));
//! # drop(backdoor);
//! # assert!(!path.exists());
//! # std::io::Result::Ok(())
//! ```
//!
//! # The protocol
//!
//! A client sends a command in a line, and gets an answer: some lines, or none, and then **a line with a single
//! dot**. There is no greeting and no prompt. (Where a line of an answer begins with a dot, another dot stands
//! before it, as in SMTP.) An answer that begins with `error: ` says why nothing was done. Commands that are sent
//! together are answered in order.
//!
//! | command | answer |
//! |---|---|
//! | `help` | the commands, each with what it does |
//! | `ps [N]` | a line per greenlet, coroutine, generator and thread's own context; of each hub the `N` oldest (1000) |
//! | `tree` | the same as a tree of who spawned whom, for people: a [`dump`](crate::dump) without backtraces |
//! | `bt [ID]` | the one with that id, and its backtrace; without `ID`: the whole [`dump`](crate::dump) |
//! | `stats` | the [numbers](crate::stats) of each hub, one in a line |
//! | `kill ID` | kills a greenlet, of whichever hub, as [`kill`](crate::Greenlet::kill) does: `killed ID` if it has ended within a second, `told ID` if it is still to come to a wait |
//! | `trace start [N]` | starts a [recording](crate::trace), of `N` events per hub (100,000) |
//! | `trace stop [FILE]` | ends it. The answer is the trace as Chrome's JSON; with `FILE` (the rest of the line, a file that is not there yet) it is written there, and the answer is its size and its name |
//! | `quit` | none: the connection is closed |
//!
//! The lines of `ps` and `stats` have columns, with a tab between two of them; `-` stands for nothing. Tabs, line ends
//! and other control characters in a name are written as in Rust (`\t`). A line that begins with `#` is for people: the
//! heading, and what was left out.
//!
//! - `ps`: the id; the number of the hub; `main`, `greenlet`, `coroutine` or `generator`; `runs`, `ready`, `waits`,
//!   `switched` (it waits for somebody to switch to it) or `unstarted`; for how many seconds it has waited; the id of
//!   who spawned it; its name; where it was spawned; what it waits for.
//! - `stats`: the number of the hub; the name of the number; the number. Names that end in `_ns` are of times, in nanoseconds.
//!
//! # Who may use it
//!
//! Whoever can connect sees what the program does, can kill its greenlets and make it write a file. So a Unix
//! socket belongs to its owner alone (mode 0600, from the beginning); to let others in, change the mode of the file
//! afterwards. **A TCP port has no owner**: each user of the machine can connect to it. Addresses of other
//! machines' networks are refused; from there, use `ssh` to come in. A line that a web browser could have been made
//! to send closes the connection.
//!
//! # What it costs the program
//!
//! Consoles are greenlets of the thread that has made the backdoor, so they answer when its hub does; make it on a
//! thread of its own ([`Backdoor::serve_forever`]), to look at one that is held up. A hub that does not come back to
//! its loop within a second is told of as busy. What takes long is done on the pool of threads. A client that does not
//! read what it is sent for 10 seconds is left; 32 are served at once, and others wait. A line may have 4096 bytes.
//!
//! While there is a backdoor, nothing is reported as a [deadlock](crate#what-to-know): somebody may come
//! and kill whoever is waited for.

#![forbid(unsafe_code)]

mod commands;
mod console;
mod socket;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use self::socket::SocketFile;
use crate::coro::unwind;
use crate::greenlet::{Builder, Handle, current};
use crate::net::{TcpListener, ToSocketAddrs};
use crate::server::{StreamServer, UnixStreamServer};

/// How many consoles there are at once.
const MAX_CONSOLES: usize = 32;
/// How long a client may take to read a part of an answer.
const WRITE_TIMEOUT: Option<Duration> = Some(Duration::from_secs(10));

/// A console on a socket; see the [module](self).
///
/// **Dropping it** is [`stop`](Self::stop) without waiting: nobody can connect any more, the file is
/// gone, and the consoles end soon.
pub struct Backdoor {
    server: Server,
    consoles: Rc<Consoles>,
    /// `None`: a TCP socket, or stopped.
    file: RefCell<Option<SocketFile>>,
}

enum Server {
    Unix(UnixStreamServer, PathBuf),
    Tcp(StreamServer),
}

impl Backdoor {
    /// Serves at a Unix socket with this path, which only the owner of the process may connect to. May switch.
    ///
    /// The file is made with mode 0600, and is never more open. If there is a socket that nobody listens at, left by a
    /// process that had no time to remove it, it is replaced. Two processes that do this at the same time do not remove
    /// each other's: one of them gets the error. For that, the directory is locked (`flock`) for a moment.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if somebody listens there, `AlreadyExists` if there is a file of another kind, `InvalidInput` if the
    /// path is longer than that of a Unix socket can be. Others as the system's.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Backdoor> {
        let (listener, file) = socket::listen(path.as_ref())?;
        let consoles = Rc::new(Consoles::default());
        let shared = Rc::clone(&consoles);
        let server = UnixStreamServer::new(listener, move |stream, _| {
            if stream.set_write_timeout(WRITE_TIMEOUT).is_ok() {
                shared.serve(|| console::converse(&stream));
            }
        })?
        .max_connections(MAX_CONSOLES)
        .greenlets(greenlets());
        server.start();
        let server = Server::Unix(server, file.path().to_owned());
        Ok(Backdoor { server, consoles, file: RefCell::new(Some(file)) })
    }

    /// Serves at a TCP address of this machine's loopback, which **every user of the machine** may connect to. May
    /// switch, if `addr` is a name that has to be looked up.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if an address is not of the loopback (`127.0.0.1`, `[::1]`, `localhost`). If it cannot be
    /// had: `AddrInUse`, among others.
    pub fn bind_tcp(addr: impl ToSocketAddrs) -> io::Result<Backdoor> {
        let addresses: Vec<SocketAddr> = addr.to_socket_addrs()?.collect();
        if let Some(other) = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback()) {
            let text = format!(
                "a backdoor is not opened at {other}, where other machines could come in: use 127.0.0.1 or [::1], and ssh -L from elsewhere"
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        let listener = TcpListener::bind(&addresses[..])?;
        let consoles = Rc::new(Consoles::default());
        let shared = Rc::clone(&consoles);
        let server = StreamServer::new(listener, move |stream, _| {
            if stream.set_write_timeout(WRITE_TIMEOUT).is_ok() {
                shared.serve(|| console::converse(&stream));
            }
        })?
        .max_connections(MAX_CONSOLES)
        .greenlets(greenlets());
        server.start();
        Ok(Backdoor { server: Server::Tcp(server), consoles, file: RefCell::default() })
    }

    /// The path of the socket, absolute; `None` for TCP.
    pub fn path(&self) -> Option<&Path> {
        match &self.server {
            Server::Unix(_, path) => Some(path),
            Server::Tcp(_) => None,
        }
    }

    /// The TCP address, with the real port if it was 0; `None` for a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.server {
            Server::Unix(..) => None,
            Server::Tcp(server) => Some(server.local_addr()),
        }
    }

    /// How many clients are connected, and served.
    pub fn connections(&self) -> usize {
        match &self.server {
            Server::Unix(server, _) => server.connections(),
            Server::Tcp(server) => server.connections(),
        }
    }

    /// Removes the file, closes the socket, ends the consoles, and waits until they have ended. May switch.
    ///
    /// A recording that was started here goes on.
    ///
    /// # Panics
    ///
    /// In a program built with `panic = "abort"`, since it works by killing greenlets.
    pub fn stop(&self) {
        self.consoles.stopped.set(true);
        // First, so that no one sees the file of a socket that nobody listens at.
        drop(self.file.take());
        match &self.server {
            Server::Unix(server, _) => server.stop(Duration::ZERO),
            Server::Tcp(server) => server.stop(Duration::ZERO),
        };
    }

    /// Waits until it is [stopped](Self::stop): for a thread that does nothing else. May switch.
    ///
    /// ```no_run
    /// use switchgrass::backdoor::Backdoor;
    ///
    /// // Answers also while another thread's hub is held up.
    /// std::thread::spawn(|| Backdoor::bind("/run/my-server/backdoor")?.serve_forever());
    /// ```
    ///
    /// # Errors
    ///
    /// The error that broke the listener.
    pub fn serve_forever(&self) -> io::Result<()> {
        match &self.server {
            Server::Unix(server, _) => server.serve_forever(),
            Server::Tcp(server) => server.serve_forever(),
        }
    }
}

impl Drop for Backdoor {
    fn drop(&mut self) {
        // Before the server, which then closes its listener.
        drop(self.file.take());
        self.consoles.end();
    }
}

impl fmt::Debug for Backdoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Backdoor");
        match &self.server {
            Server::Unix(_, path) => out.field("path", path),
            Server::Tcp(server) => out.field("address", &server.local_addr()),
        };
        out.field("connections", &self.connections()).finish()
    }
}

fn greenlets() -> Builder {
    Builder::new().name("backdoor console")
}

/// The greenlets that talk with clients.
#[derive(Default)]
struct Consoles {
    live: RefCell<BTreeMap<u64, Handle>>,
    stopped: Cell<bool>,
}

impl Consoles {
    /// Serves a client, unless it has come too late.
    fn serve(&self, converse: impl FnOnce() -> io::Result<()>) {
        if self.stopped.get() {
            return;
        }
        let console = current();
        let _listed = Listed { consoles: self, id: console.id() };
        self.live.borrow_mut().insert(console.id(), console);
        // A client that has gone, or does not read, is no concern of the program's.
        let _ = converse();
    }

    /// Tells all to end.
    fn end(&self) {
        self.stopped.set(true);
        // Where nothing can be killed, they go on until their clients leave.
        if unwind::is_possible() {
            self.live.borrow().values().for_each(Handle::kill_nowait);
        }
    }
}

/// While it exists, the console is in the list.
struct Listed<'a> {
    consoles: &'a Consoles,
    id: u64,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.consoles.live.borrow_mut().remove(&self.id);
    }
}
