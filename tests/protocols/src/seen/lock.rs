//! In place of the library's `sys::lock`.
//!
//! Not loom's mutex: that has std's inside, whose poisoning counts panics by threads of the system. Here a kill unwinds one of loom's
//! threads while others, on the same thread of the system, lock and unlock.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::fmt;
use std::ops::{Deref, DerefMut};

use loom::thread::{self, Thread};

use super::sync::{AtomicBool, Ordering};

pub(crate) struct Lock<T> {
    /// By this access loom sees when it is locked and unlocked, and what happens before what.
    turn: AtomicBool,
    locked: Cell<bool>,
    waiting: RefCell<Vec<Thread>>,
    value: UnsafeCell<T>,
}

impl<T: Default> Default for Lock<T> {
    fn default() -> Self {
        Lock::new(T::default())
    }
}

// SAFETY: one at a time has the value.
unsafe impl<T: Send> Send for Lock<T> {}
// SAFETY: as above; and loom's threads take turns on one thread of the system, between accesses that loom sees.
unsafe impl<T: Send> Sync for Lock<T> {}

pub(crate) struct LockGuard<'a, T> {
    lock: &'a Lock<T>,
}

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Lock {
            turn: AtomicBool::new(false),
            locked: Cell::new(false),
            waiting: RefCell::new(Vec::new()),
            value: UnsafeCell::new(value),
        }
    }

    pub(crate) fn lock(&self) -> LockGuard<'_, T> {
        loop {
            self.turn.swap(true, Ordering::AcqRel);
            if !self.locked.replace(true) {
                return LockGuard { lock: self };
            }
            self.waiting.borrow_mut().push(thread::current());
            thread::park();
        }
    }

    pub(crate) fn try_lock(&self) -> Option<LockGuard<'_, T>> {
        self.turn.swap(true, Ordering::AcqRel);
        (!self.locked.replace(true)).then(|| LockGuard { lock: self })
    }
}

impl<T> Deref for LockGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: locked.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for LockGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: locked, and the guard is borrowed mutably.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for LockGuard<'_, T> {
    fn drop(&mut self) {
        self.lock.turn.swap(false, Ordering::AcqRel);
        self.lock.locked.set(false);
        for thread in self.lock.waiting.take() {
            thread.unpark();
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Some(guard) => write!(f, "Lock({:?})", *guard),
            None => f.write_str("Lock"),
        }
    }
}
