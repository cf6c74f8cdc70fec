//! The hub: one event loop per OS thread, made when it is first needed.
//!
//! The loop is [`Hub::run`]. It runs on the thread's own stack whenever the thread's own task (greenlet's
//! *main*) waits for something, and returns when that task is the next to run. All other tasks are resumed from
//! it and suspend back to it; an explicit switch is a suspension with the target put at the head of the queue.
//!
//! Tasks suspend in one function, [`Hub::suspend`], behind three doors: [`Hub::park`] (wait for a wake or a
//! deadline), [`Hub::yield_now`] (to the end of the queue) and [`Hub::switch_to`] (an explicit switch).
//!
//! The hub knows wakers, deadlines and descriptors. It knows nothing of greenlets, sockets or results.

#![allow(unsafe_code)]

mod poller;
mod report;
mod shutdown;
mod timers;

use std::cell::{Cell, RefCell, RefMut};
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::panic::Location;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::coro::stack::{self, Stack};
use crate::coro::unwind::{self, AbortIfPanic, Payload};
use crate::coro::{Context, Suspender, Turn, overflow};
use crate::sys::clock::{self, NEVER, Nanos};
use crate::sys::{self};
use crate::task::{
    Body, Ended, GreenletExit, Home, Interrupt, Kind, Message, Origin, Reason, State, Task, TaskRef, Waker,
};

use self::poller::Poller;
pub(crate) use self::poller::{Direction, SlotId};
use self::timers::Timers;

/// The clock is read after this many resumptions.
const RESUMES_PER_CHECK: u32 = 64;
/// I/O and timers are looked at after this many checks …
const CHECKS_PER_TURN: u32 = 16;
/// … or this long, whichever comes first.
const TURN: Nanos = 500_000;
/// Operations on descriptors that did not have to wait, in a row, before others get their turn. As tokio's budget.
const OPERATIONS_PER_TURN: u32 = 128;
/// After so long without an event, memory that was kept for the next tasks goes back to the system …
const QUIET: Duration = Duration::from_millis(10);
/// … of so many stacks at a time: less than a millisecond's work.
const STACKS_SWEPT_IDLE: usize = 1024;
/// A busy hub sweeps so many per turn: less than one part in a hundred of its time.
const STACKS_SWEPT_BUSY: usize = 8;
/// How often a hub that only another thread could wake looks whether there is another thread.
const LONELY_CHECK: Duration = Duration::from_secs(1);

/// How a park ended. (A kill or a timeout scope ends it by unwinding.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wake {
    /// Somebody called the waker.
    Notified,
    /// The deadline given to the park has passed.
    TimedOut,
}

/// The task may not be suspended now: it is unwinding.
///
/// std counts panics per OS thread. Were a task suspended while it unwinds, every other task of the thread would
/// seem to panic, and poison the mutexes that it unlocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unwinding;

impl From<Unwinding> for io::Error {
    fn from(_: Unwinding) -> Self {
        io::Error::new(
            io::ErrorKind::WouldBlock,
            "this would have to wait, which a destructor cannot do while its greenlet unwinds (from a panic, a kill or a timeout)",
        )
    }
}

/// What unwinds a task whose timeout scope has run out, up to that scope.
#[derive(Debug)]
pub(crate) struct ScopeExpired {
    pub(crate) id: u64,
}

/// Called after each explicit switch, in the context of the target, with how it came there and from where.
pub type Tracer = Box<dyn FnMut(TraceEvent)>;

/// What a tracer is told: an explicit switch, as `greenlet.settrace` reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceEvent {
    /// Whether the target is thrown into (`true`), or gets a value.
    pub throw: bool,
    /// The id of the one that control came from.
    pub origin: u64,
    /// The id of the one that control has come to.
    pub target: u64,
}

/// One event loop, and all that its tasks share. See the module's head.
pub(crate) struct Hub {
    pub(crate) home: &'static Home,
    /// Tells this hub from all others that ever were.
    pub(crate) incarnation: u64,
    /// The thread's own task.
    main: TaskRef,
    main_ptr: NonNull<Task>,
    /// Who runs. In the loop: who ran last, or the thread's own task if that one has ended; its state is not `Running` then.
    current: Cell<NonNull<Task>>,
    /// The loop itself runs (nothing may wait), or the hub closes (nothing may wait any more).
    no_waiting: Cell<bool>,
    /// This thread's errno, kept across switches.
    errno: *mut libc::c_int,
    /// Resumptions until the next look at the clock.
    countdown: Cell<u32>,
    /// Looks at the clock until the end of this turn.
    checks: Cell<u32>,
    turn_started: Cell<Nanos>,
    /// The time as of the last look.
    now: Cell<Nanos>,
    /// A test's clock: moves only when nothing is ready, straight to the next deadline.
    virtual_now: Cell<Option<Nanos>>,
    stacks: RefCell<stack::Pool>,
    timers: RefCell<Timers>,
    /// Opened when the hub has to wait for something outside for the first time.
    poller: RefCell<Option<Poller>>,
    /// Tasks that wait for a descriptor, for work given to another OS thread, or for a task of another hub.
    outside_waits: Cell<usize>,
    /// How many operations on descriptors there were since one had to wait.
    unwaited: Cell<u32>,
    /// First in the list of tasks that have not ended, newest first.
    live: Cell<Option<NonNull<Task>>>,
    pub(crate) live_count: Cell<usize>,
    /// Task ids are handed out to hubs in blocks.
    next_id: Cell<u64>,
    last_id: Cell<u64>,
    /// The thread's own stack, for the overflow report.
    native_guard: Range<usize>,
    native_size: usize,
    /// Set while the thread ends: nothing may wait any more. Counts down the kills that are left.
    closing: Cell<Option<u32>>,
    /// How often a deadlock was met where the thread's own task must not leave.
    deadlocks: Cell<u32>,
    tracer: RefCell<Option<Tracer>>,
    /// Whether there is a tracer.
    pub(crate) traced: Cell<bool>,
    /// Whether an explicit switch has to look closer: there is a tracer, or nothing may wait.
    special: Cell<bool>,
    /// The last explicit switch, until the target has told the tracer.
    trace_event: Cell<Option<TraceEvent>>,
}

