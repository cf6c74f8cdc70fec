//! std's `RwLock`, for greenlets.
//!
//! One word holds who is inside, and whether somebody waits:
//!
//! ```text
//!   SLOW | WRITER | number of readers
//! ```
//!
//! SLOW is set exactly while there is a line: then nobody goes in but from its head, and who leaves looks at it. So
//! without a line each operation is one atomic on the word, and with one, nobody overtakes.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LockResult, PoisonError, TryLockError, TryLockResult};

use super::poison::{self, Poison};
use crate::hub::be_fair;
use crate::sys::lock::{Lock, LockGuard};
use crate::task::{NotSend, Reason};
use crate::wait::{Line, Queue, insist};

const SLOW: usize = 1 << (usize::BITS - 1);
const WRITER: usize = 1 << (usize::BITS - 2);
/// Any number below is one of readers: neither flag is set.
const MOST_READERS: usize = WRITER - 1;

/// What one wants to go in for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

impl Access {
    /// Whether those inside (without SLOW) leave room.
    #[inline]
    fn fits(self, inside: usize) -> bool {
        match self {
            Access::Read => inside < MOST_READERS,
            Access::Write => inside == 0,
        }
    }

    /// What it adds to the word.
    #[inline]
    fn weight(self) -> usize {
        match self {
            Access::Read => 1,
            Access::Write => WRITER,
        }
    }
}

/// The lock without what it guards.
struct RawRwLock {
    state: AtomicUsize,
    waiting: Lock<Queue<Access>>,
}

impl RawRwLock {
    const fn new() -> Self {
        RawRwLock { state: AtomicUsize::new(0), waiting: Lock::new(Queue::new()) }
    }

    #[inline]
    fn try_enter(&self, access: Access) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        // With SLOW set, nothing fits.
        while access.fits(state) {
            let more = state + access.weight();
            match self.state.compare_exchange_weak(state, more, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    #[inline]
    fn enter(&self, access: Access) {
        if !self.try_enter(access) {
            self.wait(access);
        }
    }

    #[cold]
    fn wait(&self, access: Access) {
        let waiting = self.waiting.lock();
        if !self.enter_or_be_slow(access) {
            insist(self, waiting, Some(access));
        }
    }

    /// Under the lock of the line: goes in, or has who leaves look at the line.
    fn enter_or_be_slow(&self, access: Access) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let enters = access.fits(state);
            // Only while somebody is inside, or in line. So the last of those is still to come by.
            let next = if enters { state + access.weight() } else { state | SLOW };
            match self.state.compare_exchange_weak(state, next, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return enters,
                Err(now) => state = now,
            }
        }
    }

    #[inline]
    fn leave(&self, access: Access) {
        let before = self.state.fetch_sub(access.weight(), Ordering::Release);
        if before == SLOW + access.weight() {
            self.let_in();
        }
    }

    /// The writer goes on as a reader.
    fn downgrade(&self) {
        if self.state.fetch_sub(WRITER - 1, Ordering::Release) & SLOW != 0 {
            self.let_in();
        }
    }

    #[cold]
    fn let_in(&self) {
        self.admit(self.waiting.lock());
    }

    /// Lets in those at the head of the line for whom there is room: one writer, or all readers up to the next writer.
    /// To be called whenever that may have become more.
    fn admit(&self, mut waiting: LockGuard<'_, Queue<Access>>) {
        // With SLOW set, nobody goes in meanwhile. Readers may leave: whoever leaves last gets the lock
        // after us, if this looks too early.
        let fits = |access: &Option<Access>| {
            access.is_some_and(|access| access.fits(self.state.load(Ordering::Relaxed) & !SLOW))
        };
        // Acquire: of what all those did who have left.
        let enter = |access: &mut Option<Access>| {
            self.state.fetch_add(access.map_or(0, Access::weight), Ordering::Acquire);
        };
        while let Some(((), wakeup)) = waiting.hand_over_if(fits, enter) {
            wakeup.wake();
        }
        if waiting.is_empty() {
            self.state.fetch_and(!SLOW, Ordering::Relaxed);
        }
    }
}

impl Line for RawRwLock {
    type State = Queue<Access>;
    type Item = Access;

    fn lock(&self) -> &Lock<Queue<Access>> {
        &self.waiting
    }

