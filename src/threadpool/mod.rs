//! Work that can only block is given to OS threads, while the greenlet that needs it waits and others run.
//!
//! [`unblock`] runs a function on a thread of the pool of the process. A [`ThreadPool`] of one's own has a limit of its
//! own: what is slow in one pool uses up no threads of another.
//!
//! ```
//! use switchgrass::threadpool::ThreadPool;
//!
//! // Two at once; the third waits for a place.
//! let pool = ThreadPool::new(2);
//! let jobs: Vec<_> = [1, 2, 3].into_iter().map(|n| pool.spawn(move || n * n)).collect();
//! let squares: Vec<i32> = jobs.into_iter().map(|job| job.join().unwrap()).collect();
//! assert_eq!(squares, [1, 4, 9]);
//! ```
//!
//! Jobs begin in the order in which they came. A job that has begun cannot be stopped: a greenlet that is killed or
//! runs out of time while it waits for one abandons it, and its result is dropped over there.
//!
//! A job that needs another one of its own pool runs it itself if no thread is free, so a pool cannot block itself. Two
//! pools can, if the jobs of each wait for jobs of the other.
//!
//! Pools work from any thread: from the greenlets of several hubs, and from threads that have none.
//!
//! # Fork
//!
//! A forked child has none of its parent's threads. There, each pool starts anew at its first use, with the same
//! settings and no jobs; those of the parent go on in the parent only.

mod crew;
mod job;
mod per_process;
mod scope;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::coro::unwind;
use crate::hub::{Wake, hub};
use crate::sys::clock::{NEVER, Nanos};
use crate::task::Reason;

use self::crew::{Crew, Placed};
pub use self::job::Job;
use self::job::{Packet, Work};
use self::per_process::PerProcess;
pub use self::scope::{Scope, ScopedJob};

/// How many threads the pool of the process has at most. Enough that a few slow jobs do not hold up the
/// others, few enough not to be felt.
const MAX_THREADS: usize = 32;
/// How long a thread waits for its next job.
const IDLE: Duration = Duration::from_secs(5);

static GLOBAL: ThreadPool = ThreadPool::named("switchgrass", MAX_THREADS);

/// The pool of the process, which [`unblock`] and [`fs`](crate::fs) use. 32 threads at most, unless
/// [`set_max`](ThreadPool::set_max) says otherwise.
///
/// [`kill`](ThreadPool::kill) of it ends the jobs of all who use it that have not begun: they get
/// [`GreenletExit`](crate::GreenletExit).
pub fn global() -> &'static ThreadPool {
    &GLOBAL
}

/// Runs `f` on an OS thread of the pool of the process, and gives its result. Other greenlets run meanwhile.
///
/// For calls that block the OS thread and have no cooperative form here: a library in C, a long computation. For files there is
/// [`fs`](crate::fs), for names [`dns`](crate::dns).
///
/// The same as [`ThreadPool::apply`] of the pool that [`threadpool::global`](global) gives. May switch to other greenlets.
///
/// # Panics
///
/// As [`ThreadPool::apply`].
///
/// # Examples
///
/// ```
/// let sum: u64 = switchgrass::unblock(|| (1..=1_000).sum());
/// assert_eq!(sum, 500_500);
/// ```
pub fn unblock<T, F>(f: F) -> T
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    unblock_for(Reason::new("unblock"), f)
}

/// [`unblock`], with a name of its own in reports.
pub(crate) fn unblock_for<T, F>(reason: Reason, f: F) -> T
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    GLOBAL.apply_for(reason, f)
}

/// Up to so many OS threads, and a queue in front of them.
///
/// Threads are started as they are needed, and leave when they had nothing to do for 5 seconds
/// ([`set_idle_timeout`](Self::set_idle_timeout)). So a pool that is not used costs nothing, and it may be a `static`:
///
/// ```
/// use switchgrass::threadpool::ThreadPool;
///
/// static SLOW: ThreadPool = ThreadPool::new(4);
/// assert_eq!(SLOW.apply(|| 2 + 2), 4);
/// ```
///
/// A dropped pool still runs what it was given, and then its threads leave; the drop does not wait. (With a limit of 0,
/// what is queued ends as after [`kill`](Self::kill).)
pub struct ThreadPool {
    name: &'static str,
    max: usize,
    crew: PerProcess<Arc<Crew>>,
}

