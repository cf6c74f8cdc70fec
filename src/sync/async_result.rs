//! A value that comes later, for as many readers as want it.

#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::Event;
use crate::task::{WatchSet, Watcher};
use crate::timeout::Elapsed;

/// A value or an error that somebody sets once, and any number of others wait for. gevent's `AsyncResult`.
///
/// From any thread, if its contents allow that.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use switchgrass::sync::AsyncResult;
///
/// let answer = Arc::new(AsyncResult::<i32>::new());
/// std::thread::spawn({
///     let answer = Arc::clone(&answer);
///     move || answer.set(42)
/// });
/// assert_eq!(answer.get().unwrap(), &42);
/// ```
pub struct AsyncResult<T, E = Box<dyn Error + Send + Sync>> {
    result: OnceLock<Result<T, E>>,
    is_set: Event,
}

impl<T, E> AsyncResult<T, E> {
    /// Not set yet.
    pub const fn new() -> Self {
        AsyncResult { result: OnceLock::new(), is_set: Event::new() }
    }

    /// Sets the value, and wakes all who wait. Does not switch.
    ///
    /// # Errors
    ///
    /// The value, if a value or an error was set before.
    pub fn set(&self, value: T) -> Result<(), AlreadySet<T>> {
        match self.put(Ok(value)) {
            Err(Ok(value)) => Err(AlreadySet(value)),
            _ => Ok(()),
        }
    }

    /// Sets an error, which every [`get`](Self::get) gives. Does not switch.
    ///
    /// # Errors
    ///
    /// The error, if a value or an error was set before.
    #[doc(alias = "set_exception")]
    pub fn set_error(&self, error: E) -> Result<(), AlreadySet<E>> {
        match self.put(Err(error)) {
            Err(Err(error)) => Err(AlreadySet(error)),
            _ => Ok(()),
        }
    }

    /// Gives it back if something was set before.
    fn put(&self, result: Result<T, E>) -> Result<(), Result<T, E>> {
        self.result.set(result)?;
        self.is_set.set();
        Ok(())
    }

    /// Waits until it is set. May switch.
    ///
    /// # Errors
    ///
    /// The error that was set instead of a value.
    ///
    /// # Panics
    ///
    /// On a thread's main stack, if nothing is left that could set it. In a destructor that runs while its greenlet
    /// unwinds, if it is not set: nothing can wait there; ask [`try_get`](Self::try_get).
    pub fn get(&self) -> Result<&T, &E> {
        if !self.is_set.wait() {
            panic!("a greenlet that unwinds cannot wait for a result");
        }
        self.try_get().expect("the event is set after the result")
    }

    /// Waits until it is set, but no longer than `duration`. May switch.
    ///
    /// # Errors
    ///
    /// [`Elapsed`] if it was not set in time, or if this would have to wait in a destructor that runs while its greenlet unwinds.
    ///
    /// # Panics
    ///
    /// As [`Event::wait_timeout`].
    pub fn get_timeout(&self, duration: Duration) -> Result<Result<&T, &E>, Elapsed> {
        if !self.is_set.wait_timeout(duration) {
            return Err(Elapsed);
        }
        Ok(self.try_get().expect("the event is set after the result"))
    }

    /// What was set, if anything was.
    #[doc(alias = "get_nowait")]
    pub fn try_get(&self) -> Option<Result<&T, &E>> {
        self.result.get().map(Result::as_ref)
    }

    /// Whether it was set.
    #[doc(alias = "ready")]
    pub fn is_ready(&self) -> bool {
        self.is_set.is_set()
    }

    /// Whether a value was set.
    #[doc(alias = "successful")]
    pub fn is_successful(&self) -> bool {
        matches!(self.result.get(), Some(Ok(_)))
    }

    /// What was set.
    pub fn into_inner(self) -> Option<Result<T, E>> {
        self.result.into_inner()
    }

    pub(crate) fn watch(&self, watcher: Watcher) {
        self.is_set.watch(watcher);
    }

    pub(crate) fn unwatch(&self, set: &Arc<WatchSet>) {
        self.is_set.unwatch(set);
    }
}

impl<T, E> Default for AsyncResult<T, E> {
    fn default() -> Self {
        AsyncResult::new()
    }
}

impl<T: fmt::Debug, E: fmt::Debug> fmt::Debug for AsyncResult<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncResult").field("result", &self.try_get()).finish_non_exhaustive()
    }
}

/// An [`AsyncResult`] was set a second time. Gives back what it was to be set to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AlreadySet<T>(pub T);

impl<T> fmt::Debug for AlreadySet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AlreadySet(..)")
    }
}

impl<T> fmt::Display for AlreadySet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this result was set before, and is set only once")
    }
}

impl<T> Error for AlreadySet<T> {}
