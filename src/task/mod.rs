//! A task: the control block of one context, whatever it is to its user (greenlet, coroutine, generator, or
//! the thread's own stack).
//!
//! A task has two halves. [`Shared`] may be looked at from any thread. [`Local`] belongs to the OS thread of
//! the task's hub: `&Task` is not `Send`, and a [`TaskRef`], which is, gives out a `&Task` only there. So
//! "a started task never leaves its thread" is something the compiler checks.
//!
//! ```text
//!   TaskRef ──▶ ┌ TaskCell<B> ──────────────────────────────┐
//!   (any thread)│ Task { Shared: refs, handles, home, id,   │
//!               │                name, ended                │
//!               │        Local:  state, context, deadlines, │
//!               │                wait reason, queue link }  │
//!               │ B: the typed part: closure, result, slots │
//!               └───────────────────────────────────────────┘
//! ```

#![allow(unsafe_code)]

mod afloat;
mod cells;
mod home;
mod inbox;
mod locals;
mod meter;
mod waker;
mod watch;

use std::alloc::Layout;
use std::any::TypeId;
use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use crate::coro::unwind::Payload;
use crate::coro::{Context, Suspender};
use crate::sys::clock::{NEVER, Nanos};

pub(crate) use self::afloat::Afloat;
pub(crate) use self::home::{Bystander, Home, Letter, Message, change_idle_workers, here, idle_workers};
pub(crate) use self::locals::{Inherit, LocalValue, Locals};
pub(crate) use self::meter::BUCKETS;
pub(crate) use self::waker::{Call, Ended, Listener, Waker, Wakeup};
pub(crate) use self::watch::{WatchSet, Watcher};

/// What a greenlet that is killed unwinds with, and what its `join` then gives as the error.
///
/// It is no panic: nothing is printed. A greenlet may catch it (`std::panic::catch_unwind`) and live on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GreenletExit;

impl fmt::Display for GreenletExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("greenlet exit")
    }
}

impl std::error::Error for GreenletExit {}

/// Where a task is in its life. Only the owner's thread changes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Has no stack yet and is not queued: a coroutine before its first switch, a greenlet before its time.
    Unstarted,
    /// In the ready queue (and unstarted, if it has no context).
    Ready,
    /// It is the current one. For the thread's own task also: the loop runs on its stack.
    Running,
    /// Suspended in `park`; a wake makes it ready.
    Parked,
    /// Suspended in `Coroutine::switch`: only another switch (or a kill, or a timeout) resumes it. Its slot is open.
    Switched,
    /// A generator that waits for its caller, or the caller for the generator.
    Exchanging,
    /// Ended, or given up at the end of its thread.
    Dead,
}

impl State {
    /// Whether the task waits, and is not queued.
    pub(crate) fn is_suspended(self) -> bool {
        matches!(self, State::Unstarted | State::Parked | State::Switched | State::Exchanging)
    }
}

/// Why a task waits. The text is unique per place; the number tells which object (an fd, a task's id, …).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reason {
    pub(crate) text: &'static str,
    pub(crate) object: u64,
}

impl Reason {
    pub(crate) const NONE: Reason = Reason { text: "", object: NO_OBJECT };

    pub(crate) const fn new(text: &'static str) -> Self {
        Reason { text, object: NO_OBJECT }
    }

    pub(crate) const fn of(text: &'static str, object: u64) -> Self {
        Reason { text, object }
    }

    /// For an object that any thread may have, so that any thread may end the wait.
    pub(crate) fn shared<T: ?Sized>(text: &'static str, object: &T) -> Self {
        Reason { text, object: ptr::from_ref(object).addr() as u64 | SHARED }
    }

    /// The same, for an object of which only the number is known.
    #[cfg(feature = "monkey")]
    pub(crate) const fn shared_of(text: &'static str, object: u64) -> Self {
        Reason { text, object: object | SHARED }
    }

    /// For a wait on several such objects.
    pub(crate) const fn shared_by_many(text: &'static str) -> Self {
        Reason { text, object: SHARED }
    }

