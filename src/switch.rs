//! Coroutines with an explicit `switch`, as in greenlet.
//!
//! A coroutine runs when somebody switches to it, until it switches to somebody else. Each has a *parent*, which gets
//! its result when it ends. The thread's own stack is a coroutine, too: *main*, the root of all parents.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::panic::Location;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use crate::coro::stack;
use crate::coro::unwind::{self, Payload};
pub use crate::hub::Tracer;
use crate::hub::{Hub, TraceEvent, hub};
use crate::task::{
    Body, GreenletExit, Interrupt, Kind, Message, Origin, Reason, Slot, State, Task, TaskHandle, TaskRef,
    TypeInfo,
};

/// A function that runs on a stack of its own, when somebody switches to it. `M` is what passes to and fro.
///
/// This is greenlet's `greenlet`; all its rules hold:
///
/// - Any coroutine may switch to any other of its thread. The value given is what the target's pending
///   [`switch`](Self::switch) returns; a first switch gives it to the function as its argument.
/// - When the function returns, its result goes to the *parent* (the coroutine in which it was made, until
///   [`set_parent`](Self::set_parent)), as the result of the parent's pending `switch`. If the parent has
///   ended, its parent gets it, and so on up to main. A parent that has not started is started with it. One
///   that waits for something else than a switch cannot take it, so its parent gets it; if nobody can, it is
///   dropped, and a line on stderr says so.
/// - A panic goes on in the parent's `switch`. An end by [`GreenletExit`] arrives there as a value: [`SwitchError::Exit`].
/// - A switch to a coroutine that has ended goes to its parent. A switch to oneself returns at once.
///
/// Blocking calls (sleep, sockets, join) work inside of a coroutine, and hold up only those who wait for it.
///
/// The handle can be cloned. When the last one of a suspended coroutine is dropped, nobody could ever switch to it: it
/// is unwound right there with [`GreenletExit`], its destructors run, and then the drop returns. (If it catches the
/// exit, the drop returns when it waits again, and if it has made a new handle of itself by then, it lives on.) A child
/// keeps a handle on its parent. At the end of the thread, what is still suspended is unwound, as for
/// [`Greenlet`](crate::Greenlet).
///
/// Handles may go to other threads; the coroutine does not. A switch from another thread is refused, and a last handle
/// dropped there has the coroutine unwound by its own thread.
///
/// ```
/// use switchgrass::Coroutine;
///
/// let double = Coroutine::new(|mut n: i32| {
///     let main = Coroutine::main();
///     loop {
///         n = main.switch(n * 2).unwrap();
///     }
/// });
/// assert_eq!(double.switch(4).unwrap(), 8);
/// assert_eq!(double.switch(21).unwrap(), 42);
/// ```
///
/// Messages of another type do not compile:
///
/// ```compile_fail,E0308
/// let echo = switchgrass::Coroutine::new(|text: String| text);
/// echo.switch(42);
/// ```
pub struct Coroutine<M: 'static> {
    handle: TaskHandle,
    message: PhantomData<fn(M) -> M>,
}

/// Why [`Coroutine::switch`] or [`throw`](Coroutine::throw) gives no value.
#[non_exhaustive]
pub enum SwitchError<G> {
    /// A coroutine that was to give us its result has ended by [`GreenletExit`] instead. The only one of these that is
    /// no refusal: control did go away and come back.
    Exit(GreenletExit),
    /// The target belongs to another thread, and is unharmed.
    OtherThread {
        /// What was to be sent.
        given: G,
        /// This thread.
        here: String,
        /// The target's thread.
        there: String,
    },
    /// The target waits for a message of another type. (This can only be found at run time where a
    /// handle's type was chosen freely: by `current`, `main` or `parent`, or where two coroutines with
    /// different messages share a parent.)
    WrongType {
        /// What was to be sent.
        given: G,
        /// The type that the target waits for.
        expected: &'static str,
        /// The type that was given.
        found: &'static str,
    },
    /// The target is not suspended in a switch: it waits for something else, or is ready to go on with that.
    Busy {
        /// What was to be sent.
        given: G,
        /// What it is and waits for.
        target: String,
    },
    /// This coroutine is unwinding (from a panic, a kill, a timeout), and must not be suspended.
    Unwinding {
        /// What was to be sent.
        given: G,
    },
}

