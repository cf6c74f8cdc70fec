//! Finds greenlets that hold up all others of their thread.
//!
//! A greenlet that computes for long, or makes a call that blocks the OS thread, keeps its hub from coming back to its
//! loop: no other greenlet of the thread runs, no socket is looked at, no timer fires. A monitor is an OS thread that
//! notices this, for all hubs of the process, and tells which greenlet it is, and where it is right now:
//!
//! ```no_run
//! # fn crunch() {}
//! let _monitor = switchgrass::monitor::start()?;
//! switchgrass::spawn(crunch).join().unwrap();
//! # std::io::Result::Ok(())
//! ```
//!
//! ```text
//! switchgrass: greenlet 2 has held up its hub (thread 'main' (ThreadId(1))) for 100 ms or longer; spawned at src/main.rs:5:1; it is here:
//!       app::crunch::inner_loop (src/main.rs:17)
//!       app::crunch (src/main.rs:12)
//! ```
//!
//! It says nothing of a hub that waits for events; of an OS thread that has no greenlets, like those of the pool
//! ([`unblock`](crate::unblock)); of a thread's own context that computes while there is no greenlet on its thread to
//! be held up; and nothing while a debugger is attached, or after the whole process was stopped.
//!
//! # How, and what it costs
//!
//! Each period the monitor reads a count that every hub keeps anyway, of how often it has resumed somebody. If it
//! is the same as a period before, and the hub does not wait for events, the monitor sends the thread a signal,
//! whose handler walks the stack that it has interrupted. So there is no cost on the side of the hub until it is
//! held up; and a greenlet that holds it up is told of once it has done so for one period at least and two at most,
//! and again each further period.
//!
//! The signal is `SIGURG`, which is ignored by default, or another that you choose. Its handler passes on what is not
//! meant for it. It is installed with `SA_RESTART`, so that system calls go on, but for those which never do: a
//! `poll`, `nanosleep` or `epoll_wait` that blocks the OS thread may return `EINTR`, as from any signal. A thread that
//! blocks the signal is not told of.
//!
//! The walk is done by the unwinder of the C compiler's library. It can be trusted within a signal handler with
//! glibc 2.35 or newer, where it takes no lock; on other systems use this for finding a fault, not in production.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::panic::Location;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::coro::sample::{self, Standing};
use crate::coro::trace;
use crate::coro::unwind;
use crate::hub::inspect;
use crate::hub::tree::Names;
use crate::sys;
use crate::sys::fork;
use crate::sys::hooks::aside;
use crate::task::{Bystander, Home};

/// Shorter periods would cost more than they tell. gevent's.
const SHORTEST: Duration = Duration::from_millis(5);
/// How long a thread may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Starts a monitor that writes its reports to stderr: of each greenlet that holds up its hub for 100 ms or longer. For
/// other wishes, see [`Builder`].
///
/// # Errors
///
/// If the system gives no thread.
pub fn start() -> io::Result<Monitor> {
    Builder::new().start()
}

/// Makes monitors with a period, a signal or a function of their own.
///
/// ```
/// use std::sync::mpsc;
/// use std::time::Duration;
/// use switchgrass::{Builder, monitor};
///
/// let (tell, told) = mpsc::channel();
/// let monitor = monitor::Builder::new()
///     .limit(Duration::from_millis(20))
///     .on_report(move |report| {
///         let _ = tell.send(report.name().map(str::to_owned));
///     })
///     .start()?;
/// // Blocks the OS thread, until the monitor has found it.
/// let blocker = Builder::new().name("blocker").spawn(move || told.recv().unwrap())?;
/// assert_eq!(blocker.join().unwrap(), Some("blocker".to_owned()));
/// # drop(monitor);
/// # std::io::Result::Ok(())
/// ```
pub struct Builder {
    limit: Duration,
    signal: i32,
    on_report: Option<OnReport>,
}

type OnReport = Box<dyn FnMut(&Report) + Send>;

impl Default for Builder {
    fn default() -> Self {
        Builder::new()
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("limit", &self.limit)
            .field("signal", &self.signal)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// The defaults of [`start`]: 100 ms, `SIGURG`, stderr.
    pub fn new() -> Self {
        Builder { limit: Duration::from_millis(100), signal: sample::DEFAULT, on_report: None }
    }

    /// For how long a greenlet may hold up its hub: the period of the monitor's looks. 5 ms at least.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit.max(SHORTEST);
        self
    }

    /// The signal by which a thread is asked where it is.
    pub fn signal(mut self, signal: i32) -> Self {
        self.signal = signal;
        self
    }

    /// What to do with a report, instead of writing it to stderr. Called on the monitor's thread, which must not wait
    /// for a hub that is held up. A panic in it is reported by the panic hook, and ends nothing.
    ///
    /// A thread with a function of yours counts as one that might wake a greenlet, so a deadlock is not found while
    /// there are handles (see [`Greenlet::join`](crate::Greenlet::join)); the default's does not.
    pub fn on_report(mut self, f: impl FnMut(&Report) + Send + 'static) -> Self {
        self.on_report = Some(Box::new(f));
        self
    }