impl ThreadPool {
    /// A pool that runs `max` jobs at once. Starts no thread yet.
    ///
    /// With 0 nothing runs until [`set_max`](Self::set_max) allows it.
    pub const fn new(max: usize) -> Self {
        ThreadPool::named("switchgrass-job", max)
    }

    /// `name`: the first part of the names of its threads, of which Linux shows 15 bytes.
    pub(crate) const fn named(name: &'static str, max: usize) -> Self {
        ThreadPool { name, max, crew: PerProcess::new() }
    }

    fn crew(&self) -> &Arc<Crew> {
        self.crew.get(|parents| match parents {
            Some(crew) => crew.successor(),
            None => Crew::new(self.name, self.max, IDLE),
        })
    }

    /// Has `f` run by a thread of the pool. **Waits for a place** if all are taken, behind those that came before, as
    /// gevent's does; returns when the job has a thread.
    ///
    /// So a loop that spawns is held back to the pace of the pool, instead of filling the memory with a queue of
    /// closures. Who does not want to wait spawns a greenlet that calls [`apply`](Self::apply). A greenlet that is
    /// killed or runs out of time while it waits for a place takes the job back: it never runs.
    ///
    /// There are two who cannot wait here, so their jobs are queued: a job of the same pool, which has a place itself, and
    /// a destructor that runs while its greenlet unwinds.
    ///
    /// May switch to other greenlets.
    ///
    /// # Panics
    ///
    /// If the system refuses the first thread of the pool. A panic of `f` is the job's result.
    pub fn spawn<F, T>(&self, f: F) -> Job<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let (job, placed) = self.enqueue(f);
        if placed == Placed::Waits && !job.crew.employs_us() {
            let place = WithdrawOnUnwind::new(&job);
            // Refused while unwinding: then it stays queued, as documented.
            let _ =
                hub().wait_ended(&job.outcome().begun, true, Reason::new("place in a thread pool"), NEVER);
            place.keep();
        }
        job
    }

    /// Runs `f` on a thread of the pool, and gives its result. Other greenlets run meanwhile.
    ///
    /// If the greenlet is killed or timed out while it waits, a job that has not begun is taken back: it never runs.
    /// One that has goes on, and its result is dropped over there.
    ///
    /// `f` runs in place where waiting is not possible: in a destructor that runs while its greenlet unwinds, and in a
    /// job of the same pool, which would wait for a place while it has one. (In a greenlet that such a job has spawned,
    /// `f` gets a thread of its own if one is free.)
    ///
    /// May switch to other greenlets.
    ///
    /// # Panics
    ///
    /// If `f` does, with the same payload. If the system refuses the first thread of the pool. With
    /// [`GreenletExit`](crate::GreenletExit), if the pool is killed before the job has begun.
    pub fn apply<F, T>(&self, f: F) -> T
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.apply_for(Reason::new("job of a thread pool"), f)
    }

    /// [`apply`](Self::apply), with a name of its own in reports.
    pub(crate) fn apply_for<F, T>(&self, reason: Reason, f: F) -> T
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let hub = hub();
        if hub.may_suspend(reason).is_err() || (self.crew().employs_us() && hub.is_main(hub.current())) {
            return f();
        }
        let (job, placed) = self.enqueue(f);
        if placed == Placed::Waits && job.crew.employs_us() {
            job.crew.run_here(&job.work());
        }
        let interest = WithdrawOnUnwind::new(&job);
        // Not refused: that was asked above, and nothing has unwound since.
        let _ = job.wait(reason, NEVER);
        interest.keep();
        job.take().unwrap_or_else(|payload| unwind::raise(payload))
    }

    /// Has `f` run by a thread of the pool, without waiting for a place.
    #[cfg(feature = "monkey")]
    pub(crate) fn hand_over<F, T>(&self, f: F) -> Job<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.enqueue(f).0
    }

    /// Runs `f` on each of the items, as many at once as the pool allows, and gives the results in the order of the items.
    ///
    /// Waits for places as [`spawn`](Self::spawn) does. A greenlet that is killed or timed out meanwhile abandons the
    /// jobs that run, and does not begin the others. For items and functions that borrow, see [`scope`](Self::scope).
    /// May switch to other greenlets.
    ///
    /// # Panics
    ///
    /// If `f` does: with the payload of the first item, in order, for which it did. The jobs of the others go on, unseen.
    ///
    /// ```
    /// let pool = switchgrass::threadpool::ThreadPool::new(2);
    /// assert_eq!(pool.map(["a", "bcd", "ef"], str::len), [1, 3, 2]);
    /// ```
    pub fn map<I, F, T>(&self, items: I, f: F) -> Vec<T>
    where
        I: IntoIterator,
        I::Item: Send + 'static,
        F: Fn(I::Item) -> T + Send + Sync + 'static,
        T: Send + 'static,
    {
        let f = Arc::new(f);
        let spawn = |item| {
            let f = Arc::clone(&f);
            self.spawn(move || f(item))
        };
        let jobs: Vec<Job<T>> = items.into_iter().map(spawn).collect();
        jobs.into_iter().map(|job| job.join().unwrap_or_else(|payload| unwind::raise(payload))).collect()
    }

    /// Queues a job, without waiting.
    fn enqueue<F, T>(&self, f: F) -> (Job<T>, Placed)
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let crew = self.crew();
        let packet = Packet::new(f);
        let placed = crew.submit(packet.clone());
        (Job::new(packet, crew), placed)
    }

    /// Waits until no job is queued and none runs. May switch to other greenlets.
    ///
    /// Returns at once in a destructor that runs while its greenlet unwinds.
    ///
    /// # Panics
    ///
    /// In a job of this pool, which would wait for itself.
    pub fn join(&self) {
        self.wait_until_idle(NEVER);
    }

    /// As [`join`](Self::join), for no longer than `duration`. Whether no job is left.
    ///
    /// # Panics
    ///
    /// As [`join`](Self::join).
    pub fn join_timeout(&self, duration: Duration) -> bool {
        self.wait_until_idle(hub().deadline(duration)) == Some(Wake::Notified)
    }

    /// `None`: this greenlet unwinds, and cannot wait.
    fn wait_until_idle(&self, deadline: Nanos) -> Option<Wake> {
        let crew = self.crew();
        assert!(
            !crew.employs_us(),
            "a job cannot wait for all jobs of its own pool to end: it is one of them (join those that it has spawned)"
        );
        match crew.idle_waiter() {
            Some(waiter) => {
                hub().wait_ended(&waiter.idle, true, Reason::new("idle thread pool"), deadline).ok()
            }
            None => Some(Wake::Notified),
        }
    }

    /// Drops the jobs that have not begun, and waits for those that run, which nothing can stop. The threads leave.
    ///
    /// Who waits for a job that never ran gets [`GreenletExit`](crate::GreenletExit). The pool can be used again.
    /// May switch to other greenlets.
    ///
    /// # Panics
    ///
    /// As [`join`](Self::join).
    pub fn kill(&self) {
        self.crew().give_up_queue();
        self.join();
    }

    /// How many jobs may run at once.
    #[doc(alias = "maxsize")]
    pub fn max(&self) -> usize {
        self.crew().max()
    }

    /// Sets how many jobs may run at once. Does not wait: if more run now, they go on, and no other begins until
    /// they are fewer. Does not switch.
    #[doc(alias = "maxsize")]
    pub fn set_max(&self, max: usize) {
        self.crew().set_max(max);
    }

    /// How long a thread waits for its next job before it leaves. 5 seconds, if not set otherwise.
    pub fn idle_timeout(&self) -> Duration {
        self.crew().idle_timeout()
    }

    /// Sets how long a thread waits for its next job before it leaves.
    pub fn set_idle_timeout(&self, duration: Duration) {
        self.crew().set_idle_timeout(duration);
    }

    /// How many OS threads there are now, with and without a job.
    pub fn threads(&self) -> usize {
        self.crew().counts().0
    }

    /// How many jobs run or wait for a thread.
    pub fn len(&self) -> usize {
        self.crew().counts().1
    }

    /// Whether no job runs or waits for a thread.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        if let Some(crew) = self.crew.existing() {
            crew.dismiss();
        }
    }
}