thread_local! {
    static HUB: Cell<*const Hub> = const { Cell::new(ptr::null()) };
    static CLOSE_AT_THREAD_END: CloseAtThreadEnd = const { CloseAtThreadEnd };
}

struct CloseAtThreadEnd;

impl Drop for CloseAtThreadEnd {
    fn drop(&mut self) {
        let hub = HUB.get();
        if hub.is_null() {
            return;
        }
        // SAFETY: the pointer in HUB is valid until the next lines, and only this thread has it.
        if unsafe { &*hub }.close() {
            HUB.set(ptr::null());
            // SAFETY: it came from Box::into_raw in `create`. All tasks have ended or are never run again, so nobody
            // has a reference to the hub any more.
            drop(unsafe { Box::from_raw(hub.cast_mut()) });
        }
    }
}

/// The hub of this thread. Made if there is none.
///
/// The reference is good for the life of the thread: the hub goes away when the thread-locals do, with all
/// its tasks, and `Hub` is not `Sync`.
#[inline]
pub(crate) fn hub() -> &'static Hub {
    let hub = HUB.get();
    if hub.is_null() {
        return create();
    }
    // SAFETY: not null, so it is the box made by `create`, which lives until the thread's end.
    unsafe { &*hub }
}

/// The hub of this thread, if there is one.
pub(crate) fn existing() -> Option<&'static Hub> {
    let hub = HUB.get();
    // SAFETY: as in `hub`.
    (!hub.is_null()).then(|| unsafe { &*hub })
}

#[cold]
fn create() -> &'static Hub {
    let home = Home::move_in();
    let origin = Origin {
        id: new_ids(1).start,
        kind: Kind::Main,
        name: std::thread::current().name().map(Into::into),
        spawned_at: Location::caller(),
        stack_size: 0,
        measured: false,
    };
    let main = TaskRef::new(home, origin, 0, MainBody);
    let main_ptr = main.here().expect("it was made for this thread").ptr();
    let (native_guard, native_size) = overflow::native_stack().unwrap_or((0..0, 0));
    let now = clock::now();
    let hub = Box::into_raw(Box::new(Hub {
        home,
        incarnation: home.incarnation(),
        main,
        main_ptr,
        current: Cell::new(main_ptr),
        no_waiting: Cell::new(false),
        errno: sys::errno_location(),
        countdown: Cell::new(RESUMES_PER_CHECK),
        checks: Cell::new(CHECKS_PER_TURN),
        turn_started: Cell::new(now),
        now: Cell::new(now),
        virtual_now: Cell::new(None),
        stacks: RefCell::default(),
        timers: RefCell::default(),
        poller: RefCell::default(),
        outside_waits: Cell::new(0),
        unwaited: Cell::new(0),
        live: Cell::new(None),
        live_count: Cell::new(0),
        next_id: Cell::new(0),
        last_id: Cell::new(0),
        native_guard,
        native_size,
        closing: Cell::new(None),
        deadlocks: Cell::new(0),
        tracer: RefCell::default(),
        traced: Cell::new(false),
        special: Cell::new(false),
        trace_event: Cell::new(None),
    }));
    HUB.set(hub);
    hub_main(hub).local.state.set(State::Running);
    overflow::install(report::who_runs);
    // A thread whose thread-locals are being destroyed cannot register this again: then this hub is never closed, nor are its
    // descriptors. That takes a destructor of a thread-local that waits when the thread's hub has been closed already.
    let _ = CLOSE_AT_THREAD_END.try_with(|_| {});
    // SAFETY: just made, and freed at the thread's end only.
    unsafe { &*hub }
}

fn hub_main<'a>(hub: *const Hub) -> &'a Task {
    // SAFETY: called with the hub just made; its main task lives as long as it does.
    unsafe { (*hub).main_ptr.as_ref() }
}

/// The thread's own task is run by the system, not by us.
struct MainBody;

impl Body for MainBody {
    fn run(&self, _: &Task, _: Result<(), Payload>) {
        unreachable!("the thread's own task is never started");
    }
}

fn new_ids(count: u64) -> Range<u64> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let first = NEXT.fetch_add(count, Ordering::Relaxed);
    first..first + count
}

// ---- The loop -----------------------------------------------------------------------------------------------------

