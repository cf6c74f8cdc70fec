//! A function on its way through a pool, and its result on the way back.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::crew::Crew;
use crate::coro::unwind::{self, Payload};
#[cfg(feature = "monkey")]
use crate::hub::{Hub, foreign::Verdict};
use crate::hub::{Wake, hub};
use crate::sys::clock::{NEVER, Nanos};
use crate::task::{Ended, GreenletExit, Reason};

/// A job as the crew sees it. Nothing here unwinds.
pub(super) trait Work: Send + Sync {
    /// A thread has it.
    fn begin(&self);
    /// Runs the function, and keeps its result. `false`: somebody else has, or will.
    fn run(&self) -> bool;
    /// Who waits for the end may go on.
    fn finish(&self);
    /// Ends it without running, if it has not begun.
    fn give_up(&self);
}

/// A job as those who want its result see it.
pub(super) trait Promise<T>: Work {
    fn outcome(&self) -> &Outcome<T>;
}

pub(super) struct Outcome<T> {
    pub(super) begun: Ended,
    ended: Ended,
    result: Mutex<Option<Result<T, Payload>>>,
}

/// Function and result in one allocation.
pub(super) struct Packet<F, T> {
    f: Mutex<Option<F>>,
    outcome: Outcome<T>,
}

impl<F, T> Packet<F, T> {
    pub(super) fn new(f: F) -> Arc<Self> {
        let outcome = Outcome { begun: Ended::new(), ended: Ended::new(), result: Mutex::new(None) };
        Arc::new(Packet { f: Mutex::new(Some(f)), outcome })
    }
}

impl<F, T> Work for Packet<F, T>
where
    F: FnOnce() -> T + Send,
    T: Send,
{
    fn begin(&self) {
        self.outcome.begun.set();
    }

    fn run(&self) -> bool {
        let f = lock(&self.f).take();
        f.is_some_and(|f| {
            // Consumed by the call: what it has captured is gone when it returns.
            *lock(&self.outcome.result) = Some(unwind::catch(f));
            true
        })
    }

    fn finish(&self) {
        self.outcome.ended.set();
    }

    fn give_up(&self) {
        let f = lock(&self.f).take();
        if let Some(f) = f {
            discard(f);
            *lock(&self.outcome.result) = Some(Err(Box::new(GreenletExit)));
            self.begin();
            self.finish();
        }
    }
}

impl<F, T> Promise<T> for Packet<F, T>
where
    F: FnOnce() -> T + Send,
    T: Send,
{
    fn outcome(&self) -> &Outcome<T> {
        &self.outcome
    }
}

/// Drops what nobody wants: a panic of its destructor, or of what that panics with, has nobody to go to.
pub(super) fn discard<T>(unwanted: T) {
    if let Err(payload) = unwind::catch(|| drop(unwanted)) {
        std::mem::forget(payload);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code of users runs under these locks, so a panic cannot leave anything half-done.
    crate::sys::lock::lock(mutex)
}

/// A job of a [`ThreadPool`](super::ThreadPool), and its result.
///
/// Dropping it detaches the job, which goes on; its result is dropped by the thread that runs it. May be moved to
/// another thread, and joined there.
#[doc(alias = "ThreadResult")]
pub struct Job<T: 'static> {
    /// `None` only while it is dropped.
    promise: Option<Arc<dyn Promise<T>>>,
    pub(super) crew: Arc<Crew>,
}

impl<T: Send> Job<T> {
    /// Waits until the job has ended, and gives its result. May switch to other greenlets.
    ///
    /// A greenlet that is killed or runs out of time while it waits abandons the job, which goes on. On a thread of the
    /// same pool a job that has not begun is run right here, since there may be no other thread for it.
    ///
    /// # Errors
    ///
    /// What the job panicked with; [`GreenletExit`] if it never ran, because the pool was killed or dropped. In a
    /// destructor that runs while its greenlet unwinds, where nothing can wait, and in a forked child, which has not
    /// the parent's threads: a text that says so, if the result is not there yet.
    #[doc(alias = "get")]
    pub fn join(self) -> Result<T, Payload> {
        if !self.is_ready() {
            if self.crew.is_of_parent() {
                return Err(Box::new(
                    "this job belongs to the parent of this process: after a fork, its thread is not here",
                ));
            }
            if self.crew.employs_us() {
                self.crew.run_here(&self.work());
            }
            if self.wait(Reason::new("job of a thread pool"), NEVER).is_none() {
                return Err(Box::new("this greenlet is unwinding and cannot wait for a job to end"));
            }
        }
        self.take()
    }

    /// As [`join`](Self::join), for no longer than `duration`.
    ///
    /// # Errors
    ///
    /// The job itself, if it has not ended in time (or cannot be waited for, as `join` tells).
    pub fn join_timeout(self, duration: Duration) -> Result<Result<T, Payload>, Self> {
        let wait = || self.wait(Reason::new("job of a thread pool"), hub().deadline(duration));
        if self.is_ready() || !self.crew.is_of_parent() && wait() == Some(Wake::Notified) {
            Ok(self.take())
        } else {
            Err(self)
        }
    }
}

impl<T> Job<T> {
    pub(super) fn new(promise: Arc<dyn Promise<T>>, crew: &Arc<Crew>) -> Self {
        Job { promise: Some(promise), crew: Arc::clone(crew) }
    }

    /// Whether the job has ended, so that `join` would not wait.
    #[doc(alias = "ready")]
    pub fn is_ready(&self) -> bool {
        self.outcome().ended.is_set()
    }

    pub(super) fn outcome(&self) -> &Outcome<T> {
        self.promise().outcome()
    }

    pub(super) fn work(&self) -> Arc<dyn Work> {
        self.promise().clone()
    }

    fn promise(&self) -> &Arc<dyn Promise<T>> {
        self.promise.as_ref().expect("it is there until the drop")
    }

    /// `None`: this greenlet unwinds, and cannot wait.
    pub(super) fn wait(&self, reason: Reason, deadline: Nanos) -> Option<Wake> {
        hub().wait_ended(&self.outcome().ended, true, reason, deadline).ok()
    }

    /// [`join`](Self::join) for foreign frames: nothing unwinds. An error is what is pending against the greenlet.
    #[cfg(feature = "monkey")]
    pub(crate) fn join_foreign(&self, hub: &Hub, reason: Reason) -> Result<T, Verdict> {
        if self.crew.employs_us() {
            self.crew.run_here(&self.work());
        }
        match hub.wait_ended_foreign(&self.outcome().ended, reason) {
            // There is no result if the pool was killed before the job had begun.
            Verdict::Woken => self.take().map_err(|_| Verdict::Killed),
            pending => Err(pending),
        }
    }

    /// Takes it back, unless it has begun.
    #[cfg(feature = "monkey")]
    pub(crate) fn withdraw(&self) {
        self.crew.withdraw(&self.work());
    }

    /// The result of a job that has ended.
    pub(super) fn take(&self) -> Result<T, Payload> {
        lock(&self.outcome().result)
            .take()
            .expect("a job ends after its result is stored, which is taken once")
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        // With the result, if it is there already.
        discard(self.promise.take());
    }
}

impl<T> fmt::Debug for Job<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.outcome() {
            outcome if outcome.ended.is_set() => "ended",
            outcome if outcome.begun.is_set() => "running",
            _ => "queued",
        };
        f.debug_struct("Job").field("pool", &self.crew.name).field("state", &state).finish()
    }
}
