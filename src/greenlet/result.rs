//! The result of a greenlet on the way to whoever joins.
//!
//! It is dropped by whoever is last: the greenlet, if its handle is gone when it ends (so that user code runs on the
//! greenlet's stack, not on the hub's), else the handle. Two bits decide it; each side sets its own and looks at the other's.
//!
//! Before it ends, the greenlet gives each of its links a look at the result: a third bit tells that there are any.

#![allow(unsafe_code)]

use crate::coro::unwind::{self, Payload};
use crate::sys::lock::Lock;
use crate::sys::sync::{AtomicBool, AtomicU8, Ordering, UnsafeCell};
use crate::task::GreenletExit;

pub(super) struct ResultPart<T> {
    bits: AtomicU8,
    /// Written once, before DONE. After DONE and DETACHED (or by `take`, which consumes the handle before it could detach),
    /// taken by whoever set the second of the bits.
    value: UnsafeCell<Option<Result<T, Payload>>>,
    /// Of a scope: set if the greenlet panicked and nobody took the result. Null outside of scopes.
    unhandled: *const AtomicBool,
    /// Boxed, since most have none.
    links: Lock<Option<Box<Looks<T>>>>,
}

/// What a link does with the result, on the greenlet's thread.
pub(super) type Look<T> = Box<dyn FnOnce(&Result<T, Payload>)>;

struct Looks<T>(Vec<Look<T>>);

impl<T> Default for Looks<T> {
    fn default() -> Self {
        Looks(Vec::new())
    }
}

/// The value is there.
const DONE: u8 = 1;
/// The handle is gone.
const DETACHED: u8 = 2;
/// `links` is not empty.
const LINKED: u8 = 4;

impl<T> ResultPart<T> {
    pub(super) const fn new(unhandled: *const AtomicBool) -> Self {
        ResultPart { bits: AtomicU8::new(0), value: UnsafeCell::new(None), unhandled, links: Lock::new(None) }
    }

    /// The greenlet has ended with that: to be called once, by it.
    #[inline]
    pub(super) fn store(&self, value: Result<T, Payload>) {
        // SAFETY: DONE is not set, so nobody else looks at the value.
        unsafe { *self.value.get() = Some(value) };
        // Usually there are no links, and the handle is there.
        if self.bits.compare_exchange(0, DONE, Ordering::AcqRel, Ordering::Acquire).is_err() {
            self.finish_slowly();
        }
    }

    #[cold]
    fn finish_slowly(&self) {
        let mut bits = self.bits.load(Ordering::Acquire);
        loop {
            if bits & LINKED != 0 {
                bits = self.bits.fetch_and(!LINKED, Ordering::AcqRel) & !LINKED;
                let links = self.links.lock().take();
                // SAFETY: DONE is not set, so the value is this thread's, which only looks at it here.
                if let Some(value) = unsafe { (*self.value.get()).as_ref() } {
                    links.into_iter().flat_map(|links| links.0).for_each(|look| look(value));
                }
            }
            match self.bits.compare_exchange(bits, bits | DONE, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => bits = now,
            }
        }
        if bits & DETACHED != 0 {
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

    /// What there is of the result, for the owner of the one handle.
    ///
    /// # Safety
    ///
    /// The caller must have the greenlet's one handle, or a borrow of it, for as long as it uses what it gets.
    pub(super) unsafe fn peek(&self) -> Option<&Result<T, Payload>> {
        if self.bits.load(Ordering::Acquire) & DONE == 0 {
            return None;
        }
        // SAFETY: DONE is set and the handle exists, so nobody but its owner has the value, who only looks at it.
        unsafe { (*self.value.get()).as_ref() }
    }

    /// Has `look` called with the result: by the greenlet before it ends, or now.
    ///
    /// # Safety
    ///
    /// As for [`peek`](Self::peek). On another thread than the greenlet's, `look` must be good for being called there.
    pub(super) unsafe fn link(&self, look: Look<T>) {
        let mut links = self.links.lock();
        // SAFETY: the caller's promise.
        match unsafe { self.peek() } {
            Some(value) => {
                drop(links);
                look(value);
            }
            None => {
                links.get_or_insert_default().0.push(look);
                if self.bits.fetch_or(LINKED, Ordering::AcqRel) & DONE == 0 {
                    return;
                }
                // It has ended since, and did not see it.
                let missed = links.take();
                drop(links);
                // SAFETY: as above.
                if let Some(value) = unsafe { self.peek() } {
                    missed.into_iter().flat_map(|links| links.0).for_each(|look| look(value));
                }
            }
        }
    }

    fn discard(&self, value: Option<Result<T, Payload>>) {
        let Some(value) = value else { return };
        if let Err(payload) = &value
            && !self.unhandled.is_null()
            && !payload.is::<GreenletExit>()
        {
            // SAFETY: a scope outlives its greenlets and their handles.
            unsafe { (*self.unhandled).store(true, Ordering::Release) };
        }
        // The destructor of a result that nobody wants has nobody to panic to.
        let _ = unwind::catch(|| drop(value));
    }
}
