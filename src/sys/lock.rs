//! The lock around plain data that several threads share.

use super::hooks::Aside;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// Whoever holds a lock of ours is done in some 20 ns, unless its thread was taken off its core. So it is worth to wait for about 2 µs,
/// more rarely each time, before the kernel is asked to: then both sides pay for a system call.
const PATIENCE: u32 = 6;

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
        for turn in 0..PATIENCE {
            for _ in 0..1 << turn {
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