    /// Whether a thread that we know nothing of may end the wait.
    pub(crate) fn is_shared(&self) -> bool {
        self.object != NO_OBJECT && self.object & SHARED != 0
    }
}

const NO_OBJECT: u64 = u64::MAX;
/// The object is an address. Those of user space end below this bit, as do numbers of all kinds.
const SHARED: u64 = 1 << 63;

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.object {
            NO_OBJECT | SHARED => f.write_str(self.text),
            object if self.is_shared() => write!(f, "{} at {:#x}", self.text, object & !SHARED),
            object => write!(f, "{} {object}", self.text),
        }
    }
}

/// What a task is to its user, for reports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Kind {
    Main,
    Greenlet,
    Coroutine,
    Generator,
    /// Not a context: a hub's event loop, or a place in its queue (see `hub::observe`).
    Loop,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Main => "main",
            Kind::Greenlet => "greenlet",
            Kind::Coroutine => "coroutine",
            Kind::Generator => "generator",
            Kind::Loop => "loop",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something that happens to a task at its next suspension point, instead of what it waits for.
#[derive(Debug)]
pub(crate) enum Interrupt {
    /// It unwinds with this.
    Raise(Payload),
    /// Its `switch` returns the exit of a child, as a value.
    Exit(GreenletExit),
}

impl Interrupt {
    /// What to unwind with, where nothing can be returned.
    pub(crate) fn into_payload(self) -> Payload {
        match self {
            Interrupt::Raise(payload) => payload,
            Interrupt::Exit(exit) => Box::new(exit),
        }
    }
}

/// A limit on how long a task may take: on its stack, or owned by it in another way.
#[derive(Debug)]
pub(crate) struct Scope {
    /// Unique: by it a scope knows the unwinding that it caused.
    pub(crate) id: u64,
    pub(crate) deadline: Cell<Nanos>,
    /// Unwinds once, and is no limit any more then.
    pub(crate) once: bool,
    /// It has unwound.
    pub(crate) fired: Cell<bool>,
    /// The earliest deadline from here outwards: what a park has to look at.
    pub(crate) nearest: Cell<Nanos>,
    pub(crate) outer: Cell<*const Scope>,
}

impl Scope {
    pub(crate) fn new(id: u64, deadline: Nanos, once: bool) -> Self {
        Scope {
            id,
            deadline: Cell::new(deadline),
            once,
            fired: Cell::new(false),
            nearest: Cell::new(NEVER),
            outer: Cell::new(ptr::null()),
        }
    }
}

/// A place for a message: a `Cell<Option<M>>` on the stack of the task that waits for it, or in the body of one that has not
/// started. Only `switch` looks inside, after comparing the types.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) place: NonNull<()>,
    pub(crate) message: &'static TypeInfo,
}

/// What a type is, and is called.
#[derive(Debug)]
pub(crate) struct TypeInfo {
    id: TypeId,
    name: fn() -> &'static str,
}

impl TypeInfo {
    pub(crate) fn of<M: 'static>() -> &'static TypeInfo {
        const { &TypeInfo { id: TypeId::of::<M>(), name: std::any::type_name::<M> } }
    }

    #[inline(always)]
    pub(crate) fn is(&self, other: &TypeInfo) -> bool {
        ptr::eq(self, other) || self.is_slow(other)
    }

    /// The same type may have several of these: one per part of the program that was compiled by itself.
    #[cold]
    fn is_slow(&self, other: &TypeInfo) -> bool {
        self.id == other.id
    }

    pub(crate) fn name(&self) -> &'static str {
        (self.name)()
    }
}

/// The control block. See the module's head for the two halves.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) local: Local,
    pub(crate) shared: Shared,
}

/// What any thread may look at.
pub(crate) struct Shared {
    refs: AtomicUsize,
    /// How many user-visible handles there are, on whichever thread. While there is one, somebody may wake,
    /// kill or switch to this task.
    pub(crate) handles: AtomicUsize,
    /// Means something only when `incarnation` has told of a hub.
    home: AtomicPtr<Home>,
    /// Which hub of that home: homes are used again by later threads. Or that it has none yet (see `afloat.rs`).
    incarnation: AtomicU64,
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    pub(crate) name: Option<Box<str>>,
    /// The id of the task that made this one; its own, for the thread's own task.
    pub(crate) spawned_by: u64,
    pub(crate) spawned_at: &'static Location<'static>,
    /// Set when the task has ended, with those who wait for that.
    pub(crate) ended: Ended,
    vtable: &'static VTable,
}

