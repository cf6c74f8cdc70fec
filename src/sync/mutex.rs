//! std's `Mutex`, for greenlets.

#![allow(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{LockResult, PoisonError, TryLockError, TryLockResult};
use std::time::Duration;

use super::poison::{self, Poison};
use crate::hub::{be_fair, hub};
use crate::sys::clock::Nanos;
use crate::sys::lock::{Lock, LockGuard};
use crate::sys::sync::{AtomicU8, Ordering, UnsafeCell};
use crate::task::{NotSend, Reason};
use crate::wait::{Line, Queue, insist, wait};

/// A lock without what it guards: 0 or 1, and a line.
#[derive(Debug)]
pub(crate) struct RawMutex {
    state: AtomicU8,
    waiting: Lock<Queue<()>>,
    what: &'static str,
}

const FREE: u8 = 0;
const LOCKED: u8 = 1;
/// Locked, and somebody may wait.
const CONTENDED: u8 = 2;

impl RawMutex {
    /// `what`: how it is called in reports.
    pub(crate) const fn new(what: &'static str) -> Self {
        RawMutex { state: AtomicU8::new(FREE), waiting: Lock::new(Queue::new()), what }
    }

    #[inline]
    pub(crate) fn try_lock(&self) -> bool {
        self.state.compare_exchange(FREE, LOCKED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[inline]
    pub(crate) fn lock(&self) {
        if !self.try_lock() {
            self.wait();
        }
    }

    pub(crate) fn lock_until(&self, deadline: Nanos) -> bool {
        if self.try_lock() {
            return true;
        }
        let waiting = self.waiting.lock();
        self.lock_or_contend() || wait(self, waiting, None, deadline).is_chosen()
    }

    /// To be called by who has locked it, from whichever thread.
    #[inline]
    pub(crate) fn unlock(&self) {
        if self.state.compare_exchange(LOCKED, FREE, Ordering::Release, Ordering::Relaxed).is_err() {
            self.hand_over(self.waiting.lock());
        }
    }

    #[cold]
    fn wait(&self) {
        let waiting = self.waiting.lock();
        if !self.lock_or_contend() {
            insist(self, waiting, None);
        }
    }

    /// Under the lock of the line: locks it, or has `unlock` take the lock of the line.
    fn lock_or_contend(&self) -> bool {
        // Acquire: if it was FREE, it is ours.
        if self.state.swap(CONTENDED, Ordering::Acquire) == FREE {
            // CONTENDED without anybody in line costs the unlock one look at it.
            return true;
        }
        false
    }

    /// It stays locked, if somebody waits: by that one.
    #[cold]
    fn hand_over(&self, mut waiting: LockGuard<'_, Queue<()>>) {
        match waiting.hand_over(|_| ()) {
            Some(((), wakeup)) => {
                drop(waiting);
                wakeup.wake();
            }
            None => self.state.store(FREE, Ordering::Release),
        }
    }
}

impl Line for RawMutex {
    type State = Queue<()>;
    type Item = ();

    fn lock(&self) -> &Lock<Queue<()>> {
        &self.waiting
    }

    fn queue(waiting: &mut Queue<()>) -> &mut Queue<()> {
        waiting
    }

    fn pass_on(&self, waiting: LockGuard<'_, Queue<()>>, _: Option<()>) {
        self.hand_over(waiting);
    }

    fn reason(&self) -> Reason {
        Reason::shared(self.what, self)
    }
}

/// `std::sync::Mutex` for greenlets: who finds it locked lets the others run, and gets it in the order of coming.
///
/// It may be held across calls that switch. Poisoning is std's: a guard that is dropped by a panic (a kill and
/// a timeout unwind, too) poisons.
///
/// # Examples
///
/// ```
/// use std::rc::Rc;
/// use switchgrass::{spawn, sync::Mutex, yield_now};
///
/// let balance = Rc::new(Mutex::new(100));
/// let add = |amount| {
///     let balance = Rc::clone(&balance);
///     move || {
///         let mut balance = balance.lock().unwrap();
///         let before = *balance;
///         yield_now();                       // the other one waits for the lock meanwhile
///         *balance = before + amount;
///     }
/// };
/// let both = [spawn(add(1)), spawn(add(10))];
/// switchgrass::joinall(&both);
/// assert_eq!(*balance.lock().unwrap(), 111);
/// ```
#[doc(alias = "Lock")]
pub struct Mutex<T: ?Sized> {
    raw: RawMutex,
    poison: Poison,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives access to one at a time, from whichever thread; so the value must be good
// for being moved there and back.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

// What a holder that panics may leave half-changed, poisoning tells of, as std's.
impl<T: ?Sized> UnwindSafe for Mutex<T> {}
impl<T: ?Sized> RefUnwindSafe for Mutex<T> {}

impl<T> Mutex<T> {
    /// An unlocked mutex.
    pub const fn new(value: T) -> Self {
        Mutex { raw: RawMutex::new("mutex"), poison: Poison::new(), value: UnsafeCell::new(value) }
    }

    /// The value.
    ///
    /// # Errors
    ///
    /// The same, in a `PoisonError`, if a holder has panicked.
    pub fn into_inner(self) -> LockResult<T> {
        self.poison.check(self.value.into_inner())
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Locks it; waits in line as long as it is locked. May switch.
    ///
    /// In a destructor that runs while its greenlet unwinds, where nothing can be switched, this blocks
    /// the OS thread if it has to wait.
    ///
    /// # Errors
    ///
    /// The guard, in a `PoisonError`, if a holder has panicked.
    ///
    /// # Panics
    ///
    /// On a thread's main stack, if nothing is left that could unlock it.
    #[inline]
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        self.raw.lock();
        self.guard()
    }

    /// Locks it if it is free.
    ///
    /// If it is not, the other greenlets get a turn now and then, so that a loop of attempts does not keep the
    /// holder from running. May switch.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if it is locked; the guard, in `Poisoned`, if a holder has panicked.
    #[inline]
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        if !self.raw.try_lock() {
            be_fair();
            return Err(TryLockError::WouldBlock);
        }
        self.guard().map_err(TryLockError::Poisoned)
    }

    /// Locks it, but waits no longer than `duration` for it. May switch.
    ///
    /// # Errors
    ///
    /// As [`try_lock`](Self::try_lock). `WouldBlock` also in a destructor that runs while its greenlet
    /// unwinds, if it would have to wait.
    ///
    /// # Panics
    ///
    /// As [`lock`](Self::lock).
    pub fn lock_timeout(&self, duration: Duration) -> TryLockResult<MutexGuard<'_, T>> {
        if !self.raw.try_lock() && !self.raw.lock_until(hub().deadline(duration)) {
            return Err(TryLockError::WouldBlock);
        }
        self.guard().map_err(TryLockError::Poisoned)
    }

    /// Whether a holder has panicked.
    pub fn is_poisoned(&self) -> bool {
        self.poison.is_set()
    }

    /// Forgets that a holder has panicked.
    pub fn clear_poison(&self) {
        self.poison.clear();
    }

    /// The value: nobody else can have it, since this is borrowed as a whole.
    ///
    /// # Errors
    ///
    /// The same, in a `PoisonError`, if a holder has panicked.
    pub fn get_mut(&mut self) -> LockResult<&mut T> {
        self.poison.check(self.value.get_mut())
    }

    /// The lock is ours.
    #[inline]
    pub(super) fn guard(&self) -> LockResult<MutexGuard<'_, T>> {
        let panicking = poison::Guard::new();
        self.poison.check(MutexGuard { mutex: self, panicking, stays: PhantomData })
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Mutex::new(T::default())
    }
}

