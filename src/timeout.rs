//! Time: sleeping, and limits on how long something may take.

#![allow(unsafe_code)]

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use crate::coro::unwind::{self, Payload};
use crate::hub::{ScopeExpired, hub};
use crate::sys::clock;
use crate::task::{NotSend, Reason, Scope, TaskRef};

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
#[doc(alias = "with_timeout")]
pub fn timeout<T>(duration: Duration, f: impl FnOnce() -> T) -> Result<T, Elapsed> {
    unwind::require("timeout()");
    let hub = hub();
    let scope = Scope::new(hub.new_id(), hub.deadline(duration), false);
    let task = hub.current();
    // SAFETY: the scope stays here until it is left, three lines on; nothing in between unwinds.
    unsafe { task.enter_scope(&scope) };
    let result = unwind::catch(f);
    // Still the same task: this function was called on its stack.
    task.leave_scope(&scope);
    let id = scope.id;

    match result {
        Ok(value) => Ok(value),
        Err(payload) if payload.downcast_ref::<ScopeExpired>().is_some_and(|expired| expired.id == id) => {
            Err(Elapsed)
        }
        Err(payload) => unwind::raise(payload),
    }
}

/// A timeout that is started and cancelled by hand: gevent's `Timeout`. Where a call is to be limited, [`timeout()`] is simpler.
///
/// When its time is up, the suspension point that its greenlet waits in (or the next one that it comes to) unwinds,
/// once. Nobody catches that but `std::panic::catch_unwind`; [`is_cause_of`](Self::is_cause_of) tells whether it was
/// this one. If nobody does, it ends the greenlet, like a panic without a message.
///
/// It limits the greenlet that has started it, and may be cancelled by another one of the thread. Dropping it cancels it.
///
/// # Examples
///
/// ```
/// use std::panic::{AssertUnwindSafe, catch_unwind};
/// use std::time::Duration;
/// use switchgrass::{Timeout, sleep};
///
/// let mut overall = Timeout::start_new(Duration::from_millis(1));
/// let result = catch_unwind(AssertUnwindSafe(|| sleep(Duration::from_secs(3600))));
/// assert!(overall.is_cause_of(&result.unwrap_err()));
/// sleep(Duration::from_millis(1));    // it has fired: it is no limit any more
/// overall.cancel();
/// ```
///
/// It stays on its thread:
///
/// ```compile_fail,E0277
/// let timeout = switchgrass::Timeout::start_new(std::time::Duration::MAX);
/// std::thread::spawn(move || drop(timeout));
/// ```
#[derive(Debug)]
#[must_use = "dropping it cancels it"]
pub struct Timeout {
    duration: Duration,
    /// Where it was started last, and whom it limits.
    started: Option<Started>,
}

#[derive(Debug)]
struct Started {
    /// In a box, for it stays where it is while the user moves the rest. Dropped by the owner only, see `cancel`.
    scope: NonNull<Scope>,
    task: TaskRef,
    /// A task's scopes are touched on its own thread only.
    _stays: NotSend,
}

impl Timeout {
    /// A timeout that is not started.
    pub fn new(duration: Duration) -> Self {
        Timeout { duration, started: None }
    }

    /// A timeout that is started.
    pub fn start_new(duration: Duration) -> Self {
        let mut timeout = Timeout::new(duration);
        timeout.start();
        timeout
    }

    /// Starts it, from now on, for the current greenlet. One that was started before is cancelled first. Does not switch.
    ///
    /// # Panics
    ///
    /// In a program built with `panic = "abort"`, where nothing can be unwound.
    pub fn start(&mut self) {
        unwind::require("Timeout");
        self.cancel();
        let hub = hub();
        let scope = Box::new(Scope::new(hub.new_id(), hub.deadline(self.duration), true));
        let scope = NonNull::from(Box::leak(scope));
        let task = hub.current();
        // SAFETY: the box is freed by `cancel` only, after the scope was left; if this object is forgotten, never.
        unsafe { task.enter_scope(scope.as_ref()) };
        self.started = Some(Started { scope, task: task.to_ref(), _stays: PhantomData });
    }

    /// Takes it back: it will not fire any more, and has not. Does not switch.
    pub fn cancel(&mut self) {
        let Some(Started { scope, task, .. }) = self.started.take() else { return };
        // SAFETY: the box of `start`, which only this object has.
        let scope = unsafe { Box::from_raw(scope.as_ptr()) };
        if let Some(task) = task.here() {
            task.leave_scope(&scope);
        }
    }

    /// Whether it is started, and has not fired.
    #[doc(alias = "pending")]
    pub fn is_pending(&self) -> bool {
        self.scope().is_some_and(|scope| !scope.fired.get())
    }

    /// Whether it has unwound its greenlet since it was started last.
    pub fn has_fired(&self) -> bool {
        self.scope().is_some_and(|scope| scope.fired.get())
    }

    /// Whether that is what this timeout has unwound with.
    pub fn is_cause_of(&self, payload: &(dyn Any + Send)) -> bool {
        // `&payload` of a box is a reference to the box, which is `Any`, too.
        let payload = payload.downcast_ref::<Payload>().map_or(payload, |inner| &**inner);
        let cause = payload.downcast_ref::<ScopeExpired>().map(|expired| expired.id);
        cause.is_some() && cause == self.scope().map(|scope| scope.id)
    }

    /// How long it waits.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    fn scope(&self) -> Option<&Scope> {
        // SAFETY: the box lives until `cancel`, which takes `started`.
        self.started.as_ref().map(|started| unsafe { started.scope.as_ref() })
    }
}

impl Drop for Timeout {
    fn drop(&mut self) {
        self.cancel();
    }
}