/// A place in a list of tasks, which keeps those in it alive by other means.
pub(crate) type Link = Cell<Option<NonNull<Task>>>;

/// What only the thread of the task's hub touches.
///
/// In this order: what each switch touches comes first, in as few cache lines as possible.
#[repr(C)]
pub(crate) struct Local {
    /// Next in the ready queue. Means something only while `state` is `Ready`.
    next: Link,
    /// This task, with the right to the whole `TaskCell`.
    this: NonNull<Task>,
    pub(crate) suspender: Cell<*const Suspender>,
    /// About where the stack pointer was at the last suspension: what to fetch into the cache before the next.
    pub(crate) frame: Cell<*const u8>,
    /// The innermost timeout scope.
    pub(crate) scopes: Cell<*const Scope>,
    pub(crate) state: Cell<State>,
    /// Whether `interrupt` holds one: a cheaper look for the hot paths.
    pub(crate) interrupted: Cell<bool>,
    /// A wake came before the park: do not suspend.
    pub(crate) notified: Cell<bool>,
    /// The last park ended by its deadline.
    pub(crate) timed_out: Cell<bool>,
    /// The last handle of this coroutine was dropped while it was running.
    pub(crate) orphaned: Cell<bool>,
    /// It is unwound because nobody could switch to it any more: nobody gets its result.
    pub(crate) unwanted: Cell<bool>,
    /// `unpark` was called and no `park` has used it up yet.
    pub(crate) unpark_token: Cell<bool>,
    /// Asked to keep count of the stack it uses.
    pub(crate) measured: bool,
    /// Counts the parks: a waker of an earlier one is void.
    pub(crate) epoch: Cell<u32>,
    /// While above zero, neither kill nor timeout is delivered: it stays pending.
    pub(crate) masked: Cell<u32>,
    /// `None` before the first run, after the end, and for the thread's own task.
    pub(crate) context: UnsafeCell<Option<Context>>,
    /// Where a switch to this task puts its message. Means something only while `state` is `Switched` or `Unstarted`: at other times it
    /// may point to where nothing is any more.
    pub(crate) slot: Cell<Option<Slot>>,
    pub(crate) reason: Cell<Reason>,
    /// When the present park began, as of the hub's last look at the clock before.
    pub(crate) parked_at: Cell<Nanos>,
    /// When the present park ends at the latest, or when an unstarted task is due.
    pub(crate) deadline: Cell<Nanos>,
    /// The deadline of this task's entry in the timer heap; `NEVER` if it has none. May be earlier than
    /// `deadline`: then the entry is renewed when it comes up.
    pub(crate) timer: Cell<Nanos>,
    /// Boxed, since it is rare.
    pub(crate) interrupt: Cell<Option<Box<Interrupt>>>,
    /// Who gets the result. `None`: the thread's own task.
    pub(crate) parent: Cell<Option<TaskHandle>>,
    /// Start of the stack's guard page; 0 without a stack.
    pub(crate) stack_low: Cell<usize>,
    pub(crate) stack_size: usize,
    /// When it was measured: the result, once it has ended.
    pub(crate) stack_used: Cell<usize>,
    /// Neighbours in the hub's list of live tasks.
    pub(crate) live: (Link, Link),
    pub(crate) locals: Cell<Option<Box<Locals>>>,
    #[cfg(feature = "monkey")]
    pub(crate) ended_by: Cell<Handlers>,
}

/// The signal handlers whose run ends a wait.
#[cfg(feature = "monkey")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Handlers {
    None,
    /// Those that were installed without `SA_RESTART`.
    NotRestarting,
    All,
}

/// How the typed part of a task is reached through an untyped pointer.
#[derive(Debug)]
struct VTable {
    run: unsafe fn(NonNull<Task>, Result<(), Payload>),
    unreferenced: unsafe fn(NonNull<Task>),
    free: unsafe fn(NonNull<Task>),
}

