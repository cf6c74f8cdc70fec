//! The hub: one event loop per OS thread, made when it is first needed.
//!
//! The loop is [`Hub::run`], in `run.rs`. It runs on the thread's own stack whenever the thread's own task (greenlet's
//! *main*) waits for something, and returns when that task is the next to run. All other tasks are resumed from
//! it and suspend back to it; an explicit switch is a suspension with the target put at the head of the queue.
//!
//! Tasks suspend in one function, [`Hub::suspend`] in `suspend.rs`, behind three doors: [`Hub::park`] (wait for a wake or a
//! deadline), [`Hub::yield_now`] (to the end of the queue) and [`Hub::switch_to`] (an explicit switch).
//!
//! The hub knows wakers, deadlines and descriptors. It knows nothing of greenlets, sockets or results.

#![allow(unsafe_code)]

mod descriptors;
#[cfg(feature = "monkey")]
pub(crate) mod foreign;
mod fork;
mod idle;
pub(crate) mod inspect;
mod masked;
mod observe;
mod pace;
mod poller;
pub(crate) mod record;
mod report;
mod run;
mod shutdown;
mod sleep;
mod suspend;
pub(crate) mod team;
mod timers;
pub(crate) mod tree;
mod vigil;

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::ops::Range;
use std::panic::Location;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::coro::overflow;
use crate::coro::stack;
use crate::coro::trace::Inspection;
use crate::coro::unwind::{self, Payload};
use crate::sys::clock::{self, Nanos};
use crate::sys::{self, fork::generation};
use crate::task::{Body, Ended, Home, Kind, Listener, Origin, Reason, State, Task, TaskRef, Waker};

