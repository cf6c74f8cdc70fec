//! Raw contexts: a stack, and switching to it and back. The only module that names corosensei.
//!
//! ```text
//!   native stack of the OS thread            a context's own stack
//!   ┌──────────────────────────┐             ┌──────────────────────────┐ ◀ coloured top
//!   │ main()                   │   resume    │ entry(arg, suspender)    │
//!   │ … park                   │ ──────────▶ │ user code                │
//!   │ hub loop                 │ ◀────────── │ … park                   │
//!   └──────────────────────────┘   suspend   ├──────────────────────────┤
//!                                            │ untouched, costs nothing │
//!                                            ├──────────────────────────┤
//!                                            │ guard page               │
//!                                            └──────────────────────────┘
//! ```
//!
//! corosensei only knows resuming and suspending. Who runs next is decided by the hub's loop, which all
//! contexts come back to.
//!
//! Invariants: a context is resumed on the OS thread that made it; it is never dropped while it is
//! suspended (that would unwind it at a moment nobody chose), but runs to its end or is abandoned.

#![allow(unsafe_code)]

pub(crate) mod overflow;
pub(crate) mod sample;
pub(crate) mod stack;
pub(crate) mod trace;
pub(crate) mod unwind;

use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use self::stack::Stack;

/// What a running context suspends itself through.
pub(crate) type Suspender = corosensei::Yielder<(), Next>;

/// Whom a context that suspends itself wants to run next, if anyone. A pointer, which travels in a register.
pub(crate) type Next = Option<NonNull<()>>;

/// How a turn of a context ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// It suspended itself and wants to be resumed some time.
    Suspended(Next),
    /// Its entry function has returned; only its stack is left.
    Finished,
}

/// A context with a stack of its own.
///
/// `ManuallyDrop` is the third invariant above: forgetting a context leaks its stack, and nothing else.
pub(crate) struct Context(ManuallyDrop<Inner>);

type Inner = corosensei::Coroutine<(), Next, (), Stack>;

impl Context {
    /// A context that will call `entry` on `stack` when it is first resumed.
    ///
    /// `entry` must not unwind: there is nothing of ours above it that could tell whose panic it was.
    pub(crate) fn new<A: Copy + 'static>(stack: Stack, arg: A, entry: fn(A, &Suspender)) -> Self {
        Context(ManuallyDrop::new(Inner::with_stack(stack, move |suspender, ()| entry(arg, suspender))))
    }

    /// Runs the context until it suspends or ends.
    #[inline]
    pub(crate) fn resume(&mut self) -> Turn {
        match self.0.resume(()) {
            corosensei::CoroutineResult::Yield(next) => Turn::Suspended(next),
            corosensei::CoroutineResult::Return(()) => Turn::Finished,
        }
    }

    /// Resumes the context, which has been told to answer an inspection (see `trace`). It stays suspended, as it was.
    pub(crate) fn inspect(&mut self) {
        let turn = self.resume();
        debug_assert_eq!(turn, Turn::Suspended(None));
    }

    /// The stack of a context that has finished.
    pub(crate) fn into_stack(self) -> Stack {
        ManuallyDrop::into_inner(self.0).into_stack()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context(done: {})", self.0.done())
    }
}
