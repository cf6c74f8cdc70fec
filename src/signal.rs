//! Signals, handled by greenlets.
//!
//! [`wait`] waits for one, [`Signals`] gives one after the other, and [`handle`] calls a function for each. Nothing of
//! the caller's runs in the signal handler proper, so everything is allowed: allocating, locking, waiting.
//!
//! - A signal is noticed when its thread's hub looks at I/O: at once if it waits, else as soon as the greenlet that
//!   runs waits or yields. A computation that does neither holds it up, as it does everything else.
//! - Signals of one kind that come before they were looked at count as one, as with POSIX.
//! - Several may handle the same signal, also on several threads: each gets it. So do handlers of other code that uses
//!   `signal-hook`, and a handler that was installed before.
//! - **When the last one of this module that handled a signal is gone, the default action is back** (for SIGINT: the
//!   process ends by it), if it was in force before the first one came. So while a server that was asked to stop by
//!   Ctrl-C still does so, a second Ctrl-C ends it at once. A signal that was ignored before (as SIGHUP under `nohup`)
//!   is then ignored again. (Real-time signals are ignored in either case.)
//!
//! ```
//! use std::time::Duration;
//! use switchgrass::net::TcpStream;
//! use switchgrass::server::StreamServer;
//! use switchgrass::signal::{self, SIGINT, SIGTERM};
//!
//! let server = StreamServer::bind("127.0.0.1:0", |stream, _| drop(stream))?;
//! server.start();
//! # let this = std::process::id().to_string();
//! # switchgrass::spawn(move || std::process::Command::new("kill").args(["-TERM", &this]).status());
//! signal::wait(&[SIGINT, SIGTERM])?;
//! server.stop(Duration::from_secs(10));
//! # std::io::Result::Ok(())
//! ```

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

pub use libc::{
    SIGABRT, SIGALRM, SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGIO, SIGKILL, SIGPIPE, SIGPROF, SIGQUIT, SIGSTOP,
    SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGUSR1, SIGUSR2, SIGVTALRM, SIGWINCH,
};
use signal_hook::flag;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use signal_hook::low_level::signal_name;

use crate::descriptor::{Direction, Io};
use crate::greenlet::Builder;
use crate::sys::clock::NEVER;
use crate::sys::signal::{Disposition, disposition, run_on_signal_stack};

/// Waits for one of these signals, and tells which has come. May switch.
///
/// Only signals that come while it waits count; see [`Signals`] for those that come in between. If it is called in
/// `main`, this is what keeps the process going: the hub waits with it, and there is no deadlock meanwhile.
///
/// # Errors
///
/// As [`Signals::new`] and [`Signals::wait`].
pub fn wait(signals: &[i32]) -> io::Result<i32> {
    Signals::new(signals)?.wait()
}

/// Signals, one after the other: from when this was made until it is dropped, none is missed.
///
/// As an iterator it waits for each one, and never ends.
///
/// ```no_run
/// use switchgrass::signal::{SIGHUP, SIGINT, SIGTERM, Signals};
///
/// for signal in Signals::new(&[SIGHUP, SIGINT, SIGTERM])? {
///     match signal? {
///         SIGHUP => println!("reading the configuration again"),
///         _ => break,
///     }
/// }
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug)]
pub struct Signals {
    /// Before `pipe`, so that nobody writes to a closed one.
    delivery: SignalDelivery<Arc<Pipe>, SignalOnly>,
    /// Where the signal handler proper leaves a byte.
    pipe: Arc<Pipe>,
    _claims: Vec<Claim>,
}

type Pipe = Io<UnixStream>;

