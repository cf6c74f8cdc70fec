//! Permits, and a line of those who wait for one.
//!
//! One word holds the number of permits and whether the lock has to be taken to change it:
//!
//! ```text
//!   permits << 1 | SLOW        SLOW: somebody waits, or watches
//! ```
//!
//! While somebody waits there is no permit: it would have been handed over. So taking one needs no look at SLOW, and
//! giving one back needs nothing else.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::hub::{be_fair, hub};
use crate::sys::clock::Nanos;
use crate::sys::lock::{Lock, LockGuard};
use crate::sys::sync::{AtomicUsize, Ordering};
use crate::task::{Reason, WatchSet, Watcher};
use crate::wait::{Line, Queue, insist, wait};

const SLOW: usize = 1;
const ONE: usize = 2;

/// A number of permits. [`acquire`](Self::acquire) takes one, or waits in line until one is given back. gevent's
/// `Semaphore`, strictly first come, first served.
///
/// # Examples
///
/// ```
/// use switchgrass::{scope, sync::Semaphore, yield_now};
/// use std::cell::Cell;
///
/// let two_at_a_time = Semaphore::new(2);
/// let (inside, most) = (Cell::new(0), Cell::new(0));
/// scope(|s| {
///     for _ in 0..10 {
///         s.spawn(|| {
///             let _permit = two_at_a_time.acquire();
///             inside.set(inside.get() + 1);
///             most.set(most.get().max(inside.get()));
///             yield_now();
///             inside.set(inside.get() - 1);
///         });
///     }
/// });
/// assert_eq!(most.get(), 2);
/// ```
pub struct Semaphore {
    permits: AtomicUsize,
    /// How many permits there may be at most.
    bound: usize,
    waiting: Lock<Waiting>,
}

/// Behind the lock.
pub(crate) struct Waiting {
    queue: Queue<()>,
    watchers: Vec<Watcher>,
}

impl Semaphore {
    /// The most permits that there can be.
    pub const MAX_PERMITS: usize = usize::MAX >> 1;

    /// A semaphore with that many permits.
    ///
    /// # Panics
    ///
    /// If it is more than [`MAX_PERMITS`](Self::MAX_PERMITS).
    pub const fn new(permits: usize) -> Self {
        Semaphore::bounded(permits, Self::MAX_PERMITS)
    }

    const fn bounded(permits: usize, bound: usize) -> Self {
        assert!(permits <= Self::MAX_PERMITS, "too many permits");
        let waiting = Waiting { queue: Queue::new(), watchers: Vec::new() };
        Semaphore { permits: AtomicUsize::new(permits * ONE), bound, waiting: Lock::new(waiting) }
    }

    /// Takes a permit, which is given back when the returned value is dropped. Waits in line if there is none. May switch.
    ///
    /// In a destructor that runs while its greenlet unwinds, where nothing can be switched, this blocks
    /// the OS thread if it has to wait.
    ///
    /// # Panics
    ///
    /// On a thread's main stack, if nothing is left that could give a permit back.
    #[inline]
    pub fn acquire(&self) -> Permit<'_> {
        if !self.take() {
            self.wait();
        }
        Permit(self)
    }

    /// Takes a permit if there is one.
    ///
    /// If there is none, the other greenlets get a turn now and then, so that a loop of attempts does not keep those
    /// from running that would give one back. May switch.
    #[inline]
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        if self.take() {
            return Some(Permit(self));
        }
        be_fair();
        None
    }

    /// Takes a permit, but waits no longer than `duration` for it. `None` also in a destructor that runs while its
    /// greenlet unwinds, if it would have to wait. May switch.
    ///
    /// # Panics
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_timeout(&self, duration: Duration) -> Option<Permit<'_>> {
        (self.take() || self.wait_until(hub().deadline(duration))).then(|| Permit(self))
    }

    /// Gives a permit back, or one more. It goes to the first who waits, if anybody does. Does not switch.
    ///
    /// # Panics
    ///
    /// If there were more than [`MAX_PERMITS`](Self::MAX_PERMITS).
    #[inline]
    pub fn release(&self) {
        if !self.put() {
            self.fail_to_release();
        }
    }

    /// Puts a permit back. `false`: there are as many as there may be.
    #[inline]
    fn put(&self) -> bool {
        let mut permits = self.permits.load(Ordering::Relaxed);
        loop {
            if permits / ONE >= self.bound {
                return false;
            }
            if permits & SLOW != 0 {
                return self.release_slowly();
            }
            match self.permits.compare_exchange_weak(
                permits,
                permits + ONE,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => permits = now,
            }
        }
    }

    #[cold]
    fn fail_to_release(&self) -> ! {
        panic!("a semaphore of {} was released more often than it was acquired", self.bound);
    }

    /// How many permits can be had now.
    #[doc(alias = "counter")]
    pub fn available(&self) -> usize {
        self.permits.load(Ordering::Relaxed) / ONE
    }

    #[inline]
    fn take(&self) -> bool {
        let mut permits = self.permits.load(Ordering::Relaxed);
        while permits >= ONE {
            let fewer = permits - ONE;
            match self.permits.compare_exchange_weak(permits, fewer, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => permits = now,
            }
        }
        false
    }

    /// Takes a permit under the lock; or has all releases come by it from now on.
    fn take_or_be_slow(&self) -> bool {
        loop {
            if self.take() {
                return true;
            }
            // Only if there is none. So a release either comes before, and is seen, or takes the lock.
            let none = self.permits.load(Ordering::Relaxed) & SLOW;
            if self.permits.compare_exchange(none, SLOW, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return false;
            }
        }
    }

    #[cold]
    fn wait(&self) {
        let waiting = self.waiting.lock();
        if !self.take_or_be_slow() {
            insist(self, waiting, None);
        }
    }

    #[cold]
    fn wait_until(&self, deadline: Nanos) -> bool {
        let waiting = self.waiting.lock();
        self.take_or_be_slow() || wait(self, waiting, None, deadline).is_chosen()
    }

    #[cold]
    fn release_slowly(&self) -> bool {
        self.give(self.waiting.lock())
    }

    /// Hands one permit to the first who waits, or adds it to those that can be had. `false`: there are as many as there may be.
    fn give(&self, mut waiting: LockGuard<'_, Waiting>) -> bool {
        if let Some(((), wakeup)) = waiting.queue.hand_over(|_| ()) {
            drop(waiting);
            wakeup.wake();
            return true;
        }
        let mut permits = self.permits.load(Ordering::Relaxed);
        loop {
            if permits / ONE >= self.bound {
                return false;
            }
            // Nobody waits any more, and those who watch are told: the next releases need no lock.
            let more = (permits & !SLOW) + ONE;
            match self.permits.compare_exchange(permits, more, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => permits = now,
            }
        }
        let watchers = std::mem::take(&mut waiting.watchers);
        drop(waiting);
        watchers.iter().for_each(Watcher::notify);
        true
    }

    pub(crate) fn watch(&self, watcher: Watcher) {
        let mut waiting = self.waiting.lock();
        if self.take_or_be_slow() {
            // There is one: it is put back, and stays for whoever takes it.
            drop(waiting);
            self.put();
            watcher.notify();
        } else {
            waiting.watchers.push(watcher);
        }
    }

    pub(crate) fn unwatch(&self, set: &Arc<WatchSet>) {
        self.waiting.lock().watchers.retain(|watcher| !watcher.is_of(set));
    }
}