impl<G> SwitchError<G> {
    /// Gives back what was to be sent, if it was not.
    pub fn into_given(self) -> Option<G> {
        match self {
            SwitchError::Exit(_) => None,
            SwitchError::OtherThread { given, .. }
            | SwitchError::WrongType { given, .. }
            | SwitchError::Busy { given, .. }
            | SwitchError::Unwinding { given } => Some(given),
        }
    }
}

impl<G> fmt::Display for SwitchError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SwitchError::Exit(exit) => exit.fmt(f),
            SwitchError::OtherThread { here, there, .. } => {
                write!(
                    f,
                    "cannot switch to a coroutine of another thread: this is thread {here}, it belongs to thread {there}"
                )
            }
            SwitchError::WrongType { expected, found, .. } => {
                write!(f, "cannot switch with a `{found}`: the target waits for a `{expected}`")
            }
            SwitchError::Busy { target, .. } => {
                write!(
                    f,
                    "cannot switch to {target}: only one that is suspended in a switch can be switched to"
                )
            }
            SwitchError::Unwinding { .. } => f.write_str(
                "cannot switch in a destructor while unwinding: the thread would seem to panic to all others",
            ),
        }
    }
}

// Without asking that of the message, as std's `SendError`: `switch` can be unwrapped whatever is sent.
impl<G> fmt::Debug for SwitchError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<G> std::error::Error for SwitchError<G> {}

/// Why [`Coroutine::set_parent`] refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParentError {
    /// The new parent is the coroutine itself, or a descendant of it.
    Cycle,
    /// Main is the root: it has no parent.
    Main,
    /// It is a greenlet or a generator: what they give goes to who joins or asks.
    NotACoroutine,
    /// One of them belongs to another thread than this.
    OtherThread,
}

impl fmt::Display for ParentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ParentError::Cycle => "cyclic parent chain",
            ParentError::Main => "the main coroutine of a thread has no parent",
            ParentError::NotACoroutine => "only a coroutine can be given a parent",
            ParentError::OtherThread => "the parent cannot be on a different thread",
        })
    }
}

impl std::error::Error for ParentError {}