/// The typed part of a task: what it runs, and where the result goes.
pub(crate) trait Body {
    /// Runs to the end, on the task's own stack. `Err`: the task was killed (or got no stack) before its
    /// first run; end with this, without running.
    ///
    /// Must not unwind.
    fn run(&self, task: &Task, start: Result<(), Payload>);

    /// The last user-visible handle is gone. Called on the thread that dropped it, and again on the task's own if it sends itself
    /// [`Message::Unreferenced`].
    fn unreferenced(_task: &TaskRef) {}
}

/// What a task is made of, apart from its body.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    pub(crate) name: Option<Box<str>>,
    /// The id of the task that made this one; its own, for the thread's own task.
    pub(crate) spawned_by: u64,
    pub(crate) spawned_at: &'static Location<'static>,
    pub(crate) stack_size: usize,
    pub(crate) measured: bool,
}

#[repr(C)]
struct TaskCell<B> {
    task: Task,
    body: B,
}

impl Task {
    /// This task, as the ready queue and the hub's lists hold it.
    #[inline]
    pub(crate) fn ptr(&self) -> NonNull<Task> {
        self.local.this
    }

    /// Whether it only marks a place in the ready queue.
    #[inline]
    pub(crate) fn is_place(&self) -> bool {
        self.local.stack_size == 0 && self.shared.kind == Kind::Loop
    }

    /// A counted reference, which may leave the thread.
    pub(crate) fn to_ref(&self) -> TaskRef {
        self.shared.retain();
        TaskRef(self.local.this)
    }

    /// Calls the body's `run`.
    pub(crate) fn run_body(&self, start: Result<(), Payload>) {
        // SAFETY: `this` points to the TaskCell whose type the vtable was made for.
        unsafe { (self.shared.vtable.run)(self.local.this, start) }
    }

    /// Wakes the task if it is in the park that `epoch` counts, or about to be.
    #[inline]
    pub(crate) fn wake(&self, epoch: u32) {
        if self.local.epoch.get() != epoch {
            return;
        }
        if self.local.state.get() == State::Parked {
            self.make_ready();
        } else {
            self.local.notified.set(true);
        }
    }

    /// Puts a task that is not queued at the end of the ready queue.
    #[inline(always)]
    pub(crate) fn make_ready(&self) {
        debug_assert!(self.local.state.get() != State::Ready && self.local.state.get() != State::Dead);
        self.local.state.set(State::Ready);
        self.shared.home().ready().push_back(self);
    }

    /// Has the task end its present wait, or fail its next one, with `payload`.
    ///
    /// Something else to unwind with that has not been delivered yet is kept, and `payload` dropped: the task is on its way
    /// out already.
    pub(crate) fn interrupt(&self, payload: Payload) {
        let local = &self.local;
        if local.state.get() == State::Dead {
            return;
        }
        let payload = match local.interrupt.take().map(|first| *first) {
            Some(Interrupt::Raise(first)) => first,
            Some(Interrupt::Exit(_)) | None => payload,
        };
        self.set_interrupt(Interrupt::Raise(payload));
        // A masked task wakes up, too: it does not unwind, but looks again at what it waits for.
        if local.state.get().is_suspended() {
            self.make_ready();
        }
    }

    /// Whether the task is unstarted, and has no time to start at either.
    pub(crate) fn is_to_be_started(&self) -> bool {
        self.local.state.get() == State::Unstarted && self.local.deadline.get() == NEVER
    }

    /// Makes the task's present `park_thread`-style wait, or the next one, return.
    pub(crate) fn unpark(&self) {
        if self.local.state.get() == State::Dead {
            return;
        }
        self.local.unpark_token.set(true);
        if self.local.state.get() == State::Parked && self.local.reason.get().text == PARKED.text {
            self.make_ready();
        }
    }