impl Line for Semaphore {
    type State = Waiting;
    type Item = ();

    fn lock(&self) -> &Lock<Waiting> {
        &self.waiting
    }

    fn queue(waiting: &mut Waiting) -> &mut Queue<()> {
        &mut waiting.queue
    }

    fn pass_on(&self, waiting: LockGuard<'_, Waiting>, _: Option<()>) {
        self.give(waiting);
    }

    fn reason(&self) -> Reason {
        Reason::shared("semaphore", self)
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.waiting.lock().queue.len();
        f.debug_struct("Semaphore").field("available", &self.available()).field("waiting", &waiting).finish()
    }
}

/// A permit of a [`Semaphore`]. Dropping it gives it back.
#[derive(Debug)]
#[must_use = "the permit is given back when this is dropped"]
pub struct Permit<'a>(&'a Semaphore);

impl Permit<'_> {
    /// Does not give the permit back: somebody will, by [`Semaphore::release`], or it is gone for good.
    pub fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        // Found out only now, of a `BoundedSemaphore`; while it unwinds, nothing is gained by aborting the process for it.
        if !self.0.put() && !std::thread::panicking() {
            self.0.fail_to_release();
        }
    }
}

/// A [`Semaphore`] that can never have more permits than it was made with: releasing what was not acquired is found
/// out, at the latest when the permit is dropped that was there already.
#[derive(Debug)]
pub struct BoundedSemaphore(Semaphore);

impl BoundedSemaphore {
    /// See [`Semaphore::new`].
    ///
    /// # Panics
    ///
    /// As that.
    pub const fn new(permits: usize) -> Self {
        BoundedSemaphore(Semaphore::bounded(permits, permits))
    }

    /// See [`Semaphore::acquire`]. May switch.
    ///
    /// # Panics
    ///
    /// As that.
    #[inline]
    pub fn acquire(&self) -> Permit<'_> {
        self.0.acquire()
    }

    /// See [`Semaphore::try_acquire`]. May switch.
    #[inline]
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        self.0.try_acquire()
    }

    /// See [`Semaphore::acquire_timeout`]. May switch.
    ///
    /// # Panics
    ///
    /// As [`Semaphore::acquire`].
    pub fn acquire_timeout(&self, duration: Duration) -> Option<Permit<'_>> {
        self.0.acquire_timeout(duration)
    }

    /// Gives a permit back whose [`Permit`] was [forgotten](Permit::forget). Does not switch.
    ///
    /// # Panics
    ///
    /// If there are as many as in the beginning: then this was not acquired before.
    pub fn release(&self) {
        self.0.release();
    }

    /// See [`Semaphore::available`].
    pub fn available(&self) -> usize {
        self.0.available()
    }

    pub(crate) fn watch(&self, watcher: Watcher) {
        self.0.watch(watcher);
    }

    pub(crate) fn unwatch(&self, set: &Arc<WatchSet>) {
        self.0.unwatch(set);
    }
}