impl<M: 'static> Coroutine<M> {
    /// A coroutine that will run `f`, which gets the message of the first switch. Its parent is the current one. It
    /// has no stack before it starts.
    #[track_caller]
    pub fn new(f: impl FnOnce(M) -> M + 'static) -> Self {
        Self::launch(stack::DEFAULT_SIZE, Location::caller(), Box::new(f))
    }

    /// The same with a stack of another size than 256 KiB; see [`Builder::stack_size`](crate::Builder::stack_size).
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a stack of more than 1 GiB.
    #[track_caller]
    pub fn with_stack_size(bytes: usize, f: impl FnOnce(M) -> M + 'static) -> io::Result<Self> {
        Ok(Self::launch(stack::round_size(bytes)?, Location::caller(), Box::new(f)))
    }

    fn launch(stack_size: usize, spawned_at: &'static Location<'static>, f: Function<M>) -> Self {
        let hub = hub();
        let origin = Origin {
            id: hub.new_id(),
            kind: Kind::Coroutine,
            name: None,
            spawned_by: hub.current().shared.id,
            spawned_at,
            stack_size,
            measured: false,
        };
        let body = CoroutineBody { first: Cell::new(None), f: Cell::new(Some(f)) };
        let task = TaskRef::new(hub.home, origin, 1, body);
        // SAFETY: the one handle that the task was made with.
        let handle = unsafe { task.adopt_handle() };
        // SAFETY: the body is of the type given above, and this is its thread.
        let first = NonNull::from(unsafe { &task.body::<CoroutineBody<M>>().first });
        {
            let task = task.here().expect("it was made for this thread");
            task.local.slot.set(Some(Slot { place: first.cast(), message: TypeInfo::of::<M>() }));
            task.local.parent.set(Some(hub.current().to_ref().new_handle()));
        }
        hub.adopt(task);
        Coroutine { handle, message: PhantomData }
    }

    /// The one that calls this: a coroutine, a greenlet, or main. `M` is for you to say; it should be
    /// what it waits for in its switches.
    pub fn current() -> Self {
        Self::of(&hub().current().to_ref())
    }

    /// The thread's own stack, as a coroutine.
    pub fn main() -> Self {
        Self::of(hub().main())
    }

    fn of(task: &TaskRef) -> Self {
        Coroutine { handle: task.new_handle(), message: PhantomData }
    }

    /// Suspends the current coroutine and runs this one, which gets `message`. Returns what somebody
    /// switches back with, whoever that is.
    ///
    /// # Errors
    ///
    /// [`SwitchError::Exit`] if it is the end of a child by [`GreenletExit`] that leads back here. All others are
    /// refusals: nothing was switched, and they give the message back.
    ///
    /// # Panics
    ///
    /// With what is thrown into the current coroutine, or what a child of it panicked with. On main,
    /// if nothing can ever switch back.
    #[inline(always)]
    pub fn switch(&self, message: M) -> Result<M, SwitchError<M>> {
        let hub = hub();
        // The common case: it is suspended, or about to start, with a slot for an M.
        if let Some(target) = hub.local(self.handle.task()) {
            let (state, slot) = (target.local.state.get(), target.local.slot.get());
            if let (State::Switched | State::Unstarted, Some(slot)) = (state, slot)
                && slot.message.is(TypeInfo::of::<M>())
                && hub.may_switch_fast()
            {
                return Self::switch_checked(hub, target, slot, message);
            }
        }
        self.switch_slow(hub, message)
    }

    #[inline(always)]
    fn switch_checked(hub: &Hub, target: &Task, slot: Slot, message: M) -> Result<M, SwitchError<M>> {
        // SAFETY: the types are equal (our caller has compared them), so the slot is a `Cell<Option<M>>`;
        // it is on the stack of a task that waits, or in the body of one that has not started, so it is
        // alive; and this is their thread.
        unsafe { slot.place.cast::<Cell<Option<M>>>().as_ref() }.set(Some(message));
        Self::wait_for_message(hub, target)
    }

    /// Runs `target`, and waits for the next message.
    #[inline(always)]
    fn wait_for_message(hub: &Hub, target: &Task) -> Result<M, SwitchError<M>> {
        let current = hub.current();
        let answer: Cell<Option<M>> = Cell::new(None);
        let place = NonNull::from(&answer).cast();
        current.local.slot.set(Some(Slot { place, message: TypeInfo::of::<M>() }));
        if current.local.orphaned.get() {
            Self::leave_for_good(hub, current, target);
        }
        hub.switch_to(current, target, State::Switched);
        if current.local.interrupted.get() || hub.traced.get() {
            return Self::after_switch(hub, current, &answer);
        }
        match answer.take() {
            Some(message) => Ok(message),
            None => unreachable!("whoever resumes a switch has left a message"),
        }
    }

    /// Nobody has a handle to the current coroutine, so nobody can switch back: it ends here, after the message is on its way.
    #[cold]
    fn leave_for_good(hub: &Hub, current: &Task, target: &Task) {
        current.local.orphaned.set(false);
        if current.shared.handles.load(Ordering::Acquire) > 0 {
            // A new one was made meanwhile. If it was being unwound, it has saved itself.
            current.local.unwanted.set(false);
            return;
        }
        hub.run_next(target);
        disown(current);
        unwind::raise(Box::new(GreenletExit));
    }

    #[cold]
    #[inline(never)]
    fn after_switch(hub: &Hub, current: &Task, answer: &Cell<Option<M>>) -> Result<M, SwitchError<M>> {
        // First, so that what a panic of the tracer replaces is not left for the next wait.
        let interrupt = current.take_interrupt();
        if hub.traced.get() {
            hub.tell_tracer();
        }
        match interrupt {
            Some(Interrupt::Raise(payload)) => unwind::raise(payload),
            Some(Interrupt::Exit(exit)) => Err(SwitchError::Exit(exit)),
            None => Ok(answer.take().expect("whoever resumes a switch has left a message")),
        }
    }

    /// All that is not the common case.
    #[cold]
    #[inline(never)]
    fn switch_slow(&self, hub: &Hub, message: M) -> Result<M, SwitchError<M>> {
        let target = first_alive(hub, self.handle.task());
        let Some(target) = target.here() else { return Err(self.other_thread(message)) };
        if target.ptr() == hub.current().ptr() {
            return Ok(message);
        }
        if hub.may_suspend(SWITCH).is_err() {
            return Err(SwitchError::Unwinding { given: message });
        }
        match (target.local.state.get(), target.local.slot.get()) {
            (State::Switched | State::Unstarted, Some(slot)) if slot.message.is(TypeInfo::of::<M>()) => {
                trace(hub, hub.current(), target, false);
                Self::switch_checked(hub, target, slot, message)
            }
            (State::Switched | State::Unstarted, Some(slot)) => Err(SwitchError::WrongType {
                given: message,
                expected: slot.message.name(),
                found: TypeInfo::of::<M>().name(),
            }),
            _ => Err(SwitchError::Busy { given: message, target: describe(target) }),
        }
    }

    /// Suspends the current coroutine and has this one unwind with `payload`, from its pending `switch`.
    ///
    /// It may catch that. One that has not started never runs, and the payload goes to its parent. One that has ended:
    /// [`GreenletExit`] comes back at once, everything else goes to the parent, as a switch would.
    ///
    /// # Errors
    ///
    /// As [`switch`](Self::switch).
    ///
    /// # Panics
    ///
    /// As [`switch`](Self::switch); at once, if it is the current one that is thrown into. In a
    /// program built with `panic = "abort"`.
    pub fn throw(&self, payload: Payload) -> Result<M, SwitchError<Payload>> {
        unwind::require("throw()");
        let hub = hub();
        if self.handle.task().here().is_none() {
            return Err(self.other_thread(payload));
        }
        if self.is_dead() && payload.is::<GreenletExit>() {
            return Err(SwitchError::Exit(GreenletExit));
        }
        let target = first_alive(hub, self.handle.task());
        let target = target.here().expect("relatives are on the same thread");
        if target.ptr() == hub.current().ptr() {
            unwind::raise(payload);
        }
        if hub.may_suspend(SWITCH).is_err() {
            return Err(SwitchError::Unwinding { given: payload });
        }
        if !matches!(target.local.state.get(), State::Switched | State::Unstarted)
            || target.local.slot.get().is_none()
        {
            return Err(SwitchError::Busy { given: payload, target: describe(target) });
        }
        trace(hub, hub.current(), target, true);
        target.set_interrupt(Interrupt::Raise(payload));
        Self::wait_for_message(hub, target).map_err(|error| match error {
            SwitchError::Exit(exit) => SwitchError::Exit(exit),
            _ => unreachable!("after the switch, only an exit is an error"),
        })
    }

    fn other_thread<G>(&self, given: G) -> SwitchError<G> {
        SwitchError::OtherThread {
            given,
            here: hub().home.thread_name(),
            there: self.handle.task().thread_name(),
        }
    }

    /// Who gets the result. `None` for main, and when asked on another thread than the coroutine's own.
    pub fn parent(&self) -> Option<Coroutine<M>> {
        let hub = hub();
        let task = self.handle.task().here()?;
        if hub.is_main(task) {
            return None;
        }
        Some(Self::of(&task.parent().unwrap_or_else(|| hub.main().clone())))
    }

    /// Makes `parent` the one who gets the result. Works on one that has ended, too: a switch to it then goes there.
    ///
    /// The types of messages may differ; then a result that arrives where another type is waited for is an error there.
    ///
    /// # Errors
    ///
    /// See [`ParentError`].
    pub fn set_parent<P: 'static>(&self, parent: &Coroutine<P>) -> Result<(), ParentError> {
        let hub = hub();
        let (Some(task), Some(new)) = (self.handle.task().here(), parent.handle.task().here()) else {
            return Err(ParentError::OtherThread);
        };
        if hub.is_main(task) {
            return Err(ParentError::Main);
        }
        if task.shared.kind != Kind::Coroutine {
            return Err(ParentError::NotACoroutine);
        }
        let mut above = Some(new.to_ref());
        while let Some(ancestor) = above {
            if ancestor.is(task) {
                return Err(ParentError::Cycle);
            }
            above = ancestor.here().and_then(Task::parent);
        }
        task.local.parent.set(Some(parent.handle.clone()));
        Ok(())
    }

    /// Whether it has ended (or its thread has).
    pub fn is_dead(&self) -> bool {
        self.handle.task().shared().ended.is_set()
    }

    /// Whether it has started and not ended: greenlet's `bool(g)`. `false` when asked on another thread.
    pub fn is_active(&self) -> bool {
        self.handle
            .task()
            .here()
            .is_some_and(|task| !matches!(task.local.state.get(), State::Dead | State::Unstarted))
    }

    /// A number that no other context of this process has or had.
    pub fn id(&self) -> u64 {
        self.handle.task().shared().id
    }
}