    fn queue(waiting: &mut Queue<Access>) -> &mut Queue<Access> {
        waiting
    }

    /// It is inside, and leaves at once.
    fn pass_on(&self, waiting: LockGuard<'_, Queue<Access>>, access: Option<Access>) {
        self.state.fetch_sub(access.map_or(0, Access::weight), Ordering::Release);
        self.admit(waiting);
    }

    /// It was a writer at the head of the line, perhaps, with readers behind it and inside.
    fn gave_up(&self, waiting: LockGuard<'_, Queue<Access>>) {
        self.admit(waiting);
    }

    fn reason(&self) -> Reason {
        Reason::shared("rwlock", self)
    }
}

/// `std::sync::RwLock` for greenlets: many may read at a time, or one may write.
///
/// Strictly first come, first served: who comes while somebody waits goes to the end of the line, readers too.
/// So neither readers nor writers starve. When its turn has come, a reader goes in together with all readers
/// behind it, up to the next writer.
///
/// It may be held across calls that switch. Poisoning is std's: a *write* guard that is dropped by a panic (a kill and
/// a timeout unwind, too) poisons.
///
/// # Recursion
///
/// Who holds a guard and asks for another may wait for itself. Always if one of both is to write; and also for two
/// reads, if a writer has come in between: the second read goes behind the writer, who waits for the first. On one hub
/// that becomes a report of a deadlock.
///
/// # Examples
///
/// ```
/// use switchgrass::{scope, sync::RwLock, yield_now};
///
/// let names = RwLock::new(vec!["Ada"]);
/// scope(|s| {
///     for _ in 0..3 {
///         s.spawn(|| {
///             let names = names.read().unwrap();
///             yield_now();                        // the other readers are in here, too
///             assert_eq!(names[0], "Ada");
///         });
///     }
///     s.spawn(|| names.write().unwrap().push("Grace"));
/// });
/// assert_eq!(*names.read().unwrap(), ["Ada", "Grace"]);
/// ```
pub struct RwLock<T: ?Sized> {
    raw: RawRwLock,
    poison: Poison,
    value: UnsafeCell<T>,
}

// SAFETY: the value may be moved to where it is used next, as with a mutex.
unsafe impl<T: ?Sized + Send> Send for RwLock<T> {}
// SAFETY: a writer on another thread may move it there; and readers share it, on several threads at once.
unsafe impl<T: ?Sized + Send + Sync> Sync for RwLock<T> {}

// What a writer that panics may leave half-changed, poisoning tells of, as std's.
impl<T: ?Sized> UnwindSafe for RwLock<T> {}
impl<T: ?Sized> RefUnwindSafe for RwLock<T> {}

impl<T> RwLock<T> {
    /// An unlocked lock.
    pub const fn new(value: T) -> Self {
        RwLock { raw: RawRwLock::new(), poison: Poison::new(), value: UnsafeCell::new(value) }
    }

    /// The value.
    ///
    /// # Errors
    ///
    /// The same, in a `PoisonError`, if a writer has panicked.
    pub fn into_inner(self) -> LockResult<T> {
        self.poison.check(self.value.into_inner())
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Locks it for reading, together with other readers; waits in line as long as somebody writes, or waits before. May switch.
    ///
    /// In a destructor that runs while its greenlet unwinds, where nothing can be switched, this blocks
    /// the OS thread if it has to wait.
    ///
    /// # Errors
    ///
    /// The guard, in a `PoisonError`, if a writer has panicked.
    ///
    /// # Panics
    ///
    /// On a thread's main stack, if nothing is left that could unlock it.
    #[inline]
    pub fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        self.raw.enter(Access::Read);
        self.reader()
    }