impl Hub {
    /// Runs tasks until the thread's own task is the next. This loop is the event loop.
    ///
    /// # Errors
    ///
    /// Nothing can ever become ready again.
    #[inline(never)]
    fn run(&self, mut next: Option<NonNull<Task>>) -> Result<(), Deadlock> {
        loop {
            // The target of a switch, then what is ready, in order; but only so much before the next look at I/O and timers.
            while self.turn_goes_on() {
                match next.take().or_else(|| self.home.ready().pop_front()) {
                    Some(task) if task == self.main_ptr => {
                        self.current.set(task);
                        return Ok(());
                    }
                    Some(task) => next = self.resume(task),
                    None => break,
                }
            }
            if let Some(target) = next.take() {
                // SAFETY: a switch goes to a task that is alive, and nobody has run since.
                self.run_next(unsafe { target.as_ref() });
            }

            let waited = self.in_loop(|| {
                let waited = self.wait_for_events();
                self.fire_timers();
                self.read_mail();
                waited
            });
            if let Err(deadlock) = waited {
                // The thread's own task goes on, with the error.
                self.current.set(self.main_ptr);
                return Err(deadlock);
            }
        }
    }

    /// Does something on the loop's own behalf: meanwhile nothing may wait.
    #[inline]
    fn in_loop<R>(&self, f: impl FnOnce() -> R) -> R {
        self.no_waiting.set(true);
        self.special.set(true);
        let result = f();
        self.no_waiting.set(self.is_closing());
        self.special.set(self.is_closing() || self.traced.get());
        result
    }

    /// Whether the current task may switch explicitly, and nobody else has a say in it.
    #[inline(always)]
    pub(crate) fn may_switch_fast(&self) -> bool {
        !self.special.get() && !std::thread::panicking()
    }

