//! Greenlets of several hubs that borrow.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::put_in;
use crate::coro::unwind::Payload;
use crate::greenlet::{Children, Greenlet, Handle, launch_afloat};
use crate::hub::team::Team;
use crate::task::Origin;

/// Where borrowing greenlets of [`Hubs`](super::Hubs) are spawned; see [`Hubs::scope`](super::Hubs::scope).
///
/// Its greenlets may spawn in it, too, on whichever hub they are.
pub struct Scope<'scope, 'env: 'scope> {
    children: &'scope Children,
    team: &'scope Arc<Team>,
    // As in std: 'scope is invariant, so that it cannot shrink to less than what the greenlets borrow; and what they borrow
    // must outlive it.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

impl<'scope, 'env> Scope<'scope, 'env> {
    pub(super) fn new(children: &'scope Children, team: &'scope Arc<Team>) -> Self {
        Scope { children, team, scope: PhantomData, env: PhantomData }
    }

    /// Spawns a greenlet that may borrow what outlives the scope. Does not switch.
    ///
    /// # Panics
    ///
    /// In a destructor that runs while its greenlet unwinds, or that the event loop runs: the scope could not wait for it. And as
    /// [`Hubs::spawn`](super::Hubs::spawn).
    ///
    /// It cannot borrow what does not outlive the scope, nor what must stay on its thread:
    ///
    /// ```compile_fail,E0373
    /// # let hubs = switchgrass::hubs::Hubs::new(1).unwrap();
    /// hubs.scope(|s| {
    ///     let local = 1;
    ///     s.spawn(|| println!("{local}"));
    /// });
    /// ```
    ///
    /// ```compile_fail,E0277
    /// # let hubs = switchgrass::hubs::Hubs::new(1).unwrap();
    /// let local = std::cell::Cell::new(1);
    /// hubs.scope(|s| {
    ///     s.spawn(|| local.set(2));
    /// });
    /// ```
    #[track_caller]
    pub fn spawn<F, T>(&'scope self, f: F) -> ScopedGreenlet<'scope, T>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        Children::require_wait();
        // SAFETY: what `f` and its result borrow lives at least as long as the scope, which is left after all its
        // greenlets have ended (see `Children::run`); their handles cannot leave it ('scope). `unhandled` outlives the scope.
        let (task, greenlet) = unsafe { launch_afloat(Origin::here(), f, self.children.unhandled()) };
        // First, for it may be refused. And until it is in the list, who is here keeps the scope from ending: the body, or another greenlet of it.
        put_in(self.team, task);
        self.children.add(greenlet.task());
        ScopedGreenlet { greenlet, scope: PhantomData }
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("running", &self.children.running()).finish_non_exhaustive()
    }
}

/// A greenlet of a [`Scope`], and its result. It may be joined by another greenlet of the scope.
pub struct ScopedGreenlet<'scope, T> {
    greenlet: Greenlet<T>,
    scope: PhantomData<&'scope mut &'scope ()>,
}

impl<T> ScopedGreenlet<'_, T> {
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
        let scope = self.scope;
        self.greenlet.join_timeout(duration).map_err(|greenlet| ScopedGreenlet { greenlet, scope })
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
}

impl<T> fmt::Debug for ScopedGreenlet<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.greenlet.fmt(f)
    }
}