impl fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (threads, jobs) = self.crew().counts();
        let mut out = f.debug_struct("ThreadPool");
        out.field("max", &self.max()).field("threads", &threads).field("jobs", &jobs).finish()
    }
}

/// Takes a job back if its greenlet is unwound while it waits.
struct WithdrawOnUnwind<'a> {
    crew: &'a Crew,
    job: Option<Arc<dyn Work>>,
}

impl<'a> WithdrawOnUnwind<'a> {
    fn new<T>(job: &'a Job<T>) -> Self {
        WithdrawOnUnwind { crew: &job.crew, job: Some(job.work()) }
    }

    /// The wait is over.
    fn keep(mut self) {
        self.job = None;
    }
}

impl Drop for WithdrawOnUnwind<'_> {
    fn drop(&mut self) {
        if let Some(job) = &self.job {
            self.crew.withdraw(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// What the child finds; it must not panic, since the harness is not there.
    fn child(pool: &ThreadPool, running: Job<()>, queued: Job<i32>) -> Result<(), &'static str> {
        let told = |error: Option<unwind::Payload>| {
            error.and_then(|text| text.downcast::<&str>().ok()).is_some_and(|text| text.contains("parent"))
        };
        if !told(running.join().err()) || !told(queued.join().err()) {
            return Err("a job of the parent is not refused");
        }
        if (pool.threads(), pool.len(), pool.max(), pool.idle_timeout()) != (0, 0, 1, Duration::from_secs(1))
        {
            return Err("the pool does not start anew with the same settings");
        }
        let jobs = [pool.enqueue(|| 1).0, pool.enqueue(|| 2).0];
        while !jobs.iter().all(Job::is_ready) {}
        let sum: i32 = jobs.into_iter().map(|job| job.join().unwrap_or(0)).sum();
        if sum == 3 { Ok(()) } else { Err("jobs of the child do not run") }
    }

    #[test]
    #[expect(unsafe_code, reason = "forks")]
    fn a_forked_child_has_a_pool_of_its_own_even_if_the_parents_was_locked() {
        let pool = ThreadPool::new(1);
        pool.set_idle_timeout(Duration::from_secs(1));
        let (go, may_go) = mpsc::channel::<()>();
        let running = pool.spawn(move || assert!(may_go.recv().is_err()));
        let (queued, placed) = pool.enqueue(|| 5);
        assert!(placed == Placed::Waits);
        let locked = pool.crew().hold();
        // SAFETY: the child allocates, which the C library allows after a fork, starts threads, which it does in
        // practice, and leaves by _exit. It touches no hub.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: ends the child, should it hang.
            unsafe { libc::alarm(60) };
            let status = match child(&pool, running, queued) {
                Ok(()) => 0,
                Err(why) => {
                    crate::sys::write_stderr(why.as_bytes());
                    1
                }
            };
            // Its drop must not touch the parent's, either.
            std::mem::forget(locked);
            drop(pool);
            // SAFETY: no preconditions.
            unsafe { libc::_exit(status) };
        }
        drop(locked);
        let mut status = 0;
        // SAFETY: `status` is valid for writing.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(status, 0);
        // The parent's goes on.
        drop(go);
        running.join().unwrap();
        assert_eq!(queued.join().unwrap(), 5);
    }
}