    /// A task of this hub, by a reference to it.
    #[inline(always)]
    pub(crate) fn local<'a>(&self, task: &'a TaskRef) -> Option<&'a Task> {
        // SAFETY: a Hub is reached from its own thread only (it is neither Send nor Sync).
        unsafe { task.of_hub(self.incarnation) }
    }

    /// Counts a resumption. `false`: look at I/O and timers first.
    #[inline]
    fn turn_goes_on(&self) -> bool {
        let left = self.countdown.get();
        if left > 0 {
            self.countdown.set(left - 1);
            return true;
        }
        self.check_the_clock()
    }

    #[cold]
    fn check_the_clock(&self) -> bool {
        self.countdown.set(RESUMES_PER_CHECK - 1);
        let now = self.read_clock();
        let left = self.checks.get();
        if left == 0 || now - self.turn_started.get() >= TURN || self.home.has_mail() {
            return false;
        }
        self.checks.set(left - 1);
        true
    }

    /// Looks at I/O: without waiting if something is ready, else until the next deadline.
    fn wait_for_events(&self) -> Result<(), Deadlock> {
        if !self.home.ready().is_empty() || self.home.has_mail() {
            if self.poller.borrow().as_ref().is_some_and(Poller::has_sources) {
                self.poll(Some(Duration::ZERO));
            }
            self.tidy_up_a_little();
            return Ok(());
        }
        let timeout = match self.timers.borrow_mut().next_deadline() {
            Some(deadline) => Some(Duration::from_nanos(deadline.saturating_sub(self.read_clock()))),
            None if self.outside_waits.get() > 0 => None,
            None if self.another_thread_may_wake_us() => Some(LONELY_CHECK),
            // Whoever could have woken us may have done so just now, and gone.
            None if self.home.has_mail() => return Ok(()),
            None => return Err(Deadlock),
        };
        if timeout == Some(Duration::ZERO) {
            // A deadline has passed. Yet I/O has its turn, or short sleeps would starve it.
            if self.poller.borrow().as_ref().is_some_and(Poller::has_sources) {
                self.poll(timeout);
            }
            return Ok(());
        }
        if self.virtual_now.get().is_some() && self.jump_to_next_deadline() {
            return Ok(());
        }
        // First, for who finds the hub asleep must find the alarm set.
        drop(self.poller());
        let untidy = self.stacks.borrow().has_dirt(false) || self.home.keeps_much();
        let may_be_quiet = untidy && timeout.is_none_or(|timeout| timeout > QUIET);
        if self.home.fall_asleep() {
            self.poll(if may_be_quiet { Some(QUIET) } else { timeout });
            self.home.wake_up();
        }
        if may_be_quiet && self.home.ready().is_empty() && !self.home.has_mail() {
            self.stacks.borrow_mut().sweep(STACKS_SWEPT_IDLE);
            self.home.trim();
        } else {
            self.tidy_up_a_little();
        }
        Ok(())
    }

    /// Gives some of the memory back that is kept for the next tasks, if it is very much.
    fn tidy_up_a_little(&self) {
        if self.stacks.borrow().has_dirt(true) {
            self.stacks.borrow_mut().sweep(STACKS_SWEPT_BUSY);
        }
    }

    fn poll(&self, timeout: Option<Duration>) {
        if let Err(error) = self.poller().poll(timeout) {
            sys::abort(&format!("waiting for events failed: {error}"));
        }
    }

    fn poller(&self) -> RefMut<'_, Poller> {
        RefMut::map(self.poller.borrow_mut(), |slot| {
            self.open_poller(slot).unwrap_or_else(|error| {
                // Without its poller the hub can neither wait nor be woken; nobody could handle that.
                sys::abort(&format!("cannot wait for events: {error} (each thread that waits needs two descriptors: see `ulimit -n`)"))
            })
        })
    }

    fn open_poller<'a>(&self, slot: &'a mut Option<Poller>) -> io::Result<&'a mut Poller> {
        if slot.is_none() {
            let poller = Poller::new()?;
            self.home.set_alarm(poller.alarm()?);
            *slot = Some(poller);
        }
        Ok(slot.as_mut().expect("it was just opened"))
    }

    fn fire_timers(&self) {
        let now = self.read_clock();
        self.turn_started.set(now);
        self.checks.set(CHECKS_PER_TURN);
        self.countdown.set(RESUMES_PER_CHECK);
        self.timers.borrow_mut().fire_due(now);
    }

    fn read_mail(&self) {
        if !self.home.has_mail() {
            return;
        }
        for message in self.home.collect() {
            match message {
                Message::Wake(task, epoch) => on(&task, |task| task.wake(epoch)),
                Message::Interrupt(task, payload) => on(&task, |task| task.interrupt(payload)),
                Message::Unpark(task) => on(&task, Task::unpark),
                Message::Unreferenced(task) => task.unreferenced(),
                Message::Closed { slot, generation } => self.forget_fd(SlotId { index: slot, generation }),
                Message::Poke { slot, generation } => self.poke_fd(SlotId { index: slot, generation }),
            }
        }
    }

    /// Resumes a task until it suspends or ends. Gives the target, if it switches to somebody.
    #[inline(always)]
    fn resume(&self, ptr: NonNull<Task>) -> Option<NonNull<Task>> {
        // SAFETY: the task comes from the ready queue, whose invariant is that it is alive, or is the target of a switch, which is, too.
        let task = unsafe { ptr.as_ref() };
        self.current.set(ptr);
        task.local.state.set(State::Running);
        // SAFETY: only the hub touches contexts, and it is not inside this one: the loop runs on the thread's
        // own stack, so no context is being resumed now.
        let turn = match unsafe { &mut *task.local.context.get() } {
            Some(context) => context.resume(),
            None => self.start(task),
        };
        match turn {
            Turn::Suspended(next) => next.map(NonNull::cast),
            Turn::Finished => {
                self.finish(task);
                None
            }
        }
    }

    /// Gives a task its stack and runs it for the first time.
    #[inline(never)]
    fn start(&self, task: &Task) -> Turn {
        match self.take_stack(task) {
            Ok(stack) => {
                task.local.stack_low.set(stack.low().as_ptr().expose_provenance());
                let context = Context::new(stack, task.ptr(), run_task);
                // SAFETY: as in `resume`.
                unsafe { &mut *task.local.context.get() }.insert(context).resume()
            }
            Err(error) => {
                // It ends without having run, which needs no stack. What it is made of is dropped here, in the loop.
                task.local.state.set(State::Ready);
                self.current.set(self.main_ptr);
                let end = match task.take_interrupt() {
                    // It was to end so anyway.
                    Some(interrupt) => interrupt.into_payload(),
                    None => {
                        let text = format!("{} could not be started: {error}", task.shared.title());
                        // Once: at a limit, thousands may fail, and each has it as its result.
                        static SAID: std::sync::Once = std::sync::Once::new();
                        SAID.call_once(|| sys::write_stderr(format!("switchgrass: {text}\n").as_bytes()));
                        Box::new(text)
                    }
                };
                self.in_loop(|| task.run_body(Err(end)));
                Turn::Finished
            }
        }
    }

    fn take_stack(&self, task: &Task) -> io::Result<Stack> {
        self.stacks.borrow_mut().take(task.local.stack_size, task.local.measured)
    }

    /// Takes leave of a task that has ended.
    #[inline(never)]
    fn finish(&self, task: &Task) {
        let local = &task.local;
        // Until the next one is resumed, the loop is on its own: what is dropped here may unwind others (see `unwind_now`).
        self.current.set(self.main_ptr);
        // SAFETY: as in `resume`; the context has finished.
        if let Some(context) = unsafe { &mut *local.context.get() }.take() {
            let stack = context.into_stack();
            if local.measured {
                // SAFETY: the stack is ours, and idle.
                local.stack_used.set(unsafe { stack::used(stack.low(), stack.size()) });
            }
            local.stack_low.set(0);
            self.stacks.borrow_mut().give_back(stack);
        }
        local.state.set(State::Dead);
        if local.timer.get() != NEVER {
            self.timers.borrow_mut().forget(task);
        }
        self.unlink(task);
        task.shared.ended.set();
        if task.shared.kind == Kind::Coroutine {
            task.settle_parent();
        }
        // SAFETY: the hub's own reference, given to the list of the living by `adopt`. Nothing of `task` is used after.
        drop(unsafe { TaskRef::from_counted(task.ptr()) });
    }
}

/// Does something with a task that a message names, which is of this hub.
fn on(task: &TaskRef, act: impl FnOnce(&Task)) {
    if let Some(task) = task.here() {
        act(task);
    }
}

