//! Time: sleeping, and limits on how long something may take.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::time::{Duration, Instant};

use crate::coro::unwind;
use crate::hub::{ScopeExpired, hub};
use crate::sys::clock::{self, NEVER};
use crate::task::{Reason, Scope};

/// Suspends the current greenlet for at least `duration`. Others run meanwhile.
///
/// Zero is [`yield_now`](crate::yield_now). The clock is read when the sleep begins, so a long computation before
/// it does not shorten it. Wakes up to a millisecond late, the resolution of epoll, plus what the greenlets before
/// it in the queue take.
///
/// In a destructor that runs while its greenlet unwinds, this blocks the OS thread: nothing may be switched then.
///
/// May switch to other greenlets.
pub fn sleep(duration: Duration) {
    let hub = hub();
    if duration.is_zero() {
        return hub.yield_now();
    }
    if hub.park(Reason::new("sleep"), hub.deadline(duration)).is_err() {
        #[expect(
            clippy::disallowed_methods,
            reason = "as documented: while unwinding, nothing may be switched"
        )]
        std::thread::sleep(duration);
    }
}

/// Suspends the current greenlet until `deadline`; see [`sleep`].
///
/// A deadline that has passed is [`yield_now`](crate::yield_now).
///
/// May switch to other greenlets.
pub fn sleep_until(deadline: Instant) {
    sleep(clock::until(deadline));
}

/// What [`timeout`] gives if the time was not enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time allowed has elapsed")
    }
}

impl std::error::Error for Elapsed {}

impl From<Elapsed> for std::io::Error {
    fn from(elapsed: Elapsed) -> Self {
        std::io::Error::new(std::io::ErrorKind::TimedOut, elapsed)
    }
}

/// Runs `f`, but no longer than `duration`.
///
/// When the time is up, the suspension point that `f` waits in (or the next one that it comes to) unwinds: destructors run,
/// and this function returns the error. Code that never waits is not interrupted; if `f` returns after its time without
/// having waited, its result counts.
///
/// Limits nest, and each gives the error at its own boundary only: an outer one that runs out first unwinds through the inner
/// ones. `Duration::MAX` is no limit. Who catches the unwinding (`catch_unwind`) and waits again is unwound again.
///
/// # Errors
///
/// [`Elapsed`], if `f` was unwound by this limit.
///
/// # Panics
///
/// If `f` does. Also in a program built with `panic = "abort"`, where nothing can be unwound.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use switchgrass::{sleep, timeout};
///
/// assert_eq!(timeout(Duration::from_secs(5), || 7), Ok(7));
/// assert!(timeout(Duration::from_millis(1), || sleep(Duration::from_secs(3600))).is_err());
/// ```
///
/// May switch to other greenlets if `f` does.
pub fn timeout<T>(duration: Duration, f: impl FnOnce() -> T) -> Result<T, Elapsed> {
    unwind::require("timeout()");
    let hub = hub();
    let scopes = &hub.current().local.scopes;
    let outer = scopes.get();
    let deadline = hub.deadline(duration);
    // SAFETY: the scopes in the list are alive: each takes itself out before it goes, innermost first.
    let outer_nearest = if outer.is_null() { NEVER } else { unsafe { (*outer).nearest } };
    let id = NEXT_ID.get() + 1;
    NEXT_ID.set(id);

    let scope = Scope { id, deadline, nearest: deadline.min(outer_nearest), outer };
    scopes.set(&raw const scope);
    let result = unwind::catch(f);
    // Scopes are entered and left like a stack, since they are function calls; and this is still the same task.
    scopes.set(outer);

    match result {
        Ok(value) => Ok(value),
        Err(payload) if payload.downcast_ref::<ScopeExpired>().is_some_and(|expired| expired.id == id) => {
            Err(Elapsed)
        }
        Err(payload) => unwind::raise(payload),
    }
}

thread_local! {
    static NEXT_ID: Cell<u64> = const { Cell::new(0) };
}