    /// Starts the monitor.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a signal that cannot be used; or the system gives no thread.
    pub fn start(self) -> io::Result<Monitor> {
        sample::install(self.signal)?;
        let stop = Arc::new(Stop::default());
        let seen = Arc::clone(&stop);
        let run = move || {
            let _bystander = self.on_report.is_none().then(Bystander::new);
            let mut on_report = self
                .on_report
                .unwrap_or_else(|| Box::new(|report| sys::write_stderr(format!("{report}\n").as_bytes())));
            let mut watch = Watch::new(self.limit, self.signal);
            loop {
                let start = Instant::now();
                if seen.wait(self.limit) {
                    return;
                }
                // If this thread was stopped, so were the others.
                if start.elapsed() > self.limit + self.limit / 2 {
                    watch.forget();
                }
                watch.look(&mut |report| {
                    let _ = unwind::catch(|| on_report(report));
                });
            }
        };
        let thread = std::thread::Builder::new().name("switchgrass-monitor".to_owned()).spawn(run)?;
        Ok(Monitor { stop, thread: Some(thread), generation: fork::generation() })
    }
}

/// A monitor that runs. Dropping it ends it, and waits for a report that is on its way.
///
/// A forked child has none; start one there.
#[derive(Debug)]
#[must_use = "dropping the monitor ends it"]
pub struct Monitor {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
    /// Of the process that it runs in.
    generation: u32,
}

impl Monitor {
    /// Lets the monitor go on until the process ends.
    pub fn detach(mut self) {
        self.thread = None;
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if self.generation != fork::generation() {
            // The parent's.
            return;
        }
        *lock(&self.stop.wanted) = true;
        self.stop.changed.notify_all();
        if thread.thread().id() != std::thread::current().id() {
            let _ = aside(|| thread.join());
        }
    }
}

#[derive(Debug, Default)]
struct Stop {
    wanted: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Waits for so long. `true`: the monitor is to end.
    fn wait(&self, period: Duration) -> bool {
        let wanted = lock(&self.wanted);
        *self
            .changed
            .wait_timeout_while(wanted, period, |wanted| !*wanted)
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .0
    }
}

fn lock(mutex: &Mutex<bool>) -> MutexGuard<'_, bool> {
    crate::sys::lock::lock(mutex)
}

/// What a monitor knows of the hubs.
#[derive(Debug)]
pub(crate) struct Watch {
    limit: Duration,
    signal: i32,
    /// How far each hub had come at the last look, and for how many periods it has been there.
    seen: HashMap<u64, (u64, u32)>,
    names: Names,
    /// Whether there was a report at the last look.
    reported: bool,
}

impl Watch {
    pub(crate) fn new(limit: Duration, signal: i32) -> Self {
        Watch { limit, signal, seen: HashMap::new(), names: Names::new(), reported: false }
    }

    /// Begins anew: what was seen before says nothing.
    fn forget(&mut self) {
        self.seen.clear();
    }

    /// Looks at all hubs, a period after the last time.
    pub(crate) fn look(&mut self, on_report: &mut dyn FnMut(&Report)) {
        let mut before = std::mem::take(&mut self.seen);
        let reported_before = std::mem::take(&mut self.reported);
        for (home, hub) in Home::inhabited() {
            let progress = home.progress();
            if home.inbox().is_asleep() {
                continue;
            }
            let periods = match before.remove(&hub) {
                Some((same, periods)) if same == progress => periods + 1,
                _ => 0,
            };
            self.seen.insert(hub, (progress, periods));
            if periods == 0 || sys::is_traced() {
                continue;
            }
            let standing = inspect::ask_thread(home, hub, progress, self.signal, PATIENCE);
            if let Some(standing) = standing.ok().filter(|standing| standing.holds_up) {
                let report = self.report(home, standing, self.limit * periods);
                on_report(&report);
            }
        }
        if reported_before && !self.reported {
            // Quiet again: the next report may be long to come.
            trace::forget_symbols();
        }
    }

    fn report(&mut self, home: &Home, standing: Standing, held_for: Duration) -> Report {
        let mut backtrace = String::new();
        // A String takes whatever is written to it.
        let _ = self.names.write_trace(&mut backtrace, standing.frames.addresses(), 6);
        self.reported = true;
        Report {
            thread: home.thread_name(),
            name: standing.name(),
            what: standing.what,
            id: standing.id,
            spawned_at: standing.spawned_at,
            held_for,
            backtrace,
        }
    }
}

/// Who holds up a hub, and where.
///
/// Its `Display` is the text that is written to stderr by default.
#[derive(Clone, Debug)]
pub struct Report {
    thread: String,
    what: &'static str,
    id: u64,
    name: Option<String>,
    spawned_at: Option<&'static Location<'static>>,
    held_for: Duration,
    backtrace: String,
}

impl Report {
    /// The id of the greenlet (or coroutine, generator, thread's own context); see [`Handle::id`](crate::Handle::id).
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its name, or the first 64 bytes of that.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Where it was spawned; `None` for the thread's own context.
    pub fn spawned_at(&self) -> Option<&'static Location<'static>> {
        self.spawned_at
    }

    /// The OS thread that is held up: name and number.
    pub fn thread(&self) -> &str {
        &self.thread
    }

    /// For how long at least.
    pub fn held_for(&self) -> Duration {
        self.held_for
    }

    /// Where it was when the monitor looked: a function per line, innermost first.
    pub fn backtrace(&self) -> &str {
        self.backtrace.trim_start_matches('\n')
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "switchgrass: {} {}", self.what, self.id)?;
        if let Some(name) = &self.name {
            write!(f, " '{name}'")?;
        }
        write!(
            f,
            " has held up its hub (thread {}) for {} ms or longer",
            self.thread,
            self.held_for.as_millis()
        )?;
        if let Some(place) = self.spawned_at {
            write!(f, "; spawned at {place}")?;
        }
        write!(f, "; it is here:{}", self.backtrace)
    }
}
