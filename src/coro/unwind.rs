//! Panics: caught at one door, carried as values, fatal where they would leave our own state torn.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};

use crate::sys;

/// What a panic carries.
pub(crate) type Payload = Box<dyn Any + Send + 'static>;

/// Runs `f` and catches what unwinds out of it.
///
/// No `UnwindSafe` is asked for: what `f` could have left broken is visible only to those who get the
/// payload, as with `std::thread::spawn`.
#[inline]
pub(crate) fn catch<R>(f: impl FnOnce() -> R) -> Result<R, Payload> {
    panic::catch_unwind(AssertUnwindSafe(f))
}

/// Goes on unwinding with `payload`, without the panic hook: whoever raised it first has reported it, or
/// it is no error.
pub(crate) fn raise(payload: Payload) -> ! {
    panic::resume_unwind(payload)
}

/// Whether this program can unwind at all.
pub(crate) fn is_possible() -> bool {
    cfg!(panic = "unwind")
}

/// Refuses what cannot work where nothing can unwind.
pub(crate) fn require(what: &str) {
    assert!(
        is_possible(),
        "{what} works by unwinding, and this program is built with panic = \"abort\": build it with panic = \"unwind\""
    );
}

/// Aborts when dropped: put up where a panic would tear our state, forgotten when all went well.
#[derive(Debug)]
pub(crate) struct AbortIfPanic(pub(crate) &'static str);

impl Drop for AbortIfPanic {
    fn drop(&mut self) {
        sys::abort(self.0);
    }
}