    /// Locks it for reading if nobody writes, and nobody waits.
    ///
    /// If it fails, the other greenlets get a turn now and then, so that a loop of attempts does not keep the
    /// holder from running. May switch.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if it cannot be had now; the guard, in `Poisoned`, if a writer has panicked.
    #[inline]
    pub fn try_read(&self) -> TryLockResult<RwLockReadGuard<'_, T>> {
        self.try_enter(Access::Read)?;
        self.reader().map_err(TryLockError::Poisoned)
    }

    /// Locks it for writing, alone; waits in line as long as somebody is inside. May switch.
    ///
    /// # Errors
    ///
    /// The guard, in a `PoisonError`, if a writer has panicked.
    ///
    /// # Panics
    ///
    /// As [`read`](Self::read).
    #[inline]
    pub fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        self.raw.enter(Access::Write);
        self.writer()
    }

    /// Locks it for writing if nobody is inside. May switch, as [`try_read`](Self::try_read).
    ///
    /// # Errors
    ///
    /// As [`try_read`](Self::try_read).
    #[inline]
    pub fn try_write(&self) -> TryLockResult<RwLockWriteGuard<'_, T>> {
        self.try_enter(Access::Write)?;
        self.writer().map_err(TryLockError::Poisoned)
    }

    /// Whether a writer has panicked.
    pub fn is_poisoned(&self) -> bool {
        self.poison.is_set()
    }

    /// Forgets that a writer has panicked.
    pub fn clear_poison(&self) {
        self.poison.clear();
    }

    /// The value: nobody else can have it, since this is borrowed as a whole.
    ///
    /// # Errors
    ///
    /// The same, in a `PoisonError`, if a writer has panicked.
    pub fn get_mut(&mut self) -> LockResult<&mut T> {
        self.poison.check(self.value.get_mut())
    }

    #[inline]
    fn try_enter<G>(&self, access: Access) -> Result<(), TryLockError<G>> {
        if self.raw.try_enter(access) {
            return Ok(());
        }
        be_fair();
        Err(TryLockError::WouldBlock)
    }

    /// We are inside, to read.
    #[inline]
    fn reader(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        self.poison.check(RwLockReadGuard { lock: self, stays: PhantomData })
    }

    /// We are inside, to write.
    #[inline]
    fn writer(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        let panicking = poison::Guard::new();
        self.poison.check(RwLockWriteGuard { lock: self, panicking, stays: PhantomData })
    }
}

impl<T: Default> Default for RwLock<T> {
    fn default() -> Self {
        RwLock::new(T::default())
    }
}

impl<T> From<T> for RwLock<T> {
    fn from(value: T) -> Self {
        RwLock::new(value)
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("RwLock");
        if self.raw.try_enter(Access::Read) {
            // Unlocks when it is dropped; poison does not matter here.
            let guard = self.reader().unwrap_or_else(PoisonError::into_inner);
            out.field("data", &&*guard);
        } else {
            out.field("data", &format_args!("<locked>"));
        }
        out.field("poisoned", &self.is_poisoned()).finish_non_exhaustive()
    }
}

/// The right to read what a [`RwLock`] guards. Dropping it unlocks.
#[must_use = "the lock is unlocked when this is dropped"]
pub struct RwLockReadGuard<'a, T: ?Sized> {
    lock: &'a RwLock<T>,
    stays: NotSend,
}

// SAFETY: a shared guard gives shared access to the value, and nothing else.
unsafe impl<T: ?Sized + Sync> Sync for RwLockReadGuard<'_, T> {}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: as long as the guard exists, there are readers only.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for RwLockReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.raw.leave(Access::Read);
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLockReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for RwLockReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// The right to change what a [`RwLock`] guards. Dropping it unlocks.
#[must_use = "the lock is unlocked when this is dropped"]
pub struct RwLockWriteGuard<'a, T: ?Sized> {
    lock: &'a RwLock<T>,
    panicking: poison::Guard,
    stays: NotSend,
}

// SAFETY: a shared guard gives shared access to the value, and nothing else.
unsafe impl<T: ?Sized + Sync> Sync for RwLockWriteGuard<'_, T> {}

impl<'a, T: ?Sized> RwLockWriteGuard<'a, T> {
    /// Goes on reading, without anybody writing in between. Readers at the head of the line come in. Does not switch.
    pub fn downgrade(s: Self) -> RwLockReadGuard<'a, T> {
        let writer = ManuallyDrop::new(s);
        writer.lock.poison.done(&writer.panicking);
        writer.lock.raw.downgrade();
        RwLockReadGuard { lock: writer.lock, stays: PhantomData }
    }
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: nobody else is inside as long as the guard exists.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is borrowed mutably.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for RwLockWriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.poison.done(&self.panicking);
        self.lock.raw.leave(Access::Write);
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLockWriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for RwLockWriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