impl Signals {
    /// Handles these signals from now on. Does not switch.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for what is not a signal or cannot be handled: SIGKILL and SIGSTOP, which the system keeps
    /// for itself, and SIGSEGV, SIGILL and SIGFPE, which are faults of the code that runs. Others as the system's,
    /// if it has no more descriptors.
    pub fn new(signals: &[i32]) -> io::Result<Signals> {
        let claims = signals.iter().map(|&signal| Claim::new(signal)).collect::<io::Result<Vec<_>>>()?;
        let (read, write) = UnixStream::pair()?;
        let pipe = Arc::new(Io::new(read));
        let delivery = SignalDelivery::with_pipe(Arc::clone(&pipe), write, SignalOnly, signals)?;
        claims.iter().try_for_each(Claim::settle)?;
        Ok(Signals { delivery, pipe, _claims: claims })
    }

    /// The next signal, if one has come. Does not switch.
    pub fn try_wait(&mut self) -> Option<i32> {
        self.delivery.pending().next()
    }

    /// Waits for the next signal. May switch.
    ///
    /// Killed or timed out while it waits, it loses none: the next call gives it.
    ///
    /// # Errors
    ///
    /// `WouldBlock` in a destructor that runs while its greenlet unwinds. Others as the system's, if this thread
    /// cannot watch any more descriptors.
    pub fn wait(&mut self) -> io::Result<i32> {
        loop {
            if let Some(signal) = self.try_wait() {
                return Ok(signal);
            }
            self.pipe.wait(Direction::Read, "signal by fd", NEVER)?;
        }
    }
}

impl Iterator for Signals {
    type Item = io::Result<i32>;

    fn next(&mut self) -> Option<io::Result<i32>> {
        Some(self.wait())
    }
}

/// Calls `handler` for each `signal`, in a new greenlet of this thread: so it may wait, and the next
/// signal's may begin before it is done.
///
/// The handler stays until the [`SignalHandler`] is dropped, or the thread ends. It does not keep the hub waiting: a
/// `main` that waits for what nothing but a signal could bring about is told of a deadlock, as it is without the
/// handler. [`wait`] is for that.
///
/// A panic of `handler` is reported as any panic is, by the panic hook, and ends that call only.
///
/// Does not switch.
///
/// # Errors
///
/// As [`Signals::new`].
///
/// # Examples
///
/// ```no_run
/// use switchgrass::signal::{self, SIGUSR1};
///
/// let _handler = signal::handle(SIGUSR1, || println!("somebody wants to know how I am"))?;
/// # std::io::Result::Ok(())
/// ```
#[doc(alias = "signal_handler")]
pub fn handle(signal: i32, handler: impl Fn() + 'static) -> io::Result<SignalHandler> {
    let signals = Signals::new(&[signal])?;
    let pipe = Arc::clone(&signals.pipe);
    let source = Source { signals: Rc::new(RefCell::new(Some(signals))), pipe };
    let dispatcher = Dispatcher { name: name(signal), source: source.clone(), handler: Rc::new(handler) };
    Builder::new().name(format!("{} dispatcher", dispatcher.name)).spawn(move || dispatcher.run())?;
    Ok(SignalHandler { signal, source: Some(source) })
}

/// A handler that [`handle`] has installed.
///
/// **Dropping it** takes the handler away, as [`cancel`](Self::cancel) does. Calls that have begun go on.
#[must_use = "dropping it takes the handler away; detach() leaves it"]
pub struct SignalHandler {
    signal: i32,
    /// `None`: it was detached.
    source: Option<Source>,
}

/// Where the signals of a handler come from; shared with its dispatcher.
#[derive(Clone)]
struct Source {
    /// `None` when the handler is to go.
    signals: Rc<RefCell<Option<Signals>>>,
    pipe: Arc<Pipe>,
}

impl SignalHandler {
    /// Takes the handler away. Calls that have begun go on. Does not switch.
    pub fn cancel(self) {}

    /// Leaves the handler installed for as long as this thread lives.
    pub fn detach(mut self) {
        self.source = None;
    }

    /// The signal that it handles.
    pub fn signal(&self) -> i32 {
        self.signal
    }
}

