//! What the compiled files want of the system.

#[cfg(feature = "loom")]
pub(crate) use crate::seen::{lock, sync};

#[cfg(not(feature = "loom"))]
#[path = "../../../src/sys/hooks.rs"]
mod hooks;
#[cfg(not(feature = "loom"))]
#[path = "../../../src/sys/lock.rs"]
pub(crate) mod lock;
#[cfg(not(feature = "loom"))]
#[path = "../../../src/sys/sync.rs"]
pub(crate) mod sync;

pub(crate) mod clock {
    pub(crate) type Nanos = u64;
    pub(crate) const NEVER: Nanos = Nanos::MAX;
}

pub(crate) fn thread_count() -> Option<usize> {
    None
}

pub(crate) fn write_stderr(bytes: &[u8]) {
    eprint!("{}", String::from_utf8_lossy(bytes));
}

pub(crate) fn abort(why: &str) -> ! {
    panic!("{why}")
}