/// The entry function of every context.
fn run_task(ptr: NonNull<Task>, suspender: &Suspender) {
    // SAFETY: the hub resumes live tasks only, and keeps them alive until they have ended.
    let task = unsafe { ptr.as_ref() };
    task.local.suspender.set(suspender);
    let start = task.take_interrupt().map_or(Ok(()), |interrupt| Err(interrupt.into_payload()));
    let guard = AbortIfPanic("a panic reached the root of a greenlet's stack");
    task.run_body(start);
    std::mem::forget(guard);
}

/// Nothing is ready, and nothing that is left could make anything ready.
#[derive(Debug)]
struct Deadlock;

// ---- Suspending -----------------------------------------------------------------------------------------------------

impl Hub {
    /// The task that is running.
    #[inline]
    pub(crate) fn current(&self) -> &Task {
        // SAFETY: the task that runs is alive, and the loop sets `current` before it resumes one.
        unsafe { self.current.get().as_ref() }
    }

    #[inline]
    pub(crate) fn is_main(&self, task: &Task) -> bool {
        task.ptr() == self.main_ptr
    }

    /// Whether the loop calls this, by a destructor: then there is no task to suspend.
    pub(crate) fn in_the_loop(&self) -> bool {
        self.current().local.state.get() != State::Running
    }

    /// The current task is about to wait where it must not leave: deadlocks that it meets are counted from now on.
    pub(crate) fn begin_to_insist(&self) {
        if self.is_main(self.current()) {
            self.deadlocks.set(0);
        }
    }

    pub(crate) fn main(&self) -> &TaskRef {
        &self.main
    }

    /// The one function that suspends. The caller has set the state, which says who may resume the task.
    ///
    /// Inlined into its callers, as they are into theirs where it matters: the processor predicts the return of a
    /// switch rightly only if no call lies between it and the resumption before (twice 20 cycles, otherwise).
    #[inline(always)]
    fn suspend(&self, task: &Task, next: Option<NonNull<Task>>) -> Result<(), Deadlock> {
        // SAFETY: `errno` is this thread's, whose address never changes.
        let errno = unsafe { *self.errno };
        let result = if self.is_main(task) {
            let result = self.run(next);
            task.local.state.set(State::Running);
            result
        } else {
            if next.is_none() {
                let here = 0_u8;
                task.local.frame.set(&raw const here);
            }
            // SAFETY: set by `run_task` on this very stack, and valid until that function returns.
            unsafe { (*task.local.suspender.get()).suspend(next.map(NonNull::cast)) };
            Ok(())
        };
        // SAFETY: as above.
        unsafe { *self.errno = errno };
        result
    }

    /// What to wake the current task with, in the park that it will do next.
    #[inline]
    pub(crate) fn waker(&self) -> Waker {
        Waker::new(self.current())
    }

    /// Waits for a wake, until `deadline` at most. May switch to other tasks.
    ///
    /// A kill, or a timeout scope that has run out, unwinds from here. So whoever registered a waker must take it
    /// back in a `Drop`.
    ///
    /// # Panics
    ///
    /// On the thread's own task, if nothing can ever wake it: with the report of who waits for what.
    #[inline]
    pub(crate) fn park(&self, reason: Reason, deadline: Nanos) -> Result<Wake, Unwinding> {
        let task = self.may_suspend(reason)?;
        let local = &task.local;
        if local.interrupted.get() {
            self.deliver_interrupt(task);
        }
        if local.notified.replace(false) {
            local.epoch.set(local.epoch.get().wrapping_add(1));
            return Ok(Wake::Notified);
        }
        local.reason.set(reason);
        local.timed_out.set(false);
        let nearest = deadline.min(self.nearest_scope(task));
        if nearest != NEVER {
            self.timers.borrow_mut().arm(task, nearest);
        }
        local.state.set(State::Parked);
        let result = self.suspend(task, None);

        local.deadline.set(NEVER);
        local.notified.set(false);
        local.epoch.set(local.epoch.get().wrapping_add(1));
        if let Err(Deadlock) = result {
            self.fail_deadlocked(task, State::Parked);
        }
        local.reason.set(Reason::NONE);
        if local.interrupted.get() {
            self.deliver_interrupt(task);
        }
        if local.timed_out.get() {
            if deadline > self.nearest_scope(task) {
                self.raise_expired_scope(task);
            }
            return Ok(Wake::TimedOut);
        }
        Ok(Wake::Notified)
    }

    /// Lets every other task that is ready run first. Does nothing while unwinding.
    #[inline(always)]
    pub(crate) fn yield_now(&self) {
        if std::thread::panicking() {
            return;
        }
        if self.no_waiting.get() {
            self.refuse_to_suspend(Reason::new("yield"));
        }
        let task = self.current();
        task.local.state.set(State::Ready);
        self.home.ready().push_back(task);
        // Cannot be a deadlock: this task itself is ready.
        let _ = self.suspend(task, None);
        if task.local.interrupted.get() || !task.local.scopes.get().is_null() {
            self.after_yield(task);
        }
    }

    #[cold]
    fn after_yield(&self, task: &Task) {
        self.deliver_interrupt(task);
        // The time as of the last look, 64 yields ago at most, is good enough for a timeout.
        if self.nearest_scope(task) <= self.now.get() {
            self.raise_expired_scope(task);
        }
    }

