//! The typed part of a greenlet: its closure, and its result on the way to whoever joins.
//!
//! The result is dropped by whoever is last: the greenlet, if its handle is gone when it ends (so that user code runs on the
//! greenlet's stack, not on the hub's), else the handle. Two bits decide it; each side sets its own and looks at the other's.

use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::coro::unwind::{self, Payload};
use crate::task::{Body, GreenletExit, Task};

pub(super) struct Packet<F, T> {
    pub(super) result: ResultPart<T>,
    /// Taken at the first run, by the greenlet's thread.
    f: Cell<Option<F>>,
}

pub(super) struct ResultPart<T> {
    bits: AtomicU8,
    /// Written once, before DONE. After DONE and DETACHED (or by `take`, which consumes the handle before it could detach),
    /// taken by whoever set the second of the bits.
    value: UnsafeCell<Option<Result<T, Payload>>>,
    /// Of a scope: set if the greenlet panicked and nobody took the result. Null outside of scopes.
    unhandled: *const Cell<bool>,
}

/// The value is there.
const DONE: u8 = 1;
/// The handle is gone.
const DETACHED: u8 = 2;

impl<F, T> Packet<F, T> {
    #[inline]
    pub(super) fn new(f: F, unhandled: *const Cell<bool>) -> Self {
        Packet {
            result: ResultPart { bits: AtomicU8::new(0), value: UnsafeCell::new(None), unhandled },
            f: Cell::new(Some(f)),
        }
    }
}

impl<F: FnOnce() -> T, T> Body for Packet<F, T> {
    fn run(&self, _task: &Task, start: Result<(), Payload>) {
        let f = self.f.take();
        let value = match start {
            Ok(()) => unwind::catch(f.expect("a greenlet runs once")),
            // Killed before its first run. A panic of what it drops is nobody's result.
            Err(payload) => {
                let _ = unwind::catch(|| drop(f));
                Err(payload)
            }
        };
        self.result.store(value);
    }
}

impl<T> ResultPart<T> {
    fn store(&self, value: Result<T, Payload>) {
        // SAFETY: DONE is not set, so nobody else looks at the value.
        unsafe { *self.value.get() = Some(value) };
        if self.bits.fetch_or(DONE, Ordering::AcqRel) & DETACHED != 0 {
            // SAFETY: both bits are set, and ours was the second.
            let value = unsafe { (*self.value.get()).take() };
            self.discard(value);
        }
    }

    /// The handle goes away.
    #[inline]
    pub(super) fn detach(&self) {
        if self.bits.fetch_or(DETACHED, Ordering::AcqRel) & DONE != 0 {
            // SAFETY: both bits are set, and ours was the second.
            let value = unsafe { (*self.value.get()).take() };
            self.discard(value);
        }
    }

    /// The result of a greenlet that has ended.
    ///
    /// # Safety
    ///
    /// The caller must have the greenlet's one handle, and the greenlet must have ended.
    pub(super) unsafe fn take(&self) -> Result<T, Payload> {
        if self.bits.load(Ordering::Acquire) & DONE == 0 {
            return Err(Box::new(
                "this greenlet has no result: its thread has ended and it could not be unwound, or it was left behind in the parent process by a fork",
            ));
        }
        // SAFETY: DONE is set and DETACHED is not, so the value is the handle's, which is the caller's.
        let value = unsafe { (*self.value.get()).take() };
        value.expect("the handle takes the result once")
    }

    fn discard(&self, value: Option<Result<T, Payload>>) {
        let Some(value) = value else { return };
        if let Err(payload) = &value
            && !self.unhandled.is_null()
            && !payload.is::<GreenletExit>()
        {
            // SAFETY: a scope outlives its greenlets and their handles, and is on this thread.
            unsafe { (*self.unhandled).set(true) };
        }
        // The destructor of a result that nobody wants has nobody to panic to.
        let _ = unwind::catch(|| drop(value));
    }
}
