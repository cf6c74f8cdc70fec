//! Several processes that serve the same listener, and one that watches them.
//!
//! The parent has no hub and no other thread: it blocks its one thread in `sigtimedwait`, and forks from there, so that
//! each child begins with a process in which nothing goes on.

#![allow(unsafe_code)]

use std::fmt;
use std::io::{self, Write};
use std::process::{self, ExitStatus};
use std::time::{Duration, Instant};

use super::{Server, Source};
use crate::coro::unwind;
use crate::greenlet::spawn;
use crate::signal::{SIGINT, SIGKILL, SIGTERM, Signals};
use crate::sys;
use crate::sys::process::kill;
use crate::sys::workers::{self, Watch};

/// A worker that ends sooner than this after its start has failed to start.
const SHORT: Duration = Duration::from_secs(1);
/// How long the parent waits before it starts such a one again; each time twice as long …
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// … but no longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long the parent sleeps at most. It is told of everything that it waits for.
const LOOK: Duration = Duration::from_secs(3600);

/// Several worker processes, each with a hub of its own, and the parent, which starts them again when they die: to use all cores.
///
/// ```no_run
/// use switchgrass::server::{Prefork, StreamServer};
///
/// fn main() -> std::io::Result<()> {
///     // Before the fork, so that all have the same listener.
///     let listener = std::net::TcpListener::bind("127.0.0.1:8080")?;
///     Prefork::new(4).run(|worker| {
///         let server = StreamServer::new(listener.try_clone()?, |stream, _peer| drop(stream))?.max_accept(1);
///         worker.serve(&server)
///     })?;
///     Ok(())
/// }
/// ```
///
/// **To stop**, send SIGTERM or SIGINT (Ctrl-C) to the parent. It sends SIGTERM to the workers, which end by it, unless
/// they handle it, as [`Worker::serve`] does: then they have the [grace time](Self::grace) to end in; after it, or at a
/// second signal, SIGKILL ends them. A worker ignores SIGINT, since a terminal sends it to all. If the parent itself is
/// killed, its workers get SIGTERM (on Linux).
///
/// **A worker that dies** (by an error, a panic, a signal) is started again: at once if it has lived a second, else
/// after 0.1 s, 0.2 s, and so on up to 10 s. If it dies so soon [ten times](Self::give_up_after) in a row, all
/// others are stopped, too, and [`run`](Self::run) gives an error. One whose function returns `Ok` has done its
/// work, and is not started again.
pub struct Prefork {
    workers: usize,
    grace: Duration,
    give_up_after: u32,
    watch: Box<dyn FnMut(&WorkerEvent)>,
}

impl Prefork {
    /// So many workers. [`std::thread::available_parallelism`] tells how many cores there are.
    ///
    /// # Panics
    ///
    /// For 0.
    pub fn new(workers: usize) -> Self {
        assert!(workers > 0, "Prefork needs at least one worker");
        Prefork { workers, grace: Duration::from_secs(10), give_up_after: 10, watch: Box::new(|_| {}) }
    }

    /// How long workers have to end after SIGTERM: 10 s by default.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// How often in a row a worker may die within a second of its start: 10 times by default.
    #[must_use]
    pub fn give_up_after(mut self, deaths: u32) -> Self {
        self.give_up_after = deaths.max(1);
        self
    }

    /// Has `tell` called, in the parent, when a worker starts or ends.
    ///
    /// It must not start threads: from a process with several, no worker could be forked.
    #[must_use]
    pub fn on_event(mut self, tell: impl FnMut(&WorkerEvent) + 'static) -> Self {
        self.watch = Box::new(tell);
        self
    }

    /// Starts the workers, and keeps them running until the process is told to stop, or all are done. Blocks the OS
    /// thread meanwhile: greenlets of the parent do not run.
    ///
    /// `work` is called in each worker. When it returns, the worker ends, as by [`std::process::exit`];
    /// with status 1 and a line on stderr for an error, 101 for a panic. Handlers of signals that the
    /// parent has set are in force there, too.
    ///
    /// # Errors
    ///
    /// `Unsupported` if this process has other threads: a fork would copy the locks that they just hold, and not them.
    /// Call this first in `main`. A worker that cannot be kept running; the text tells how it has died last.
    pub fn run(mut self, work: impl Fn(Worker) -> io::Result<()>) -> io::Result<Preforked> {
        refuse_other_threads()?;
        let watch = Watch::begin();
        let mut crew = Crew {
            slots: (0..self.workers)
                .map(|index| Slot {
                    worker: Worker { index, restarts: 0, grace: self.grace },
                    short: 0,
                    state: State::Due(Instant::now()),
                })
                .collect(),
            stopping: None,
            failure: None,
            summary: Preforked { restarts: 0, killed: 0 },
        };
        loop {
            let now = Instant::now();
            for i in 0..crew.slots.len() {
                let slot = &mut crew.slots[i];
                if !matches!(slot.state, State::Due(when) if when <= now) {
                    continue;
                }
                match slot.start(&mut self, now) {
                    Ok(Side::Parent) => {}
                    Ok(Side::Child) => {
                        let worker = slot.worker;
                        drop(watch);
                        worker.live(work);
                    }
                    Err(error) => crew.fail(error, self.grace),
                }
            }
            if crew.slots.iter().all(|slot| matches!(slot.state, State::Done)) {
                return match crew.failure.take() {
                    Some(error) => Err(error),
                    None => Ok(crew.summary),
                };
            }
            if let Some(SIGTERM | SIGINT) = watch.next(crew.time_to_next(now)) {
                crew.stop(self.grace);
            }
            // It may have been SIGCHLD, or the time.
            crew.look_after(&mut self);
        }
    }
}

