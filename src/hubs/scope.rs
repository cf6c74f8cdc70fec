//! Greenlets of several hubs that borrow.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::put_in;
use crate::greenlet::{Children, ScopedGreenlet, launch_afloat};
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
        ScopedGreenlet::new(greenlet)
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("running", &self.children.running()).finish_non_exhaustive()
    }
}
