//! The lock around plain data that several threads share.

use super::hooks::Aside;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// Whoever holds a lock of ours is done in some 20 ns, unless its thread was taken off its core. So it is waited for a few µs before the kernel
/// is asked, for which both sides would pay with a system call: for 2^n pauses of the processor, and then another look. Not one
/// pause at first: two threads that take the lock in turns have its cache line, and what it guards, sent to and fro each time.
const PAUSES: std::ops::Range<u32> = 3..8;

/// A mutex for sections of a few instructions, in which nobody waits, switches or runs the user's code.
///
/// What it guards is plain data that no panic can leave half-changed, so there is no poisoning.
#[derive(Debug, Default)]
pub(crate) struct Lock<T>(Mutex<T>);

pub(crate) type LockGuard<'a, T> = MutexGuard<'a, T>;

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Lock(Mutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> LockGuard<'_, T> {
        match self.try_lock() {
            Some(guard) => guard,
            None => self.lock_contended(),
        }
    }

    #[cold]
    fn lock_contended(&self) -> LockGuard<'_, T> {
        for n in PAUSES {
            for _ in 0..1 << n {
                std::hint::spin_loop();
            }
            if let Some(guard) = self.try_lock() {
                return guard;
            }
        }
        // Not for the greenlet, for the thread: nobody may run in between.
        let _aside = Aside::step();
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` if somebody has it.
    pub(crate) fn try_lock(&self) -> Option<LockGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// Locks a mutex of std's in the same way.
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    let _aside = Aside::step();
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
