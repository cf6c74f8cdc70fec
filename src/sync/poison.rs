//! std's poisoning: a lock remembers that a holder has panicked.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LockResult, PoisonError};

#[derive(Debug)]
pub(super) struct Poison(AtomicBool);

/// Whether the thread was panicking already when the lock was taken: then its end is not the fault of what happens meanwhile.
#[derive(Debug)]
pub(super) struct Guard {
    panicking: bool,
}

impl Guard {
    #[inline]
    pub(super) fn new() -> Self {
        Guard { panicking: std::thread::panicking() }
    }
}

impl Poison {
    pub(super) const fn new() -> Self {
        Poison(AtomicBool::new(false))
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// The lock is about to be given up.
    #[inline]
    pub(super) fn done(&self, guard: &Guard) {
        if !guard.panicking && std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) fn check<T>(&self, value: T) -> LockResult<T> {
        if self.is_set() { Err(PoisonError::new(value)) } else { Ok(value) }
    }
}