    /// Limits this task by `scope`, from now on.
    ///
    /// # Safety
    ///
    /// The scope must stay where it is until [`Task::leave_scope`], and this must be called as long as the task lives.
    #[inline]
    pub(crate) unsafe fn enter_scope(&self, scope: &Scope) {
        let outer = self.local.scopes.get();
        // SAFETY: the scopes in the list are alive: the promise of those who entered them.
        let nearest = if outer.is_null() { NEVER } else { unsafe { (*outer).nearest.get() } };
        scope.outer.set(outer);
        scope.nearest.set(nearest.min(scope.deadline.get()));
        self.local.scopes.set(scope);
    }

    /// Undoes [`Task::enter_scope`].
    #[inline]
    pub(crate) fn leave_scope(&self, scope: &Scope) {
        if ptr::eq(self.local.scopes.get(), scope) {
            return self.local.scopes.set(scope.outer.get());
        }
        for inner in self.scopes() {
            if ptr::eq(inner.outer.get(), scope) {
                inner.outer.set(scope.outer.get());
                break;
            }
        }
        self.renew_nearest();
    }

    /// The scopes that the task is in, innermost first.
    pub(crate) fn scopes(&self) -> impl Iterator<Item = &Scope> {
        let mut next = self.local.scopes.get();
        std::iter::from_fn(move || {
            // SAFETY: the scopes in the list are alive: the promise of those who entered them.
            let scope = unsafe { next.as_ref() }?;
            next = scope.outer.get();
            Some(scope)
        })
    }

    /// To be called when the deadline of a scope that the task is in has changed.
    pub(crate) fn renew_nearest(&self) {
        let scopes: Vec<_> = self.scopes().collect();
        let mut nearest = NEVER;
        for scope in scopes.into_iter().rev() {
            nearest = nearest.min(scope.deadline.get());
            scope.nearest.set(nearest);
        }
    }

    /// Who gets the result: the parent, or `None` for the thread's own task.
    pub(crate) fn parent(&self) -> Option<TaskRef> {
        let parent = self.local.parent.take();
        let copy = parent.as_ref().map(|handle| handle.task().clone());
        self.local.parent.set(parent);
        copy
    }

    /// It has ended, and only leads on to its parent: lets go of what cannot matter any more. That is ancestors that have ended, too, and
    /// that nothing else leads to; and the parent itself, if nobody can switch to this task.
    ///
    /// Done now, since the last handle of a parent unwinds it; the memory of this task may be freed where that must not happen.
    pub(crate) fn settle_parent(&self) {
        let last_handle = |task: &Task, count| task.shared.handles.load(Ordering::Acquire) == count;
        while let Some(parent) = self.local.parent.take() {
            let ended = |task: &&Task| task.local.state.get() == State::Dead && last_handle(task, 1);
            match parent.task().here().filter(ended) {
                Some(ended) => self.local.parent.set(ended.local.parent.take()),
                None if last_handle(self, 0) => return drop(parent),
                None => return self.local.parent.set(Some(parent)),
            }
        }
    }

    /// Whether the task has values of its own (see `locals`).
    #[inline]
    fn has_locals(&self) -> bool {
        // SAFETY: only this thread touches the cell, and nothing of it is changed while this looks.
        unsafe { (*self.local.locals.as_ptr()).is_some() }
    }

    /// Takes the pending interrupt, if there is one and it may be delivered now.
    #[inline]
    pub(crate) fn take_interrupt(&self) -> Option<Interrupt> {
        if !self.local.interrupted.get() || self.local.masked.get() > 0 {
            return None;
        }
        self.local.interrupted.set(false);
        // If a park was about to begin, it does not: the wakers made for it must not end the next one.
        self.local.epoch.set(self.local.epoch.get().wrapping_add(1));
        self.local.interrupt.take().map(|interrupt| *interrupt)
    }

    /// Sets what the task finds when it runs next. Does not make it run.
    pub(crate) fn set_interrupt(&self, interrupt: Interrupt) {
        self.local.interrupted.set(true);
        self.local.interrupt.set(Some(Box::new(interrupt)));
    }
}

/// The reason of `switchgrass::park`, by which `unpark` knows it.
pub(crate) const PARKED: Reason = Reason::new("park");

