//! For this crate's own tests: time without waiting. Not a public interface.

use std::time::Duration;

use crate::hub::hub;

/// From now on the time of this thread's hub stands still while anything is ready, and jumps to the next deadline when
/// nothing is.
pub fn virtual_clock() {
    hub().use_virtual_clock();
}

/// The time of this thread's hub, since a moment that never changes.
pub fn now() -> Duration {
    Duration::from_nanos(hub().read_clock())
}
