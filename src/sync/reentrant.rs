//! A mutex that its owner may lock again.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::mutex::RawMutex;
use crate::hub::{be_fair, hub};
use crate::task::NotSend;

/// No task has this id.
const NOBODY: u64 = 0;

/// A mutex that the greenlet which has it may lock again, as often as it likes; it is free for others when all guards
/// are dropped. gevent's `RLock`, and std's `ReentrantLock`.
///
/// Since there may be several guards, each gives a `&T` only: put a `Cell` or a `RefCell` into it to change
/// something. There is no poisoning.
///
/// The owner is the greenlet (or the thread's main context, or a coroutine), not the thread. Only a guard unlocks, so
/// nobody can unlock what he has not locked.
///
/// # Examples
///
/// ```
/// use std::cell::Cell;
/// use switchgrass::sync::ReentrantMutex;
///
/// let count = ReentrantMutex::new(Cell::new(0));
/// let add_one = || {
///     let count = count.lock();
///     count.set(count.get() + 1);
/// };
/// let guard = count.lock();
/// add_one();
/// add_one();
/// assert_eq!(guard.get(), 2);
/// ```
#[doc(alias = "RLock")]
pub struct ReentrantMutex<T: ?Sized> {
    raw: RawMutex,
    /// The id of the task that has it.
    owner: AtomicU64,
    /// How many guards there are. Touched only on the thread that has locked `raw`.
    guards: Cell<usize>,
    value: T,
}

// SAFETY: only the value is not Send by itself.
unsafe impl<T: ?Sized + Send> Send for ReentrantMutex<T> {}
// SAFETY: guards are not Send, and tasks stay on their thread. So as long as there is one, the value and `guards` are
// used on one thread only, and `raw` orders that with what the next owner does. T needs no Sync for this.
unsafe impl<T: ?Sized + Send> Sync for ReentrantMutex<T> {}

impl<T: ?Sized + UnwindSafe> UnwindSafe for ReentrantMutex<T> {}
impl<T: ?Sized + RefUnwindSafe> RefUnwindSafe for ReentrantMutex<T> {}

impl<T> ReentrantMutex<T> {
    /// An unlocked mutex.
    pub const fn new(value: T) -> Self {
        ReentrantMutex {
            raw: RawMutex::new("reentrant mutex"),
            owner: AtomicU64::new(NOBODY),
            guards: Cell::new(0),
            value,
        }
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<T: ?Sized> ReentrantMutex<T> {
    /// Locks it: at once if the current greenlet has it already, else in line. May switch.
    ///
    /// In a destructor that runs while its greenlet unwinds, where nothing can be switched, this blocks
    /// the OS thread if it has to wait.
    ///
    /// # Panics
    ///
    /// On a thread's main stack, if nothing is left that could unlock it.
    #[inline]
    pub fn lock(&self) -> ReentrantMutexGuard<'_, T> {
        let own = own_id();
        if !self.is_owned_by(own) {
            self.raw.lock();
        }
        self.guard(own)
    }

    /// Locks it if it is free, or the current greenlet's.
    ///
    /// If it is not, the other greenlets get a turn now and then, so that a loop of attempts does not keep the
    /// holder from running. May switch.
    #[inline]
    pub fn try_lock(&self) -> Option<ReentrantMutexGuard<'_, T>> {
        let own = own_id();
        if self.is_owned_by(own) || self.raw.try_lock() {
            return Some(self.guard(own));
        }
        be_fair();
        None
    }

    /// Locks it, but waits no longer than `duration` for it. `None` also in a destructor that runs while its greenlet
    /// unwinds, if it would have to wait. May switch.
    ///
    /// # Panics
    ///
    /// As [`lock`](Self::lock).
    pub fn lock_timeout(&self, duration: Duration) -> Option<ReentrantMutexGuard<'_, T>> {
        let own = own_id();
        let locked = self.is_owned_by(own) || self.raw.lock_until(hub().deadline(duration));
        locked.then(|| self.guard(own))
    }

    /// The value: nobody else can have it, since this is borrowed as a whole.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.value
    }

    #[inline]
    fn is_owned_by(&self, task: u64) -> bool {
        // Relaxed: it is the own id only if this task has put it there. Any other value means the same.
        self.owner.load(Ordering::Relaxed) == task
    }

    /// The lock is ours.
    #[inline]
    fn guard(&self, own: u64) -> ReentrantMutexGuard<'_, T> {
        self.owner.store(own, Ordering::Relaxed);
        self.guards.set(self.guards.get().checked_add(1).expect("too many guards of a ReentrantMutex"));
        ReentrantMutexGuard { mutex: self, stays: PhantomData }
    }
}

#[inline]
fn own_id() -> u64 {
    hub().current().shared.id
}

impl<T: Default> Default for ReentrantMutex<T> {
    fn default() -> Self {
        ReentrantMutex::new(T::default())
    }
}

impl<T> From<T> for ReentrantMutex<T> {
    fn from(value: T) -> Self {
        ReentrantMutex::new(value)
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for ReentrantMutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("ReentrantMutex");
        let own = own_id();
        if self.is_owned_by(own) || self.raw.try_lock() {
            out.field("data", &&*self.guard(own));
        } else {
            out.field("data", &format_args!("<locked>"));
        }
        out.finish_non_exhaustive()
    }
}

/// One of the rights to use what a [`ReentrantMutex`] guards. Dropping the last of them unlocks.
#[must_use = "the mutex is unlocked when this is dropped"]
pub struct ReentrantMutexGuard<'a, T: ?Sized> {
    mutex: &'a ReentrantMutex<T>,
    stays: NotSend,
}

// SAFETY: a shared guard gives shared access to the value, and nothing else.
unsafe impl<T: ?Sized + Sync> Sync for ReentrantMutexGuard<'_, T> {}

impl<T: ?Sized> Deref for ReentrantMutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.mutex.value
    }
}

impl<T: ?Sized> Drop for ReentrantMutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        let mutex = self.mutex;
        let left = mutex.guards.get() - 1;
        mutex.guards.set(left);
        if left == 0 {
            mutex.owner.store(NOBODY, Ordering::Relaxed);
            mutex.raw.unlock();
        }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for ReentrantMutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for ReentrantMutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
