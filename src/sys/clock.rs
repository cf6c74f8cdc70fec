//! The monotonic clock as a plain number, so that a deadline is one word.

use std::time::{Duration, Instant};

/// Nanoseconds of `CLOCK_MONOTONIC`. Differences and order mean something, the value itself does not.
pub(crate) type Nanos = u64;

/// A deadline that never comes.
pub(crate) const NEVER: Nanos = u64::MAX;

/// The time now, freshly read.
#[inline]
pub(crate) fn now() -> Nanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing, and CLOCK_MONOTONIC exists on every Unix we build for.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// `start` plus `duration`, where too long to count means never.
pub(crate) fn after(start: Nanos, duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).ok().and_then(|nanos| start.checked_add(nanos)).unwrap_or(NEVER)
}

/// How long until `instant`; zero if it has passed.
pub(crate) fn until(instant: Instant) -> Duration {
    instant.saturating_duration_since(Instant::now())
}

/// Blocks the OS thread for about so long. For threads of our own.
pub(crate) fn nap(duration: Duration) {
    #[expect(clippy::disallowed_methods, reason = "called on threads that have no greenlets")]
    std::thread::sleep(duration);
}