    /// Runs `target` next, and suspends the current task, in the state given, until somebody switches to it.
    ///
    /// # Panics
    ///
    /// As [`Hub::park`].
    #[inline(always)]
    pub(crate) fn switch_to(&self, target: &Task, waiting: State) {
        let task = self.current();
        if !task.local.scopes.get().is_null() {
            self.arm_for_scope(task);
        }
        debug_assert!(target.local.state.get().is_suspended());
        task.local.state.set(waiting);
        if let Err(Deadlock) = self.suspend(task, Some(target.ptr())) {
            self.fail_deadlocked(task, waiting);
        }
        if !task.local.scopes.get().is_null() {
            self.check_scope(task);
        }
    }

    /// An explicit switch within a timeout: has the task resumed when its time is up.
    #[cold]
    fn arm_for_scope(&self, task: &Task) {
        task.local.timed_out.set(false);
        let nearest = self.nearest_scope(task);
        if nearest != NEVER {
            self.timers.borrow_mut().arm(task, nearest);
        }
    }

    /// Undoes [`Hub::arm_for_scope`], and unwinds if it was that which has resumed the task.
    #[cold]
    fn check_scope(&self, task: &Task) {
        task.local.deadline.set(NEVER);
        if task.local.timed_out.replace(false) {
            self.raise_expired_scope(task);
        }
    }

    /// Puts a suspended (or unstarted) task at the head of the queue.
    #[inline]
    pub(crate) fn run_next(&self, target: &Task) {
        debug_assert!(target.local.state.get().is_suspended());
        target.local.state.set(State::Ready);
        self.home.ready().push_front(target);
    }

    /// Unwinds `target`, which is suspended, right here, and comes back when it has ended (or has caught the exit
    /// and waits again). Works while the current task unwinds, too: nobody else runs in between, since a task
    /// cannot suspend itself while the thread is panicking.
    ///
    /// In the loop there is nobody to come back to: then it is unwound next.
    pub(crate) fn unwind_now(&self, target: &Task) {
        target.set_interrupt(Interrupt::Raise(Box::new(GreenletExit)));
        if self.in_the_loop() {
            return self.run_next(target);
        }
        let task = self.current();
        task.local.state.set(State::Ready);
        self.home.ready().push_front(task);
        self.run_next(target);
        let _ = self.suspend(task, None);
    }

    /// The current task, if it may be suspended.
    ///
    /// A masked one always may: if the thread is panicking then, it is not this task that unwinds, but the one that has it unwound
    /// ([`Hub::unwind_now`]), and which goes on first. See `greenlet::scope`.
    #[inline(always)]
    pub(crate) fn may_suspend(&self, reason: Reason) -> Result<&Task, Unwinding> {
        if std::thread::panicking() && self.current().local.masked.get() == 0 {
            return Err(Unwinding);
        }
        if self.no_waiting.get() {
            self.refuse_to_suspend(reason);
        }
        Ok(self.current())
    }

    #[cold]
    fn refuse_to_suspend(&self, reason: Reason) {
        assert!(
            self.closing.get().is_some(),
            "blocking call ({reason}) in the event loop itself: a destructor that the loop runs must not wait"
        );
        self.deny_while_closing();
    }

    /// The earliest deadline among the timeout scopes that the task is in.
    #[inline]
    fn nearest_scope(&self, task: &Task) -> Nanos {
        let scope = task.local.scopes.get();
        if scope.is_null() || task.local.masked.get() > 0 {
            return NEVER;
        }
        // SAFETY: scopes live on the stack of the task, which takes them out of the list before they go.
        unsafe { (*scope).nearest }
    }

    #[cold]
    fn deliver_interrupt(&self, task: &Task) {
        // Only `switch` can give an exit as a value, and it looks before this is called.
        if let Some(interrupt) = task.take_interrupt() {
            unwind::raise(interrupt.into_payload());
        }
    }

    /// Unwinds up to the timeout scope that ran out first (the outer one of two with the same deadline).
    #[cold]
    fn raise_expired_scope(&self, task: &Task) -> ! {
        let mut scope = task.local.scopes.get();
        let mut first: Option<(Nanos, u64)> = None;
        while !scope.is_null() {
            // SAFETY: as in `nearest_scope`.
            let this = unsafe { &*scope };
            if first.is_none_or(|(deadline, _)| this.deadline <= deadline) {
                first = Some((this.deadline, this.id));
            }
            scope = this.outer;
        }
        let (_, id) = first.expect("a scope has run out, so there is one");
        unwind::raise(Box::new(ScopeExpired { id }))
    }

    /// The thread's own task waits for what can never come.
    #[cold]
    fn fail_deadlocked(&self, task: &Task, waiting: State) {
        if task.local.masked.get() > 0 {
            // It must not leave now (see `greenlet::scope`): the others have to.
            return self.kill_all_for_deadlock();
        }
        // The report is of the time before.
        task.local.state.set(waiting);
        let report = self.deadlock_report();
        task.local.state.set(State::Running);
        task.local.reason.set(Reason::NONE);
        panic!("{report}");
    }
}

// ---- What tasks need of their hub --------------------------------------------------------------------------------------