impl fmt::Debug for Prefork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prefork")
            .field("workers", &self.workers)
            .field("grace", &self.grace)
            .field("give_up_after", &self.give_up_after)
            .finish_non_exhaustive()
    }
}

/// What the function of a worker is told about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    index: usize,
    restarts: u32,
    grace: Duration,
}

impl Worker {
    /// Which of the workers it is, from 0. One that takes the place of another has its number.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many have died before at this place.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Serves until the parent says to stop (or SIGTERM comes from elsewhere): then [stops](Server::stop) the server,
    /// and gives live connections nine tenths of the [grace time](Prefork::grace). May switch.
    ///
    /// # Errors
    ///
    /// As [`Server::serve_forever`]. If the signal cannot be handled, since there are no more descriptors.
    pub fn serve<S: Source>(&self, server: &Server<S>) -> io::Result<()> {
        let mut signals = Signals::new(&[SIGTERM])?;
        let (stopping, grace) = (server.clone(), self.grace - self.grace / 10);
        let stop = spawn(move || {
            if signals.wait().is_ok() {
                stopping.stop(grace);
            }
        });
        let result = server.serve_forever();
        stop.kill();
        result
    }

    /// The whole life of a worker.
    fn live(self, work: impl Fn(Worker) -> io::Result<()>) -> ! {
        let status = match unwind::catch(|| work(self)) {
            Ok(Ok(())) => 0,
            Ok(Err(error)) => {
                let _ = writeln!(io::stderr(), "worker {} of {}: {error}", self.index, process_name());
                1
            }
            // As for the main thread.
            Err(_) => 101,
        };
        process::exit(status)
    }
}