impl<T> From<T> for Mutex<T> {
    fn from(value: T) -> Self {
        Mutex::new(value)
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Mutex");
        if self.raw.try_lock() {
            // Unlocks when it is dropped; poison does not matter here.
            let guard = self.guard().unwrap_or_else(PoisonError::into_inner);
            out.field("data", &&*guard);
        } else {
            out.field("data", &format_args!("<locked>"));
        }
        out.field("poisoned", &self.is_poisoned()).finish_non_exhaustive()
    }
}

/// The right to use what a [`Mutex`] guards. Dropping it unlocks.
#[must_use = "the mutex is unlocked when this is dropped"]
pub struct MutexGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
    panicking: poison::Guard,
    stays: NotSend,
}

// SAFETY: a shared guard gives shared access to the value, and nothing else.
unsafe impl<T: ?Sized + Sync> Sync for MutexGuard<'_, T> {}

impl<'a, T: ?Sized> MutexGuard<'a, T> {
    /// Where the guard comes from, for a `Condvar`.
    pub(super) fn mutex(&self) -> &'a Mutex<T> {
        self.mutex
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Locks it again for a `Condvar`.
    pub(super) fn raw(&self) -> &RawMutex {
        &self.raw
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the lock is ours as long as the guard exists.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is borrowed mutably.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.mutex.poison.done(&self.panicking);
        self.mutex.raw.unlock();
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
