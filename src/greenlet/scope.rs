//! Greenlets that borrow: `std::thread::scope` for greenlets.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::time::Duration;

use super::{Greenlet, Handle, Start, launch, wait_for};
use crate::coro::unwind::{self, AbortIfPanic, Payload};
use crate::hub::{Masked, ScopeExpired, Unwinding, hub};
use crate::sys::clock::NEVER;
use crate::task::{GreenletExit, NotSend, Origin, TaskRef};

/// Where borrowing greenlets are spawned; see [`scope()`].
pub struct Scope<'scope, 'env: 'scope> {
    /// Those that may not have ended yet, and some that have.
    children: RefCell<Vec<TaskRef>>,
    /// When `children` has grown to this, those that have ended are taken out.
    sweep_at: Cell<usize>,
    /// A greenlet panicked, and nobody joined it.
    unhandled: Cell<bool>,
    /// The children are being killed: a new one is, too.
    ending: Cell<bool>,
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
    let scope = Scope {
        children: RefCell::default(),
        sweep_at: Cell::new(64),
        unhandled: Cell::new(false),
        ending: Cell::new(false),
        scope: PhantomData,
        env: PhantomData,
        stays: PhantomData,
    };
    let result = unwind::catch(|| f(&scope));
    // Nothing below may leave before the children have ended.
    let interrupted = match &result {
        Err(payload) if payload.is::<GreenletExit>() || payload.is::<ScopeExpired>() => Err(None),
        _ => match unwind::catch(|| scope.wait_for_children()) {
            Ok(ended) => ended.map_err(|Unwinding| None),
            Err(payload) => Err(Some(payload)),
        },
    };
    if interrupted.is_err() {
        let guard = AbortIfPanic("a scope was to be left before its greenlets had ended");
        scope.end_children();
        std::mem::forget(guard);
    }
    match (result, interrupted) {
        (Err(payload), _) | (Ok(_), Err(Some(payload))) => unwind::raise(payload),
        (Ok(value), _) => {
            assert!(!scope.unhandled.get(), "a scoped greenlet panicked");
            value
        }
    }
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
        assert!(
            !std::thread::panicking(),
            "a greenlet cannot be spawned in a scope while unwinding: the scope could not wait for it"
        );
        assert!(
            !hub().in_the_loop(),
            "a greenlet cannot be spawned in a scope in the event loop itself: the scope could not wait for it"
        );
        // SAFETY: what `f` and its result borrow lives at least as long as the scope, which is left after all its
        // greenlets have ended (see `scope`); their handles cannot leave it ('scope). `unhandled` is in the scope.
        let greenlet = unsafe { launch(origin, Start::Now, f, &raw const self.unhandled) };
        if self.ending.get() {
            greenlet.handle.task().interrupt(Box::new(GreenletExit));
        }
        let mut children = self.children.borrow_mut();
        if children.len() >= self.sweep_at.get() {
            children.retain(|child| !child.shared().ended.is_set());
            self.sweep_at.set(64.max(children.len() * 2));
        }
        children.push(greenlet.handle.task().clone());
        ScopedGreenlet { greenlet, scope: PhantomData, stays: PhantomData }
    }

    /// # Errors
    ///
    /// The thread is panicking, and not all have ended. Then it is somebody else who unwinds, and has dropped the last
    /// handle of the coroutine that is in here: had this task begun to unwind since it has entered the scope, it would
    /// have left it; and before, it could have spawned nothing (see `launch`).
    fn wait_for_children(&self) -> Result<(), Unwinding> {
        loop {
            // Those that are waited for may spawn more. The one waited for stays in the list, in case we are killed meanwhile.
            let Some(child) = self.children.borrow().last().cloned() else { return Ok(()) };
            wait_for(&child, NEVER).ok_or(Unwinding)?;
            // Only from the end: looking at all of them after each wait would take time without measure.
            let mut children = self.children.borrow_mut();
            while children.pop_if(|child| child.shared().ended.is_set()).is_some() {}
        }
    }

    /// Kills the children and waits for them, whatever happens.
    fn end_children(&self) {
        let masked = Masked::new();
        self.ending.set(true);
        for child in &*self.children.borrow() {
            child.interrupt(Box::new(GreenletExit));
        }
        self.wait_for_children().expect("who is masked may wait");
        drop(masked);
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let running = self.children.borrow().iter().filter(|child| !child.shared().ended.is_set()).count();
        f.debug_struct("Scope").field("running", &running).finish_non_exhaustive()
    }
}

/// A greenlet of a [`Scope`], and its result.
pub struct ScopedGreenlet<'scope, T> {
    greenlet: Greenlet<T>,
    scope: PhantomData<&'scope mut &'scope ()>,
    stays: NotSend,
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
        let (scope, stays) = (self.scope, self.stays);
        self.greenlet.join_timeout(duration).map_err(|greenlet| ScopedGreenlet { greenlet, scope, stays })
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
