//! std's `Condvar`, for greenlets.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::LockResult;
use std::time::Duration;

use super::mutex::{Mutex, MutexGuard};
use crate::hub::hub;
use crate::sys::clock::Nanos;
use crate::sys::lock::{Lock, LockGuard};
use crate::task::Reason;
use crate::wait::{Line, Outcome, Queue, insist, wait};

/// `std::sync::Condvar` for greenlets: waits until what a [`Mutex`] guards has changed.
///
/// Those who wait are woken in the order of coming. A notification is for somebody who waits at that moment; if the one
/// that [`notify_one`](Self::notify_one) has chosen is killed, or unwound by a timeout, before it has the mutex again,
/// the next one is woken instead. That aside there are no spurious wakeups; but the condition may have changed again by
/// the time the mutex is had, so wait in a loop, or by [`wait_while`](Self::wait_while).
///
/// Who is unwound while it waits does not hold the mutex then (and does not wait for it), and does not poison it.
///
/// # Examples
///
/// ```
/// use std::rc::Rc;
/// use switchgrass::{spawn, sync::{Condvar, Mutex}};
///
/// let pair = Rc::new((Mutex::new(false), Condvar::new()));
/// let setting = spawn({
///     let pair = Rc::clone(&pair);
///     move || {
///         *pair.0.lock().unwrap() = true;
///         pair.1.notify_one();
///     }
/// });
/// let (mutex, condvar) = &*pair;
/// let ready = condvar.wait_while(mutex.lock().unwrap(), |ready| !*ready).unwrap();
/// assert!(*ready);
/// # drop(ready);
/// # setting.join().unwrap();
/// ```
#[doc(alias = "Condition")]
pub struct Condvar {
    waiting: Lock<Queue<Notice>>,
}

/// How one was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    One,
    All,
}

impl Condvar {
    /// Nobody waits.
    pub const fn new() -> Self {
        Condvar { waiting: Lock::new(Queue::new()) }
    }

    /// Unlocks the mutex, waits for a notification, and locks it again. May switch.
    ///
    /// In a destructor that runs while its greenlet unwinds, where nothing can be switched, this blocks the OS thread.
    ///
    /// # Errors
    ///
    /// The guard, in a `PoisonError`, if a holder of the mutex has panicked.
    ///
    /// # Panics
    ///
    /// On a thread's main stack, if nothing is left that could notify, or unlock the mutex. The mutex is not held then.
    pub fn wait<'a, T: ?Sized>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        let mutex = guard.mutex();
        let waiting = self.waiting.lock();
        // Under the lock: who has the mutex next, and changes what is waited for, finds this one in line.
        drop(guard);
        let notice = insist(self, waiting, None);
        self.lock_again(mutex, notice)
    }

    /// Waits as long as the condition holds; not at all if it does not. May switch.
    ///
    /// The condition is looked at with the mutex locked: before the first wait, and after each notification.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    ///
    /// # Panics
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_while<'a, T: ?Sized>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'a, T>> {
        while condition(&mut *guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// As [`wait`](Self::wait), but waits no longer than `duration` for a notification. For the mutex, it waits
    /// as long as it takes. May switch.
    ///
    /// In a destructor that runs while its greenlet unwinds, where nothing can wait, the time is up at once.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    ///
    /// # Panics
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        duration: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        self.wait_until(guard, hub().deadline(duration))
    }

    /// As [`wait_while`](Self::wait_while), but waits no longer than `duration`. May switch.
    ///
    /// The result says that the time was up if the condition still held then.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    ///
    /// # Panics
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout_while<'a, T: ?Sized>(
        &self,
        mut guard: MutexGuard<'a, T>,
        duration: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let deadline = hub().deadline(duration);
        let mut result = WaitTimeoutResult(false);
        while condition(&mut *guard) {
            if result.0 {
                return Ok((guard, result));
            }
            (guard, result) = self.wait_until(guard, deadline)?;
        }
        Ok((guard, WaitTimeoutResult(false)))
    }

    fn wait_until<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline: Nanos,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let mutex = guard.mutex();
        let waiting = self.waiting.lock();
        drop(guard);
        let (notice, result) = match wait(self, waiting, None, deadline) {
            Outcome::Chosen(notice) => (notice, WaitTimeoutResult(false)),
            Outcome::TimedOut(_) | Outcome::Unwinding(_) => (None, WaitTimeoutResult(true)),
        };
        match self.lock_again(mutex, notice) {
            Ok(guard) => Ok((guard, result)),
            Err(poisoned) => Err(std::sync::PoisonError::new((poisoned.into_inner(), result))),
        }
    }

    /// Wakes the one who has waited longest, if anybody waits. Does not switch.
    pub fn notify_one(&self) {
        self.notify(self.waiting.lock());
    }

    /// Wakes all who wait, in the order in which they came. Does not switch.
    pub fn notify_all(&self) {
        let mut waiting = self.waiting.lock();
        // Under the lock: who begins to wait from now on is not meant.
        while let Some(((), wakeup)) = waiting.hand_over(|notice| *notice = Some(Notice::All)) {
            wakeup.wake();
        }
    }

    fn notify(&self, mut waiting: LockGuard<'_, Queue<Notice>>) {
        if let Some(((), wakeup)) = waiting.hand_over(|notice| *notice = Some(Notice::One)) {
            drop(waiting);
            wakeup.wake();
        }
    }

    fn lock_again<'a, T: ?Sized>(
        &self,
        mutex: &'a Mutex<T>,
        notice: Option<Notice>,
    ) -> LockResult<MutexGuard<'a, T>> {
        // It is unwound here, perhaps.
        let unused = Unused { condvar: self, notice };
        mutex.raw().lock();
        std::mem::forget(unused);
        mutex.guard()
    }
}

/// A notification that its receiver could make nothing of yet.
struct Unused<'a> {
    condvar: &'a Condvar,
    notice: Option<Notice>,
}

impl Drop for Unused<'_> {
    #[cold]
    fn drop(&mut self) {
        self.condvar.pass_on(self.condvar.waiting.lock(), self.notice);
    }
}

impl Line for Condvar {
    type State = Queue<Notice>;
    type Item = Notice;

    fn lock(&self) -> &Lock<Queue<Notice>> {
        &self.waiting
    }

    fn queue(waiting: &mut Queue<Notice>) -> &mut Queue<Notice> {
        waiting
    }

    fn pass_on(&self, waiting: LockGuard<'_, Queue<Notice>>, notice: Option<Notice>) {
        if notice == Some(Notice::One) {
            self.notify(waiting);
        }
    }

    fn reason(&self) -> Reason {
        Reason::shared("condvar", self)
    }
}

impl Default for Condvar {
    fn default() -> Self {
        Condvar::new()
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condvar").field("waiting", &self.waiting.lock().len()).finish()
    }
}

/// Whether a wait on a [`Condvar`] has ended because its time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether the time was up.
    pub fn timed_out(&self) -> bool {
        self.0
    }
}