impl Shared {
    fn retain(&self) {
        // Relaxed: whoever retains holds a reference already (as in std's Arc).
        self.refs.fetch_add(1, Ordering::Relaxed);
    }

    /// Which hub it belongs to: its number.
    #[inline(always)]
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Relaxed)
    }

    /// The number of its hub, 0 while it has none.
    pub(crate) fn hub_number(&self) -> u64 {
        Some(self.incarnation()).filter(|&number| !afloat::is_afloat(number)).unwrap_or(0)
    }

    /// Where the task's hub lives. Only when it is known that the task has one.
    #[inline(always)]
    fn home(&self) -> &'static Home {
        // SAFETY: set to a home when the task was made or got its hub, and homes are never freed.
        unsafe { &*self.home.load(Ordering::Relaxed) }
    }

    /// Whether this is the thread of the task's hub.
    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        here().is_some_and(|home| home.incarnation() == self.incarnation())
    }

    /// How this task is called in reports.
    pub(crate) fn title(&self) -> Title<'_> {
        Title(self)
    }
}

/// `greenlet 7 'name'`.
#[derive(Debug)]
pub(crate) struct Title<'a>(&'a Shared);

impl fmt::Display for Title<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.kind, self.0.id)?;
        match &self.0.name {
            Some(name) => write!(f, " '{name}'"),
            None => Ok(()),
        }
    }
}

/// A counted reference to a task, usable on any thread.
pub(crate) struct TaskRef(NonNull<Task>);

// SAFETY: through a TaskRef only `Shared` can be reached, which is Sync (its fields are atomics, or never
// change), except by `here`, which gives out the `Task` on its own thread only, and by `body`, whose caller
// answers for what it does there. What is freed with the last reference has no user data left in it by then:
// bodies take care of that (see `Body::run` and the handles).
unsafe impl Send for TaskRef {}
// SAFETY: as above.
unsafe impl Sync for TaskRef {}

impl TaskRef {
    /// A new task of this thread's `home`, not queued. The reference returned is the hub's own; `handles`
    /// says how many user-visible ones will be made with [`TaskRef::adopt_handle`].
    pub(crate) fn new<B: Body>(home: &'static Home, origin: Origin, handles: usize, body: B) -> TaskRef {
        TaskRef::of_incarnation(home, home.incarnation(), origin, handles, body)
    }

    #[inline(always)]
    fn of_incarnation<B: Body>(
        home: &'static Home,
        incarnation: u64,
        origin: Origin,
        handles: usize,
        body: B,
    ) -> TaskRef {
        let layout = Layout::new::<TaskCell<B>>();
        let cell = home.cells().allocate(layout).cast::<TaskCell<B>>().as_ptr();
        // SAFETY: `cell` has the layout of what is written to it, and nobody else knows it. `task` is its first field
        // (repr(C)), so a pointer to the cell is one to the task, with the right to the whole.
        unsafe {
            let this = NonNull::new_unchecked(cell.cast::<Task>());
            (&raw mut (*cell).task.local).write(Local {
                next: Cell::new(None),
                this,
                suspender: Cell::new(ptr::null()),
                frame: Cell::new(ptr::null()),
                scopes: Cell::new(ptr::null()),
                state: Cell::new(State::Unstarted),
                interrupted: Cell::new(false),
                notified: Cell::new(false),
                timed_out: Cell::new(false),
                orphaned: Cell::new(false),
                epoch: Cell::new(0),
                context: UnsafeCell::new(None),
                slot: Cell::new(None),
                reason: Cell::new(Reason::NONE),
                parked_at: Cell::new(0),
                deadline: Cell::new(NEVER),
                timer: Cell::new(NEVER),
                interrupt: Cell::new(None),
                parent: Cell::new(None),
                unwanted: Cell::new(false),
                masked: Cell::new(0),
                unpark_token: Cell::new(false),
                measured: origin.measured,
                stack_low: Cell::new(0),
                stack_size: origin.stack_size,
                stack_used: Cell::new(0),
                live: (Cell::new(None), Cell::new(None)),
                locals: Cell::new(None),
                #[cfg(feature = "monkey")]
                ended_by: Cell::new(Handlers::None),
            });
            (&raw mut (*cell).task.shared).write(Shared {
                refs: AtomicUsize::new(1 + handles),
                handles: AtomicUsize::new(handles),
                home: AtomicPtr::new(ptr::from_ref(home).cast_mut()),
                incarnation: AtomicU64::new(incarnation),
                id: origin.id,
                kind: origin.kind,
                name: origin.name,
                spawned_by: origin.spawned_by,
                spawned_at: origin.spawned_at,
                ended: Ended::new(),
                vtable: const {
                    &VTable {
                        run: Self::run_as::<B>,
                        unreferenced: Self::unreferenced_as::<B>,
                        free: Self::free_as::<B>,
                    }
                },
            });
            (&raw mut (*cell).body).write(body);
            TaskRef(this)
        }
    }