impl Hub {
    /// Takes over a new task: from here on it is alive, until `finish`.
    #[inline]
    pub(crate) fn adopt(&self, task: TaskRef) {
        let ptr = task.into_counted();
        let first = self.live.replace(Some(ptr));
        // SAFETY: `ptr` is counted, and `first` is in the list, so alive.
        unsafe {
            ptr.as_ref().local.live.1.set(first);
            if let Some(first) = first {
                first.as_ref().local.live.0.set(Some(ptr));
            }
        }
        self.live_count.set(self.live_count.get() + 1);
    }

    #[inline]
    fn unlink(&self, task: &Task) {
        let (before, after) = (task.local.live.0.take(), task.local.live.1.take());
        // SAFETY: neighbours in the list are alive.
        unsafe {
            match before {
                Some(before) => before.as_ref().local.live.1.set(after),
                None => self.live.set(after),
            }
            if let Some(after) = after {
                after.as_ref().local.live.0.set(before);
            }
        }
        self.live_count.set(self.live_count.get() - 1);
    }

    /// All tasks that have not ended, but the thread's own, newest first.
    fn living(&self) -> Vec<TaskRef> {
        let mut all = Vec::new();
        let mut next = self.live.get();
        while let Some(ptr) = next {
            // SAFETY: it is in the list, so alive.
            let task = unsafe { ptr.as_ref() };
            all.push(task.to_ref());
            next = task.local.live.1.get();
        }
        all
    }

    /// An id that no other task of this process has had.
    #[inline]
    pub(crate) fn new_id(&self) -> u64 {
        if self.next_id.get() == self.last_id.get() {
            let block = new_ids(1024);
            self.next_id.set(block.start);
            self.last_id.set(block.end);
        }
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    /// The time, freshly read: a sleep after a long computation must not be shortened by it.
    pub(crate) fn read_clock(&self) -> Nanos {
        let now = self.virtual_now.get().unwrap_or_else(clock::now);
        self.now.set(now);
        now
    }

    /// The deadline that is `duration` from now.
    pub(crate) fn deadline(&self, duration: Duration) -> Nanos {
        clock::after(self.read_clock(), duration)
    }

    /// Has an unstarted task made ready at `deadline`.
    pub(crate) fn start_at(&self, task: &Task, deadline: Nanos) {
        self.timers.borrow_mut().arm(task, deadline);
    }

    /// Counts a wait whose end comes from outside of this hub, until the guard is dropped: meanwhile there is no deadlock.
    pub(crate) fn outside_wait(&self) -> OutsideWait<'_> {
        self.outside_waits.set(self.outside_waits.get() + 1);
        OutsideWait(self)
    }

    /// Waits until `ended` is set. May switch.
    pub(crate) fn wait_ended(
        &self,
        ended: &Ended,
        elsewhere: bool,
        reason: Reason,
        deadline: Nanos,
    ) -> Result<Wake, Unwinding> {
        if ended.is_set() {
            return Ok(Wake::Notified);
        }
        self.may_suspend(reason)?;
        let _outside = elsewhere.then(|| self.outside_wait());
        while !ended.is_set() {
            let waker = self.waker();
            if !ended.add(waker.clone()) {
                break;
            }
            let _listed = Listed { ended, waker };
            if self.park(reason, deadline)? == Wake::TimedOut {
                return Ok(if ended.is_set() { Wake::Notified } else { Wake::TimedOut });
            }
        }
        Ok(Wake::Notified)
    }

    /// How much stack the task has used at most, if it was asked to keep count.
    pub(crate) fn stack_used(&self, task: &Task) -> Option<usize> {
        let local = &task.local;
        if !local.measured {
            return None;
        }
        let Some(low) = NonNull::new(ptr::with_exposed_provenance_mut(local.stack_low.get())) else {
            return Some(local.stack_used.get());
        };
        // SAFETY: `stack_low` is set while the task has its stack, which this thread alone uses.
        Some(unsafe { stack::used(low, local.stack_size) })
    }

    /// Stacks in use and in the pool.
    pub(crate) fn stack_counts(&self) -> (usize, usize) {
        let stacks = self.stacks.borrow();
        (stacks.in_use, stacks.pooled())
    }

    /// Sets the function that is told of explicit switches; gives back the one before.
    pub(crate) fn set_tracer(&self, tracer: Option<Tracer>) -> Option<Tracer> {
        self.traced.set(tracer.is_some());
        self.special.set(tracer.is_some() || self.is_closing());
        self.trace_event.set(None);
        self.tracer.replace(tracer)
    }

    /// Notes an explicit switch, for the target to tell the tracer.
    #[cold]
    pub(crate) fn note_switch(&self, event: TraceEvent) {
        self.trace_event.set(Some(event));
    }

    /// Tells the tracer of the switch that led here.
    ///
    /// A tracer that panics is removed, and the panic goes on in the target.
    #[cold]
    pub(crate) fn tell_tracer(&self) {
        let Some(event) = self.trace_event.take() else { return };
        if event.target != self.current().shared.id {
            // The target has not run yet: this is one that is unwound by a destructor on the way there.
            return self.trace_event.set(Some(event));
        }
        // Taken out meanwhile: it may switch itself, and is not told of that.
        let Some(mut tracer) = self.tracer.take() else { return };
        match unwind::catch(|| tracer(event)) {
            Ok(()) => {
                let mut slot = self.tracer.borrow_mut();
                if slot.is_none() && self.traced.get() {
                    *slot = Some(tracer);
                }
            }
            Err(payload) => {
                self.traced.set(false);
                self.special.set(self.is_closing());
                unwind::raise(payload)
            }
        }
    }