fn process_name() -> String {
    let name = std::env::args_os().next().unwrap_or_default();
    std::path::Path::new(&name).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What happens to a worker; see [`Prefork::on_event`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerEvent {
    /// It was started.
    Started {
        /// Which one.
        worker: Worker,
        /// Its process.
        pid: u32,
    },
    /// It has ended.
    Ended {
        /// Which one.
        worker: Worker,
        /// What was its process.
        pid: u32,
        /// How. `None` if somebody else in this process has fetched that.
        status: Option<ExitStatus>,
        /// After what time it will be started again, if it will.
        restart: Option<Duration>,
    },
}

/// What [`Prefork::run`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Preforked {
    /// How many workers were started in the place of one that had died.
    pub restarts: u64,
    /// How many did not end within the grace time.
    pub killed: usize,
}

/// All the workers, as the parent sees them.
struct Crew {
    slots: Vec<Slot>,
    /// When those that are left are killed.
    stopping: Option<Instant>,
    /// Why it stops, if nobody has asked for it.
    failure: Option<io::Error>,
    summary: Preforked,
}

struct Slot {
    worker: Worker,
    /// How many in a row have ended too soon.
    short: u32,
    state: State,
}

enum State {
    /// To be started then.
    Due(Instant),
    Running {
        pid: u32,
        since: Instant,
        killed: bool,
    },
    Done,
}

/// On which side of a fork this is.
#[derive(PartialEq, Eq)]
enum Side {
    Parent,
    Child,
}

impl Crew {
    /// How long nothing is to be done, if nothing happens.
    fn time_to_next(&self, now: Instant) -> Duration {
        let due = self.slots.iter().filter_map(|slot| match slot.state {
            State::Due(when) => Some(when),
            _ => None,
        });
        let next = due.chain(self.stopping).min();
        next.map_or(LOOK, |next| next.saturating_duration_since(now).min(LOOK))
    }

    /// Asks all to end. Asked again, does not wait any longer.
    fn stop(&mut self, grace: Duration) {
        let now = Instant::now();
        if self.stopping.is_some() {
            self.stopping = Some(now);
            return;
        }
        // More than a century is for ever.
        self.stopping = Some(now + grace.min(LOOK * 1_000_000));
        for slot in &mut self.slots {
            match slot.state {
                State::Running { pid, .. } => send(pid, SIGTERM),
                State::Due(_) => slot.state = State::Done,
                State::Done => {}
            }
        }
    }

    fn fail(&mut self, error: io::Error, grace: Duration) {
        if self.stopping.is_none() {
            self.failure = Some(error);
            self.stop(grace);
        }
    }

    /// Sees who has ended, and who should have.
    fn look_after(&mut self, settings: &mut Prefork) {
        let overdue = self.stopping.is_some_and(|when| when <= Instant::now());
        for i in 0..self.slots.len() {
            let State::Running { pid, since, killed } = &mut self.slots[i].state else { continue };
            if overdue && !*killed {
                *killed = true;
                self.summary.killed += 1;
                send(*pid, SIGKILL);
            }
            let (pid, since) = (*pid, *since);
            match workers::reap(pid) {
                Ok(None) => {}
                ended => self.ended(i, settings, pid, since, ended.ok().flatten()),
            }
        }
    }

    fn ended(
        &mut self,
        i: usize,
        settings: &mut Prefork,
        pid: u32,
        since: Instant,
        status: Option<ExitStatus>,
    ) {
        let (now, slot) = (Instant::now(), &mut self.slots[i]);
        let worker = slot.worker;
        let died = !status.is_some_and(|status| status.success());
        slot.state = State::Done;
        let mut restart = None;
        if died && self.stopping.is_none() {
            let pause = slot.pause_after(now - since);
            if slot.short < settings.give_up_after {
                slot.worker.restarts += 1;
                slot.state = State::Due(now + pause);
                self.summary.restarts += 1;
                restart = Some(pause);
            } else {
                let status =
                    status.map_or_else(|| "in an unknown way".to_owned(), |status| status.to_string());
                let error = io::Error::other(format!(
                    "worker {} has died {} times in a row within a second of its start, the last time by {status}: see what it writes, or start fewer things before it serves",
                    worker.index, slot.short
                ));
                self.fail(error, settings.grace);
            }
        }
        (settings.watch)(&WorkerEvent::Ended { worker, pid, status, restart });
    }
}

/// To a child that has not been reaped, so there is nothing that could fail.
fn send(pid: u32, signal: i32) {
    let _ = kill(pid, signal);
}

/// If `on_event` panics, the workers do not stay alone.
impl Drop for Crew {
    fn drop(&mut self) {
        for slot in &self.slots {
            if let State::Running { pid, .. } = slot.state {
                send(pid, SIGTERM);
            }
        }
    }
}

/// # Errors
///
/// There is another thread. Where the system does not tell, nobody knows.
fn refuse_other_threads() -> io::Result<()> {
    match sys::thread_count() {
        Some(threads @ 2..) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "Prefork cannot fork a process with {threads} threads: the child would have a copy of the locks that the others hold, and not them; call Prefork::run first in main, before anything starts a thread (as `unblock` and name lookups do)"
            ),
        )),
        _ => Ok(()),
    }
}

impl Slot {
    /// Forks. Where processes or memory are lacking, later.
    fn start(&mut self, settings: &mut Prefork, now: Instant) -> io::Result<Side> {
        refuse_other_threads()?;
        // What is in the buffer would be written by both.
        let _ = io::stdout().flush();
        let parent = process::id();
        // SAFETY: there is no other thread, as was just looked up (or this system does not tell, and the
        // caller has read the docs of `run`).
        match unsafe { workers::fork() } {
            Ok(None) => {
                workers::follow_parent(parent);
                Ok(Side::Child)
            }
            Ok(Some(pid)) => {
                self.state = State::Running { pid, since: now, killed: false };
                (settings.watch)(&WorkerEvent::Started { worker: self.worker, pid });
                Ok(Side::Parent)
            }
            Err(error) => {
                let pause = self.pause_after(Duration::ZERO);
                if self.short >= settings.give_up_after {
                    self.state = State::Done;
                    return Err(error);
                }
                self.state = State::Due(now + pause);
                Ok(Side::Parent)
            }
        }
    }

    /// One has ended after so long: how long to wait before the next is started.
    fn pause_after(&mut self, lived: Duration) -> Duration {
        if lived >= SHORT {
            self.short = 0;
            return Duration::ZERO;
        }
        self.short += 1;
        FIRST_PAUSE.saturating_mul(1 << (self.short - 1).min(16)).min(LONGEST_PAUSE)
    }
}