    unsafe fn run_as<B: Body>(task: NonNull<Task>, start: Result<(), Payload>) {
        // SAFETY: the vtable that holds this function belongs to a TaskCell<B>, which is alive.
        let cell = unsafe { task.cast::<TaskCell<B>>().as_ref() };
        cell.body.run(&cell.task, start);
    }

    unsafe fn unreferenced_as<B: Body>(task: NonNull<Task>) {
        let task = std::mem::ManuallyDrop::new(TaskRef(task));
        B::unreferenced(&task);
    }

    unsafe fn free_as<B: Body>(task: NonNull<Task>) {
        let cell = task.cast::<TaskCell<B>>();
        // SAFETY: as in `run_as`; this was the last reference.
        unsafe { cell.drop_in_place() };
        // SAFETY: the memory came from a home's cells, or the allocator, with this layout, and is empty now.
        unsafe { home::free_cell(cell.cast(), Layout::new::<TaskCell<B>>()) };
    }

    #[inline]
    pub(crate) fn shared(&self) -> &Shared {
        // SAFETY: a TaskRef keeps its task alive; only `Shared` is borrowed, which any thread may.
        unsafe { &(*self.0.as_ptr()).shared }
    }

    /// The task itself, if this is the thread of its hub.
    #[inline]
    pub(crate) fn here(&self) -> Option<&Task> {
        // SAFETY: kept alive by self, and this is its owner's thread, if it is looked at.
        if self.shared().is_here() { Some(unsafe { self.0.as_ref() }) } else { None }
    }

    /// The task itself, if it is of the hub with that number.
    ///
    /// # Safety
    ///
    /// This must be the thread of that hub.
    #[inline(always)]
    pub(crate) unsafe fn of_hub(&self, incarnation: u64) -> Option<&Task> {
        if self.shared().incarnation() != incarnation {
            return None;
        }
        // SAFETY: kept alive by self; and the number is the same, so this is its owner's thread.
        Some(unsafe { self.0.as_ref() })
    }

    /// The typed part.
    ///
    /// # Safety
    ///
    /// The task must have been made with a body of type `B`, and the caller may do with the body only what
    /// `B` allows on this thread.
    #[inline]
    pub(crate) unsafe fn body<B: Body>(&self) -> &B {
        // SAFETY: the caller's promise; kept alive by self.
        unsafe { &(*self.0.cast::<TaskCell<B>>().as_ptr()).body }
    }

    /// Takes over one of the references counted for a task that the caller found by pointer.
    ///
    /// # Safety
    ///
    /// The caller must own a reference count of the task, and gives it up.
    pub(crate) unsafe fn from_counted(task: NonNull<Task>) -> TaskRef {
        TaskRef(task)
    }

    /// Gives the count to whoever holds the pointer. Undone by [`TaskRef::from_counted`].
    pub(crate) fn into_counted(self) -> NonNull<Task> {
        std::mem::ManuallyDrop::new(self).0
    }

    /// One of the handles that the task was made with.
    ///
    /// # Safety
    ///
    /// To be called at most as often as `handles` said.
    pub(crate) unsafe fn adopt_handle(&self) -> TaskHandle {
        TaskHandle(TaskRef(self.0))
    }