impl<M> Clone for Coroutine<M> {
    fn clone(&self) -> Self {
        Coroutine { handle: self.handle.clone(), message: PhantomData }
    }
}

impl<M> PartialEq for Coroutine<M> {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl<M> Eq for Coroutine<M> {}

impl<M> fmt::Debug for Coroutine<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let task = self.handle.task();
        write!(f, "Coroutine({}", task.shared().id)?;
        if task.shared().kind == Kind::Main {
            f.write_str(", main")?;
        }
        let state = match task.here() {
            _ if task.shared().ended.is_set() => "dead",
            None => return write!(f, ", of other thread {})", task.thread_name()),
            Some(task) => match task.local.state.get() {
                State::Unstarted => "pending",
                State::Running => "current",
                State::Parked => "suspended (blocked)",
                State::Ready | State::Switched | State::Exchanging => "suspended",
                State::Dead => "dead",
            },
        };
        write!(f, ", {state})")
    }
}

/// Sets the function that is told of every explicit switch on this thread, in the context of the
/// target; gives back the one before.
///
/// As `greenlet.settrace`: also when a coroutine starts or ends; not for a switch to oneself, and not for what the hub
/// does when something waits. A tracer that panics is removed, and its panic is raised in the target. While it runs, it
/// is not told of its own switches.
pub fn set_tracer(tracer: Option<Tracer>) -> Option<Tracer> {
    hub().set_tracer(tracer)
}