pub(crate) use self::descriptors::Waits;
pub(crate) use self::fork::watch_forks;
pub(crate) use self::masked::Masked;
use self::observe::Observer;
use self::poller::Poller;
pub(crate) use self::poller::{Direction, SlotId};
use self::record::Recorder;
use self::run::{CHECKS_PER_TURN, RESUMES_PER_CHECK};
use self::timers::Timers;

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
///
/// In this order: what each switch touches comes first, in one cache line.
#[repr(C, align(64))]
pub(crate) struct Hub {
    pub(crate) home: &'static Home,
    /// Tells this hub from all others that ever were.
    pub(crate) incarnation: u64,
    main_ptr: NonNull<Task>,
    /// Who runs. In the loop: who ran last, or the thread's own task if that one has ended; its state is not `Running` then.
    current: Cell<NonNull<Task>>,
    /// This thread's errno, kept across switches.
    errno: *mut libc::c_int,
    /// Set while a suspended task is resumed only to tell where it stands; see [`Hub::suspend`].
    inspection: Cell<Option<NonNull<Inspection>>>,
    /// The loop itself runs (nothing may wait), or the hub closes (nothing may wait any more).
    no_waiting: Cell<bool>,
    /// How many tasks have another one unwound, and go on right after it (see [`Hub::unwind_now`]).
    waiting_for_unwound: Cell<u32>,
    /// Whether an explicit switch has to look closer: there is a tracer, or nothing may wait.
    special: Cell<bool>,
    /// Whether there is a tracer.
    pub(crate) traced: Cell<bool>,
    /// What the home's countdown began with.
    window: Cell<u32>,
    /// All resumptions before that.
    resumed: Cell<u64>,
    /// The time as of the last look.
    now: Cell<Nanos>,
    /// Looks at the clock until the end of this turn.
    checks: Cell<u32>,
    turn_started: Cell<Nanos>,
    /// A test's clock: moves only when nothing is ready, straight to the next deadline.
    virtual_now: Cell<Option<Nanos>>,
    /// The thread's own task.
    main: TaskRef,
    /// Stands for the loop where somebody has to.
    loop_task: TaskRef,
    /// Main's wait is one of `foreign.rs`; and such a wait has met a deadlock.
    #[cfg(feature = "monkey")]
    foreign_wait: Cell<bool>,
    #[cfg(feature = "monkey")]
    foreign_deadlock: Cell<bool>,
    /// The process in which the loop has run last.
    #[cfg(feature = "monkey")]
    process: Cell<u32>,
    #[cfg(feature = "monkey")]
    around_events: Cell<Option<fn(bool)>>,
    /// How many runs of signal handlers, and of those without `SA_RESTART`, were seen to.
    #[cfg(feature = "monkey")]
    signals_seen: Cell<u32>,
    #[cfg(feature = "monkey")]
    unrestarted_seen: Cell<u32>,
    /// First in the list of tasks that have not ended, newest first.
    live: Cell<Option<NonNull<Task>>>,
    pub(crate) live_count: Cell<usize>,
    /// Task ids are handed out to hubs in blocks.
    next_id: Cell<u64>,
    last_id: Cell<u64>,
    /// How many operations there were since one had to wait, of those that [`Hub::be_fair`] counts.
    unwaited: Cell<u32>,
    /// Tasks that wait for a descriptor, for work given to another OS thread, or for a task of another hub.
    outside_waits: Cell<usize>,
    /// Its place among hubs that share work, if it is one of those.
    member: OnceCell<team::Member>,
    /// The last sleep was for nothing.
    lonely: Cell<bool>,
    /// … was ended by mail.
    woken_by_mail: Cell<bool>,
    vigil: Cell<vigil::Vigil>,
    stacks: RefCell<stack::Pool>,
    timers: RefCell<Timers>,
    /// Opened when the hub has to wait for something outside for the first time.
    poller: RefCell<Option<Poller>>,
    /// For choices that are to favour nobody.
    dice: Cell<u64>,
    observer: Observer,
    recorder: Recorder,
    /// The thread's own stack, for the overflow report.
    native_guard: Range<usize>,
    native_size: usize,
    /// Set while the thread ends: nothing may wait any more. Counts down the kills that are left.
    closing: Cell<Option<u32>>,
    /// How often a deadlock was met where the thread's own task must not leave.
    deadlocks: Cell<u32>,
    tracer: RefCell<Option<Tracer>>,
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
        if let Some(unread) = unsafe { &*hub }.close() {
            HUB.set(ptr::null());
            // SAFETY: it came from Box::into_raw in `create`. All tasks have ended or are never run again, so nobody
            // has a reference to the hub any more.
            drop(unsafe { Box::from_raw(hub.cast_mut()) });
            drop(unread);
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
#[inline]
pub(crate) fn existing() -> Option<&'static Hub> {
    let hub = HUB.get();
    // SAFETY: as in `hub`.
    (!hub.is_null()).then(|| unsafe { &*hub })
}

/// Lets the other greenlets of this thread have a turn, if the current one has gone on for long without having to wait. May switch.
#[inline]
pub(crate) fn be_fair() {
    if let Some(hub) = existing() {
        hub.be_fair();
    }
}

#[cold]
fn create() -> &'static Hub {
    let home = Home::move_in();
    home.restart_countdown(RESUMES_PER_CHECK, 0);
    let id = new_ids(1).start;
    let origin = Origin {
        id,
        kind: Kind::Main,
        name: std::thread::current().name().map(Into::into),
        spawned_by: id,
        spawned_at: Location::caller(),
        stack_size: 0,
        measured: false,
    };
    let main = TaskRef::new(home, origin, 0, NeverRun);
    let main_ptr = main.here().expect("it was made for this thread").ptr();
    let loop_task = TaskRef::new(home, observe::origin(new_ids(1).start), 0, NeverRun);
    let (native_guard, native_size) = overflow::native_stack().unwrap_or((0..0, 0));
    let now = clock::now();
    let hub = Box::into_raw(Box::new(Hub {
        home,
        incarnation: home.incarnation(),
        main,
        main_ptr,
        loop_task,
        current: Cell::new(main_ptr),
        no_waiting: Cell::new(false),
        waiting_for_unwound: Cell::new(0),
        errno: sys::errno_location(),
        inspection: Cell::new(None),
        window: Cell::new(RESUMES_PER_CHECK),
        resumed: Cell::new(0),
        observer: Observer::default(),
        recorder: Recorder::default(),
        checks: Cell::new(CHECKS_PER_TURN),
        turn_started: Cell::new(now),
        now: Cell::new(now),
        virtual_now: Cell::new(None),
        stacks: RefCell::default(),
        timers: RefCell::default(),
        poller: RefCell::default(),
        outside_waits: Cell::new(0),
        #[cfg(feature = "monkey")]
        foreign_wait: Cell::new(false),
        #[cfg(feature = "monkey")]
        foreign_deadlock: Cell::new(false),
        #[cfg(feature = "monkey")]
        process: Cell::new(generation()),
        #[cfg(feature = "monkey")]
        around_events: Cell::new(None),
        #[cfg(feature = "monkey")]
        signals_seen: Cell::new(0),
        #[cfg(feature = "monkey")]
        unrestarted_seen: Cell::new(0),
        member: OnceCell::new(),
        lonely: Cell::new(false),
        woken_by_mail: Cell::new(false),
        vigil: Cell::default(),
        unwaited: Cell::new(0),
        dice: Cell::new(home.incarnation()),
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
    watch_forks();
    // A thread whose thread-locals are being destroyed cannot register this again: then this hub is never closed, nor are its
    // descriptors. That takes a destructor of a thread-local that waits when the thread's hub has been closed already.
    let _ = CLOSE_AT_THREAD_END.try_with(|_| {});
    // SAFETY: just made, and freed at the thread's end only.
    let hub = unsafe { &*hub };
    hub.join_recording();
    hub
}

fn hub_main<'a>(hub: *const Hub) -> &'a Task {
    // SAFETY: called with the hub just made; its main task lives as long as it does.
    unsafe { (*hub).main_ptr.as_ref() }
}

/// The thread's own task is run by the system, not by us; and a place in the queue is only a place (see `observe.rs`).
struct NeverRun;

impl Body for NeverRun {
    fn run(&self, _: &Task, _: Result<(), Payload>) {
        unreachable!("this task is never started");
    }
}

fn new_ids(count: u64) -> Range<u64> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let first = NEXT.fetch_add(count, Ordering::Relaxed);
    first..first + count
}

/// Nothing is ready, and nothing that is left could make anything ready.
#[derive(Debug)]
struct Deadlock;

impl Hub {
    /// Takes over a new task: from here on it is alive, until `finish`.
    #[inline]
    pub(crate) fn adopt(&self, task: TaskRef) -> NonNull<Task> {
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
        ptr
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

    /// A number below `bound`, as by a die; 0 if there is none.
    pub(crate) fn any_below(&self, bound: usize) -> usize {
        // splitmix64.
        let seed = self.dice.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.dice.set(seed);
        let mut mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) as usize).checked_rem(bound).unwrap_or(0)
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

    /// Has a task that was not started made ready: now, or at that time.
    pub(crate) fn start_at(&self, task: &Task, at: Option<Nanos>) {
        match at {
            _ if !task.is_to_be_started() => {}
            None => task.make_ready(),
            Some(deadline) => self.timers.borrow_mut().arm(task, deadline),
        }
    }

    /// Counts a wait whose end comes from outside of this hub, until the guard is dropped: meanwhile there is no deadlock.
    pub(crate) fn outside_wait(&self) -> OutsideWait<'_> {
        self.outside_waits.set(self.outside_waits.get() + 1);
        OutsideWait { hub: self, generation: generation() }
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
            if ended.add(Listener::Task(waker.clone())).is_err() {
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

    /// From now on this hub's time stands still while anything is ready, and jumps to the next deadline when nothing is. And its dice fall as those of any
    /// other hub that does this: what is run twice is the same twice.
    pub(crate) fn use_virtual_clock(&self) {
        if self.virtual_now.get().is_none() {
            self.virtual_now.set(Some(clock::now()));
            self.turn_started.set(self.read_clock());
            self.dice.set(0);
        }
    }

    /// `true`: the clock has moved, or events have come.
    fn jump_to_next_deadline(&self) -> bool {
        self.poll(Some(Duration::ZERO));
        if !self.home.ready().is_empty() || self.home.inbox().has_mail() {
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
pub(crate) struct OutsideWait<'a> {
    hub: &'a Hub,
    /// Of which process: a child does not wait for what its parent waits for.
    generation: u32,
}

impl Drop for OutsideWait<'_> {
    fn drop(&mut self) {
        if self.generation == generation() {
            self.hub.outside_waits.set(self.hub.outside_waits.get() - 1);
        }
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
            self.ended.remove(|listener| matches!(listener, Listener::Task(waker) if waker.is(&self.waker)));
        }
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("home", &self.home).field("live", &self.live_count.get()).finish()
    }
}