    /// Gives back a handle of a task that has ended, for which their number means nothing any more.
    pub(crate) fn forget_handle(handle: TaskHandle) {
        debug_assert!(handle.0.shared().ended.is_set());
        let handle = std::mem::ManuallyDrop::new(handle);
        drop(TaskRef(handle.0.0));
    }

    /// One more user-visible handle.
    pub(crate) fn new_handle(&self) -> TaskHandle {
        self.shared().handles.fetch_add(1, Ordering::Relaxed);
        TaskHandle(self.clone())
    }

    /// Whether both are the same task.
    pub(crate) fn is(&self, task: &Task) -> bool {
        self.0 == task.ptr()
    }

    /// Sends the hub of this task a message; does nothing if that hub is gone.
    pub(crate) fn post(&self, message: impl FnOnce(TaskRef) -> Message) {
        let shared = self.shared();
        let mut message = message(self.clone());
        let mut incarnation = shared.incarnation.load(Ordering::Acquire);
        if afloat::is_afloat(incarnation) {
            match afloat::leave(self, message) {
                Ok(()) => return,
                Err(given_back) => message = given_back,
            }
            incarnation = shared.incarnation.load(Ordering::Acquire);
        }
        shared.home().post(incarnation, message);
    }

    /// Does what is due when the last handle of the task is gone.
    pub(crate) fn unreferenced(&self) {
        // SAFETY: the vtable is of this task's type, and the task is alive.
        unsafe { (self.shared().vtable.unreferenced)(self.0) }
    }

    /// Interrupts from any thread.
    pub(crate) fn interrupt(&self, payload: Payload) {
        match self.here() {
            Some(task) => task.interrupt(payload),
            None => self.post(|task| Message::Interrupt(task, payload)),
        }
    }

    /// Whether the hub of this task is gone: its thread has ended, or is one of the parent process only.
    pub(crate) fn has_no_hub(&self) -> bool {
        let shared = self.shared();
        let incarnation = shared.incarnation.load(Ordering::Acquire);
        match afloat::is_afloat(incarnation) {
            true => afloat::is_left_behind(incarnation),
            false => shared.home().incarnation() != incarnation,
        }
    }

    /// Starts a task that has not been started, from any thread.
    pub(crate) fn start(&self) {
        match self.here() {
            Some(task) if task.is_to_be_started() => task.make_ready(),
            Some(_) => {}
            None => self.post(|task| Message::Start(task, None)),
        }
    }

    /// The name of the thread that this task belongs to, for errors.
    pub(crate) fn thread_name(&self) -> String {
        if self.has_no_hub() {
            return "(which has exited)".to_owned();
        }
        match afloat::is_afloat(self.shared().incarnation.load(Ordering::Acquire)) {
            true => "(not chosen yet)".to_owned(),
            false => self.shared().home().thread_name(),
        }
    }
}

impl Clone for TaskRef {
    fn clone(&self) -> Self {
        self.shared().retain();
        TaskRef(self.0)
    }
}

impl Drop for TaskRef {
    #[inline]
    fn drop(&mut self) {
        let shared = self.shared();
        // As in std's Arc: the last one must see what the others did before they let go. Who has the only reference need not count
        // it down: nobody else can make another.
        let last = shared.refs.load(Ordering::Acquire) == 1;
        if last || shared.refs.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: no reference is left, and the vtable is of this task's type.
            unsafe { (shared.vtable.free)(self.0) };
        }
    }
}

impl fmt::Debug for TaskRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskRef({})", self.shared().title())
    }
}

/// A reference that the user can see: while one exists, the task can still be reached by switch or kill.
#[derive(Debug)]
pub(crate) struct TaskHandle(TaskRef);

impl TaskHandle {
    #[inline]
    pub(crate) fn task(&self) -> &TaskRef {
        &self.0
    }
}

impl Clone for TaskHandle {
    fn clone(&self) -> Self {
        self.0.new_handle()
    }
}

impl Drop for TaskHandle {
    #[inline]
    fn drop(&mut self) {
        let shared = self.0.shared();
        if shared.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.unreferenced();
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.title())
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.state.get())
    }
}

/// A marker for types that must stay on their thread.
pub(crate) type NotSend = PhantomData<*mut ()>;