const SWITCH: Reason = Reason::new("switch");

fn describe(task: &Task) -> String {
    let what = match task.local.state.get() {
        State::Parked => format!("waits: {}", task.local.reason.get()),
        State::Ready => "is about to run".to_owned(),
        State::Running => "is running".to_owned(),
        _ => "does not take messages".to_owned(),
    };
    format!("{}, which {what}", task.shared.title())
}

fn trace(hub: &Hub, origin: &Task, target: &Task, throw: bool) {
    if hub.traced.get() {
        hub.note_switch(TraceEvent { throw, origin: origin.shared.id, target: target.shared.id });
    }
}

/// The task itself, or the first of its ancestors that has not ended. Main never does.
fn first_alive(hub: &Hub, task: &TaskRef) -> TaskRef {
    let mut task = task.clone();
    loop {
        match task.here() {
            Some(dead) if dead.local.state.get() == State::Dead => {
                task = dead.parent().unwrap_or_else(|| hub.main().clone());
            }
            _ => return task,
        }
    }
}

type Function<M> = Box<dyn FnOnce(M) -> M>;

struct CoroutineBody<M> {
    /// The message of the first switch.
    first: Cell<Option<M>>,
    f: Cell<Option<Function<M>>>,
}

impl<M: 'static> Body for CoroutineBody<M> {
    fn run(&self, task: &Task, start: Result<(), Payload>) {
        let hub = hub();
        let (f, first) = (self.f.take(), self.first.take());
        let result = match start {
            Ok(()) => unwind::catch(|| {
                if hub.traced.get() {
                    hub.tell_tracer();
                }
                let f = f.expect("a coroutine runs once");
                f(first.expect("whoever starts a coroutine has left a message"))
            }),
            Err(payload) => {
                let _ = unwind::catch(|| {
                    if hub.traced.get() {
                        hub.tell_tracer();
                    }
                    drop((f, first));
                });
                Err(payload)
            }
        };
        if task.local.unwanted.get() || hub.is_closing() {
            let _ = unwind::catch(|| drop(result));
        } else {
            deliver(hub, task, result);
        }
    }

    fn unreferenced(task: &TaskRef) {
        let Some(local) = task.here() else {
            return task.post(Message::Unreferenced);
        };
        // A handle may have been made since, if this is a message from elsewhere.
        if task.shared().handles.load(Ordering::Acquire) > 0 {
            return;
        }
        match local.local.state.get() {
            State::Dead => local.settle_parent(),
            _ if !unwind::is_possible() => {}
            State::Switched | State::Unstarted if local.local.slot.get().is_some() => {
                disown(local);
                hub().unwind_now(local);
            }
            // It runs, or waits for something that will wake it. It is looked at when it switches away.
            _ => local.local.orphaned.set(true),
        }
    }
}