    /// Whether the thread is ending and this hub unwinds what is left.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get().is_some()
    }

    /// From now on this hub's time stands still while anything is ready, and jumps to the next deadline when nothing is.
    pub(crate) fn use_virtual_clock(&self) {
        if self.virtual_now.get().is_none() {
            self.virtual_now.set(Some(clock::now()));
        }
    }

    /// `true`: the clock has moved, or events have come.
    fn jump_to_next_deadline(&self) -> bool {
        self.poll(Some(Duration::ZERO));
        if !self.home.ready().is_empty() || self.home.has_mail() {
            return true;
        }
        let next = self.timers.borrow_mut().next_deadline();
        match next {
            Some(deadline) => {
                self.virtual_now.set(Some(deadline));
                true
            }
            None => false,
        }
    }
}

/// See [`Hub::outside_wait`].
#[derive(Debug)]
pub(crate) struct OutsideWait<'a>(&'a Hub);

impl Drop for OutsideWait<'_> {
    fn drop(&mut self) {
        self.0.outside_waits.set(self.0.outside_waits.get() - 1);
    }
}

/// Takes the waker back out when the wait is over, however it ends.
struct Listed<'a> {
    ended: &'a Ended,
    waker: Waker,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        if !self.ended.is_set() {
            self.ended.remove(&self.waker);
        }
    }
}

// ---- Descriptors --------------------------------------------------------------------------------------------------------

impl Hub {
    /// Watches one direction of a descriptor until [`Hub::forget_fd`].
    pub(crate) fn register_fd(&self, fd: BorrowedFd<'_>, direction: Direction) -> io::Result<SlotId> {
        let mut slot = self.poller.borrow_mut();
        self.open_poller(&mut slot)?.register(fd, direction)
    }

    /// Whether an operation in that direction may find something to do.
    #[inline]
    pub(crate) fn fd_ready(&self, id: SlotId, direction: Direction) -> bool {
        self.poller.borrow_mut().as_mut().is_none_or(|poller| poller.is_ready(id, direction))
    }

    /// An operation has found that there is nothing (more) to do: the next edge will tell.
    #[inline]
    pub(crate) fn fd_exhausted(&self, id: SlotId, direction: Direction) {
        if let Some(poller) = &mut *self.poller.borrow_mut() {
            poller.exhausted(id, direction);
        }
    }

    /// To be called before each operation: lets others run if many in a row did not have to wait, so that a greenlet which always finds
    /// something to read starves nobody. (Before, not after: a timeout that strikes here must not lose what was read.)
    #[inline]
    pub(crate) fn be_fair(&self) {
        let unwaited = self.unwaited.get() + 1;
        self.unwaited.set(unwaited);
        if unwaited > OPERATIONS_PER_TURN {
            self.unwaited.set(0);
            // A destructor that the loop runs cannot wait, but it may use what does not have to.
            if !self.in_the_loop() {
                self.yield_now();
            }
        }
    }

    /// Waits for the next edge. May switch.
    pub(crate) fn wait_fd(
        &self,
        id: SlotId,
        fd: BorrowedFd<'_>,
        direction: Direction,
        reason: Reason,
        deadline: Nanos,
    ) -> io::Result<Wake> {
        self.may_suspend(reason)?;
        self.unwaited.set(0);
        if let Some(poller) = &mut *self.poller.borrow_mut() {
            poller.extend(id, fd, direction)?;
            poller.wait(id, direction, self.waker());
        }
        let _waiting = FdWait { hub: self, id, direction, _outside: self.outside_wait() };
        Ok(self.park(reason, deadline)?)
    }

    /// The descriptor is about to be closed. `still_open_elsewhere`: it may have duplicates, so that closing it
    /// does not end the registration.
    pub(crate) fn close_fd(&self, id: SlotId, fd: BorrowedFd<'_>, still_open_elsewhere: bool) {
        if let Some(poller) = &mut *self.poller.borrow_mut() {
            if still_open_elsewhere {
                poller.deregister(fd);
            }
            poller.forget(id);
        }
    }

    /// Something has happened to the descriptor of which no event may tell: who waits looks again.
    pub(crate) fn poke_fd(&self, id: SlotId) {
        if let Some(poller) = &mut *self.poller.borrow_mut() {
            poller.poke(id);
        }
    }

    /// The descriptor was closed by another thread.
    fn forget_fd(&self, id: SlotId) {
        if let Some(poller) = &mut *self.poller.borrow_mut() {
            poller.forget(id);
        }
    }
}

struct FdWait<'a> {
    hub: &'a Hub,
    id: SlotId,
    direction: Direction,
    _outside: OutsideWait<'a>,
}

impl Drop for FdWait<'_> {
    fn drop(&mut self) {
        if let Some(poller) = &mut *self.hub.poller.borrow_mut() {
            poller.stop_waiting(self.id, self.direction);
        }
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("home", &self.home).field("live", &self.live_count.get()).finish()
    }
}