impl Drop for SignalHandler {
    fn drop(&mut self) {
        if let Some(source) = self.source.take() {
            drop(source.signals.take());
            // The dispatcher finds that it has nothing left to do.
            source.pipe.poke();
        }
    }
}

impl fmt::Debug for SignalHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalHandler").field("signal", &name(self.signal)).finish_non_exhaustive()
    }
}

/// What the greenlet has that spawns one for each signal.
struct Dispatcher<F> {
    name: String,
    source: Source,
    handler: Rc<F>,
}

impl<F: Fn() + 'static> Dispatcher<F> {
    fn run(self) {
        loop {
            loop {
                let signal = match &mut *self.source.signals.borrow_mut() {
                    None => return,
                    Some(signals) => signals.try_wait(),
                };
                if signal.is_none() {
                    break;
                }
                let handler = Rc::clone(&self.handler);
                let greenlet = Builder::new().name(format!("{} handler", self.name)).spawn(move || handler());
                drop(greenlet.expect("the default size of a stack is allowed"));
            }
            if let Err(error) = self.source.pipe.wait_in_background("signal by fd") {
                // Nobody else would tell.
                panic!("{} is no longer handled, since its pipe cannot be watched: {error}", self.name);
            }
        }
    }
}

fn name(signal: i32) -> String {
    signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

/// A reason for a signal's default action not to happen.
#[derive(Debug)]
struct Claim(i32);

/// What this process has of a signal that was handled here once. It stays: `signal-hook` never takes its own handler away.
struct Claimed {
    users: usize,
    /// Nobody handles it here, and nobody did before: do the default action. Null if somebody did.
    abandoned: Option<Arc<AtomicBool>>,
    /// The handler in force is `signal-hook`'s, with nobody's behind it.
    ours: bool,
}

static CLAIMS: Mutex<BTreeMap<i32, Claimed>> = Mutex::new(BTreeMap::new());

fn claims() -> MutexGuard<'static, BTreeMap<i32, Claimed>> {
    // Each change is one store.
    crate::sys::lock::lock(&CLAIMS)
}

impl Claim {
    fn new(signal: i32) -> io::Result<Claim> {
        let invalid = |why: &str| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("cannot handle {}: {why}", name(signal)))
        };
        if matches!(signal, libc::SIGKILL | libc::SIGSTOP) {
            return Err(invalid("the system keeps it for itself"));
        }
        if matches!(signal, libc::SIGSEGV | libc::SIGILL | libc::SIGFPE) {
            return Err(invalid("it is a fault of the code that runs, which could not go on"));
        }
        let mut claims = claims();
        let claimed = match claims.get_mut(&signal) {
            Some(claimed) => claimed,
            None => {
                let before = disposition(signal).map_err(|_| invalid("there is no such signal"))?;
                let mut abandoned = None;
                if before == Disposition::Default && signal_name(signal).is_some() {
                    let flag = Arc::new(AtomicBool::new(false));
                    flag::register_conditional_default(signal, Arc::clone(&flag))?;
                    abandoned = Some(flag);
                }
                let claimed = Claimed { users: 0, abandoned, ours: before != Disposition::Handled };
                claims.entry(signal).or_insert(claimed)
            }
        };
        claimed.users += 1;
        claimed.set_abandoned(false);
        Ok(Claim(signal))
    }

    /// To be called when `signal-hook` has its handler in place.
    fn settle(&self) -> io::Result<()> {
        match claims().get(&self.0) {
            Some(claimed) if claimed.ours => run_on_signal_stack(self.0),
            _ => Ok(()),
        }
    }
}

impl Claimed {
    fn set_abandoned(&self, abandoned: bool) {
        if let Some(flag) = &self.abandoned {
            flag.store(abandoned, Ordering::SeqCst);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(claimed) = claims().get_mut(&self.0) {
            claimed.users -= 1;
            claimed.set_abandoned(claimed.users == 0);
        }
    }
}