/// It is to be unwound, since nobody has a handle to it. Should it catch the exit and switch, it is looked at again.
fn disown(task: &Task) {
    task.local.unwanted.set(true);
    task.local.orphaned.set(true);
}

/// Gives the result of a coroutine that has just ended to the first ancestor that can take it.
fn deliver<M: 'static>(hub: &Hub, task: &Task, result: Result<M, Payload>) {
    let parent = task.parent().unwrap_or_else(|| hub.main().clone());
    let mut heir = first_alive(hub, &parent);
    loop {
        let next = {
            let parent = heir.here().expect("relatives are on the same thread");
            if let (State::Switched | State::Unstarted, Some(slot)) =
                (parent.local.state.get(), parent.local.slot.get())
            {
                trace(hub, task, parent, matches!(&result, Err(payload) if !payload.is::<GreenletExit>()));
                hand_over(task, parent, slot, result);
                return hub.run_next(parent);
            }
            if hub.is_main(parent) {
                break;
            }
            parent.parent().unwrap_or_else(|| hub.main().clone())
        };
        heir = first_alive(hub, &next);
    }
    let what = match &result {
        Ok(_) => "result",
        Err(payload) if payload.is::<GreenletExit>() => return,
        Err(_) => "panic",
    };
    let text = format!(
        "switchgrass: the {what} of {} is lost: no ancestor of it waits in a switch ({})\n",
        task.shared.title(),
        describe(parent.here().unwrap_or(task)),
    );
    crate::sys::write_stderr(text.as_bytes());
    let _ = unwind::catch(|| drop(result));
}

fn hand_over<M: 'static>(task: &Task, parent: &Task, slot: Slot, result: Result<M, Payload>) {
    let interrupt = match result {
        Ok(message) if slot.message.is(TypeInfo::of::<M>()) => {
            // SAFETY: as in `switch_checked`.
            unsafe { slot.place.cast::<Cell<Option<M>>>().as_ref() }.set(Some(message));
            return;
        }
        Ok(message) => {
            let _ = unwind::catch(|| drop(message));
            Interrupt::Raise(Box::new(format!(
                "{} ended with a `{}`, but its parent, {}, waits for a `{}`",
                task.shared.title(),
                TypeInfo::of::<M>().name(),
                parent.shared.title(),
                slot.message.name(),
            )))
        }
        Err(payload) if payload.is::<GreenletExit>() && parent.local.state.get() == State::Switched => {
            Interrupt::Exit(GreenletExit)
        }
        Err(payload) => Interrupt::Raise(payload),
    };
    parent.set_interrupt(interrupt);
}
