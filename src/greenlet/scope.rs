//! Greenlets that borrow: `std::thread::scope` for greenlets.

use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::time::Duration;

use super::children::Children;
use super::{Greenlet, Handle, Start, launch};
use crate::coro::unwind::Payload;
use crate::task::{NotSend, Origin, TaskRef};

/// Where borrowing greenlets are spawned; see [`scope()`].
pub struct Scope<'scope, 'env: 'scope> {
    children: Children,
    // As in std: 'scope is invariant, so that it cannot shrink to less than what the greenlets borrow; and what they borrow
    // must outlive it.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
    stays: NotSend,
}

/// Runs `f` with a scope, in which greenlets can be spawned that borrow from the outside. Waits for all of them at the end.
///
/// The guarantee is that of `std::thread::scope`: when this function returns, or unwinds, all greenlets of the scope
/// have ended. If the greenlet that is in here is *killed*, or runs out of a *timeout*, those of the scope are killed and
/// waited for first. If `f` panics, they are waited for, as in std.
///
/// May switch to other greenlets.
///
/// # Panics
///
/// If `f` does, or if a greenlet of the scope panicked that was not joined. On a thread's main stack, if those that it waits for
/// can never end; they are killed first.
///
/// # Examples
///
/// ```
/// let words = ["stackful", "green", "threads"];
/// let mut lengths = [0; 3];
/// switchgrass::scope(|s| {
///     for (word, length) in words.iter().zip(&mut lengths) {
///         s.spawn(move || *length = word.len());
///     }
/// });
/// assert_eq!(lengths, [8, 5, 7]);
/// ```
///
/// A greenlet cannot borrow what does not outlive the scope:
///
/// ```compile_fail,E0373
/// switchgrass::scope(|s| {
///     let local = 1;
///     s.spawn(|| println!("{local}"));
/// });
/// ```
///
/// Nor does its handle leave the scope, or the scope its thread:
///
/// ```compile_fail,E0521
/// let mut kept = None;
/// switchgrass::scope(|s| kept = Some(s.spawn(|| 1)));
/// ```
///
/// ```compile_fail,E0277
/// switchgrass::scope(|s| std::thread::scope(|t| { t.spawn(|| s.spawn(|| 1)); }));
/// ```
pub fn scope<'env, F, T>(f: F) -> T
where
    F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
{
    let scope = Scope { children: Children::new(), scope: PhantomData, env: PhantomData, stays: PhantomData };
    scope.children.run(|| f(&scope))
}

impl<'scope, 'env> Scope<'scope, 'env> {
    /// Spawns a greenlet that may borrow what outlives the scope; see [`scope()`]. Does not switch.
    ///
    /// # Panics
    ///
    /// In a destructor that runs while its greenlet unwinds, or that the event loop runs: the scope could not wait for it.
    #[track_caller]
    pub fn spawn<F, T>(&'scope self, f: F) -> ScopedGreenlet<'scope, T>
    where
        F: FnOnce() -> T + 'scope,
        T: 'scope,
    {
        let mut origin = Origin::here();
        origin.spawned_at = Location::caller();
        self.launch(origin, f)
    }

    pub(super) fn launch<F, T>(&'scope self, origin: Origin, f: F) -> ScopedGreenlet<'scope, T>
    where
        F: FnOnce() -> T + 'scope,
        T: 'scope,
    {
        Children::require_wait();
        // SAFETY: what `f` and its result borrow lives at least as long as the scope, which is left after all its
        // greenlets have ended (see `Children::run`); their handles cannot leave it ('scope). `unhandled` is in the scope.
        let greenlet = unsafe { launch(origin, Start::Now, f, self.children.unhandled()) };
        self.children.add(greenlet.handle.task());
        ScopedGreenlet::new(greenlet)
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("running", &self.children.running()).finish_non_exhaustive()
    }
}

/// A greenlet of a [`Scope`], or of one of [`Hubs`](crate::hubs::Scope), and its result. As with a [`Greenlet`], other threads may join it if the result
/// is `Send`; within the scope.
pub struct ScopedGreenlet<'scope, T> {
    greenlet: Greenlet<T>,
    scope: PhantomData<&'scope mut &'scope ()>,
}

impl<T> ScopedGreenlet<'_, T> {
    /// The greenlet must be one of a scope, which waits for it.
    pub(crate) fn new(greenlet: Greenlet<T>) -> Self {
        ScopedGreenlet { greenlet, scope: PhantomData }
    }

    /// See [`Greenlet::join`].
    ///
    /// # Errors
    ///
    /// What the greenlet panicked with, or [`GreenletExit`](crate::GreenletExit).
    pub fn join(self) -> Result<T, Payload> {
        self.greenlet.join()
    }

    /// See [`Greenlet::join_timeout`].
    ///
    /// # Errors
    ///
    /// The greenlet itself, if it has not ended in time.
    pub fn join_timeout(self, duration: Duration) -> Result<Result<T, Payload>, Self> {
        self.greenlet.join_timeout(duration).map_err(Self::new)
    }

    /// See [`Greenlet::is_ready`].
    pub fn is_ready(&self) -> bool {
        self.greenlet.is_ready()
    }

    /// See [`Greenlet::kill`].
    pub fn kill(&self) {
        self.greenlet.kill();
    }

    /// See [`Greenlet::kill_nowait`].
    pub fn kill_nowait(&self) {
        self.greenlet.kill_nowait();
    }

    /// See [`Greenlet::handle`].
    pub fn handle(&self) -> Handle {
        self.greenlet.handle()
    }

    pub(super) fn task(&self) -> &TaskRef {
        self.greenlet.task()
    }
}

impl<T> fmt::Debug for ScopedGreenlet<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.greenlet.fmt(f)
    }
}
