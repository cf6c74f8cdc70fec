//! What the tests share.

use std::any::Any;

use switchgrass::GreenletExit;

pub(crate) type Payload = Box<dyn Any + Send>;

/// Ends the test process, should it hang. Anew for each test that calls it.
pub(crate) fn time_limit() {
    // SAFETY: alarm takes a number and touches no memory.
    unsafe { libc::alarm(120) };
}

/// Runs the function when it is dropped.
pub(crate) struct OnDrop<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Whether a join gave the mark of a killed greenlet.
pub(crate) fn is_exit<T>(result: &Result<T, Payload>) -> bool {
    matches!(result, Err(payload) if payload.is::<GreenletExit>())
}

/// Catches what unwinds out of `f`.
pub(crate) fn catch<T>(f: impl FnOnce() -> T) -> Result<T, Payload> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f))
}
