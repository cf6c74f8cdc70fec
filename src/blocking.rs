//! Work that can only block is given to OS threads, while the greenlet that needs it parks.
//!
//! One pool for the process. Threads are made as needed, up to [`MAX_THREADS`], and go when they had nothing to do for
//! [`IDLE`]. Jobs that find all of them busy wait in order.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use crate::coro::unwind::{self, Payload};
use crate::hub::hub;
use crate::sys::clock::NEVER;
use crate::sys::fork::{self, HeldAtFork};
use crate::task::{self, Ended, Reason};

/// How many threads the pool has at most. Enough that a few slow names do not hold up the others, few enough not to be felt.
const MAX_THREADS: usize = 32;
/// How long a thread waits for its next job. gevent's default.
const IDLE: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

struct Pool {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { jobs: VecDeque::new(), threads: 0, idle: 0 });
static MORE: Condvar = Condvar::new();

static FORKING: HeldAtFork<MutexGuard<'static, Pool>> = HeldAtFork::new();

/// Sees to it that a child has a pool of its own: of the threads there is none, and the jobs are the parent's. To be called once.
fn watch_forks() {
    extern "C" fn prepare() {
        FORKING.put(lock(&POOL));
    }
    extern "C" fn in_parent() {
        drop(FORKING.take());
    }
    extern "C" fn in_child() {
        let Some(mut pool) = FORKING.take() else { return };
        std::mem::forget(std::mem::take(&mut pool.jobs));
        pool.threads = 0;
        pool.idle = 0;
        pool.tell_hubs();
    }
    fork::at_fork(prepare, in_parent, in_child);
}

/// Runs `f` on an OS thread of the pool, and gives its result. Other greenlets run meanwhile.
///
/// For calls that block the OS thread and have no cooperative form here: a library in C, a file system, a long computation.
///
/// If the greenlet is killed or timed out while it waits, the job goes on, and its result is dropped over there. In a destructor
/// that runs while its greenlet unwinds, `f` runs in place and blocks the OS thread.
///
/// May switch to other greenlets.
///
/// # Panics
///
/// If `f` does, with the same payload. If the system refuses the first thread of the pool.
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
    let hub = hub();
    if hub.may_suspend(reason).is_err() {
        return f();
    }
    let shared = Arc::new(Slot { ended: Ended::new(), result: Mutex::new(None) });
    let slot = Arc::clone(&shared);
    submit(Box::new(move || {
        let result = unwind::catch(f);
        *lock(&slot.result) = Some(result);
        slot.ended.set(|tell| tell());
    }));
    // Not refused: that was asked above, and nothing has unwound since.
    let _ = hub.wait_ended(&shared.ended, true, reason, NEVER);
    let result = lock(&shared.result).take().expect("the job stores its result before it ends");
    result.unwrap_or_else(|payload| unwind::raise(payload))
}

struct Slot<T> {
    ended: Ended,
    result: Mutex<Option<Result<T, Payload>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Jobs run outside of the lock, so a panic cannot leave anything half-done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// To be called after each change. A thread that has a job to wake up for is not idle.
    fn tell_hubs(&self) {
        task::set_idle_workers(self.idle.saturating_sub(self.jobs.len()));
    }
}

fn submit(job: Job) {
    static WATCH_FORKS: Once = Once::new();
    WATCH_FORKS.call_once(watch_forks);
    let mut pool = lock(&POOL);
    pool.jobs.push_back(job);
    pool.tell_hubs();
    if pool.jobs.len() <= pool.idle {
        MORE.notify_one();
    } else if pool.threads < MAX_THREADS {
        pool.threads += 1;
        let name = format!("switchgrass-{}", pool.threads);
        if let Err(error) = std::thread::Builder::new().name(name).spawn(work) {
            pool.threads -= 1;
            // Those that there are will get to it.
            if pool.threads == 0 {
                let _refused = pool.jobs.pop_back();
                drop(pool);
                panic!("cannot start a thread for blocking work: {error}");
            }
        }
    }
}

fn work() {
    let mut pool = lock(&POOL);
    loop {
        if let Some(job) = pool.jobs.pop_front() {
            pool.tell_hubs();
            drop(pool);
            // A result that nobody waits for is dropped by its job, and may panic then; so may what it panics with.
            if let Err(payload) = unwind::catch(job) {
                std::mem::forget(payload);
            }
            pool = lock(&POOL);
            continue;
        }
        pool.idle += 1;
        pool.tell_hubs();
        let (guard, waited) = MORE.wait_timeout(pool, IDLE).unwrap_or_else(PoisonError::into_inner);
        pool = guard;
        pool.idle -= 1;
        pool.tell_hubs();
        if waited.timed_out() && pool.jobs.is_empty() {
            pool.threads -= 1;
            return;
        }
    }
}
