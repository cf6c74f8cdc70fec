//! Observing runs: for samples of the time in the ready queue, and for a recording.
//!
//! Nothing on the way of a switch, a wake or a spawn knows of this. How many resumptions there were is told by the
//! countdown that leads to the next look at the clock. What a task did in a run is told by what has changed since:
//! who is at the end of the ready queue that was not there before was woken by it (or is itself, if it yields), and
//! who has a new id was spawned by it. The loop's own turn counts as a run, too: there, it was a descriptor, a
//! timer or another thread that woke.
//!
//! One run in [`RUNS_PER_SAMPLE`] is observed for samples, which are all that it queues. So each queueing has the same
//! chance to be one, whoever it is by and however many come at once; or, where the chance is greater, it counts less.
//! (A window that ends with the sample is counted down like any other; then [`Hub::run_observed`] takes the place of
//! the inner loop for one run.) For a sample, a *place* is put into the queue, just before the task: a task without a
//! stack, so that the loop comes upon it where it would start one. The time until then is the wait, and the resumptions
//! until then are the length of the queue. When within the run the task was queued is not known: it counts as queued in
//! the middle, but at the end if it yielded, or if the loop has queued it, whose turn begins with sleep.
//!
//! What goes by the queue is not measured: a task that somebody switches to explicitly.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::Location;
use std::ptr::NonNull;

use super::record::{Cause, What};
use super::run::RESUMES_PER_CHECK;
use super::{Hub, NeverRun};
use crate::coro::Turn;
use crate::sys::clock::{self, Nanos};
use crate::task::{Kind, Origin, State, Task, TaskRef};

/// On average: the distances vary from half of it to one and a half, so that work which comes in rounds is not always
/// sampled at the same point. A sample costs about 300 ns.
const RUNS_PER_SAMPLE: u32 = 2048;
/// A turn of the loop that is about to sleep counts as so many, for it takes some microseconds anyway: or else a hub
/// that does little would be sampled too rarely to tell anything.
const RUNS_PER_SLEEP: u32 = 32;
/// Of a run that queued more tasks than these, so many are samples, and each counts for several.
const SAMPLES_PER_RUN: usize = 8;

#[derive(Debug)]
pub(super) struct Observer {
    /// Runs until the next that is sampled.
    runs_left: Cell<u32>,
    /// How many runs one that is sampled stands for.
    stands_for: Cell<u32>,
    /// What the distance to the next one is taken from.
    random: Cell<u32>,
    run: RefCell<Option<Run>>,
    /// Whether `run` is there: a cheaper look.
    in_a_run: Cell<bool>,
    /// The places in the queue, in their order.
    places: RefCell<VecDeque<Place>>,
    /// How long the queue was at the last sample.
    length: Cell<u64>,
}

/// A run that is being observed.
#[derive(Debug)]
struct Run {
    /// `None`: the loop's.
    task: Option<TaskRef>,
    since: Nanos,
    /// Who was last in the queue.
    last: Option<NonNull<Task>>,
    /// Ids from this one on are new.
    new_ids: u64,
}

#[derive(Debug)]
struct Place {
    since: Nanos,
    resumptions: u64,
    /// For how many tasks it stands.
    weight: u64,
}

/// What comes after [`Hub::run_observed`], or after a turn of the loop.
pub(super) enum Next {
    /// The thread's own task.
    Main,
    /// Runs that are not observed. The first is that of the target of a switch, if there is one.
    Runs(Option<NonNull<Task>>),
    /// A look at I/O and timers, and then the same.
    Turn(Option<NonNull<Task>>),
}

impl Default for Observer {
    fn default() -> Self {
        Observer {
            runs_left: Cell::new(RUNS_PER_SAMPLE),
            stands_for: Cell::new(RUNS_PER_SAMPLE),
            random: Cell::new(1),
            run: RefCell::default(),
            in_a_run: Cell::new(false),
            places: RefCell::default(),
            length: Cell::new(0),
        }
    }
}

/// What a place in the queue is made of, and the task that stands for the loop in a recording.
pub(super) fn origin(id: u64) -> Origin {
    Origin {
        id,
        kind: Kind::Loop,
        name: None,
        spawned_by: id,
        spawned_at: Location::caller(),
        stack_size: 0,
        measured: false,
    }
}

impl Hub {
    /// How many resumptions there were.
    pub(super) fn resumptions(&self) -> u64 {
        self.resumed.get().wrapping_add(self.counted())
    }

    /// How many there were in this countdown.
    fn counted(&self) -> u64 {
        u64::from(self.window.get() - self.home.countdown())
    }

    /// Counts down anew, to the next look at the clock or to the next sample. To zero, as long as runs are observed.
    pub(super) fn count_anew(&self) {
        let runs_left = self.observer.runs_left.get().saturating_sub(self.counted() as u32);
        self.observer.runs_left.set(runs_left);
        self.resumed.set(self.resumptions());
        let window = if self.runs_are_observed() { 0 } else { runs_left.min(RESUMES_PER_CHECK) };
        self.window.set(window);
        self.home.restart_countdown(window, self.resumed.get());
    }

    /// Counts a run that the countdown does not see, and that has so many times the chance of
    /// another one to be a sample.
    fn count_run(&self, times: u32) {
        let left = self.observer.runs_left.get();
        self.observer.runs_left.set(left.saturating_sub(times));
        self.observer.stands_for.set(RUNS_PER_SAMPLE / times);
    }

    /// Whether the next run is observed, or one that goes on.
    #[inline]
    pub(super) fn runs_are_observed(&self) -> bool {
        self.recorder.is_on() || self.observer.runs_left.get() == 0 || self.observer.in_a_run.get()
    }

    /// The inner loop of [`Hub::run`], for runs that are observed.
    #[cold]
    #[inline(never)]
    pub(super) fn run_observed(&self, mut next: Option<NonNull<Task>>) -> Next {
        // That of the thread's own task, which ends here.
        self.end_run(Cause::Task);
        while self.runs_are_observed() {
            let left = self.checks.get();
            if left == 0 {
                return Next::Turn(next);
            }
            self.checks.set(left - 1);
            let ready = next.take().or_else(|| self.home.ready().pop_front());
            let Some(ptr) = ready.or_else(|| self.take_work()) else {
                return Next::Turn(None);
            };
            self.resumed.set(self.resumed.get().wrapping_add(1));
            if ptr == self.main_ptr {
                self.count_run(1);
                self.begin_run(self.alive(ptr));
                return Next::Main;
            }
            next = self.resume_observed(ptr);
        }
        self.count_anew();
        Next::Runs(next)
    }

    /// [`Hub::resume`], observed.
    #[inline(never)]
    fn resume_observed(&self, ptr: NonNull<Task>) -> Option<NonNull<Task>> {
        let task = self.alive(ptr);
        if task.is_place() {
            return self.resume(ptr);
        }
        self.count_run(1);
        self.begin_run(task);
        let next = self.resume(ptr);
        self.end_run(Cause::Task);
        next
    }

    /// [`Hub::resume`] while the hub closes: observed if it is recorded.
    pub(super) fn resume_to_close(&self, ptr: NonNull<Task>) -> Option<NonNull<Task>> {
        if self.recorder.is_on() { self.resume_observed(ptr) } else { self.resume(ptr) }
    }

    /// From here on a task's run is observed.
    pub(super) fn begin_run(&self, task: &Task) {
        self.observe_run(Some(task.to_ref()));
        self.count_anew();
    }

    fn observe_run(&self, task: Option<TaskRef>) {
        self.observer.in_a_run.set(true);
        self.observer.run.replace(Some(Run {
            task,
            since: clock::now(),
            last: self.home.ready().last(),
            new_ids: self.next_id.get(),
        }));
    }

    /// The run that was observed, if there is one, is over.
    pub(super) fn end_run(&self, cause: Cause) {
        let Some(run) = self.observer.run.take() else { return };
        self.observer.in_a_run.set(false);
        self.look_at_run(&run, cause);
        if self.observer.runs_left.get() == 0 {
            // Marsaglia's xorshift.
            let mut random = self.observer.random.get();
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            self.observer.random.set(random);
            self.observer.runs_left.set(RUNS_PER_SAMPLE / 2 + random % RUNS_PER_SAMPLE);
        }
    }

    /// The loop begins its turn.
    #[inline]
    pub(super) fn begin_turn(&self) {
        let sleeps = self.home.ready().is_empty() && !self.home.inbox().has_mail();
        self.count_run(if sleeps { RUNS_PER_SLEEP } else { 1 });
        if self.runs_are_observed() {
            self.end_run(Cause::Task);
            self.observe_run(None);
        }
    }

    /// The loop has done a part of its turn.
    #[inline]
    pub(super) fn end_part(&self, cause: Cause) {
        if self.observer.in_a_run.get()
            && let Some(run) = self.observer.run.take()
        {
            self.look_at_run(&run, cause);
            self.observe_run(None);
        }
    }

    /// The loop has done the last part of its turn.
    #[inline]
    pub(super) fn end_turn(&self, cause: Cause) {
        if self.observer.in_a_run.get() {
            self.end_run(cause);
        }
    }

    #[cold]
    #[inline(never)]
    fn look_at_run(&self, run: &Run, cause: Cause) {
        let until = clock::now();
        if self.recorder.is_on() {
            self.record_run(run, until, cause);
        }
        if self.observer.runs_left.get() == 0 {
            self.sample_run(run, until);
        }
    }

    /// Who does what is done now, for a recording.
    pub(super) fn who(&self) -> TaskRef {
        self.who_of(self.observer.run.borrow().as_ref())
    }

    fn who_of(&self, run: Option<&Run>) -> TaskRef {
        run.and_then(|run| run.task.clone()).unwrap_or_else(|| self.loop_task.clone())
    }

    fn record_run(&self, run: &Run, until: Nanos, cause: Cause) {
        let by = self.who_of(Some(run));
        let local = run.task.as_ref().and_then(|task| self.local(task));
        let state = local.map(|task| task.local.state.get());
        if let (Some(task), Some(state)) = (local, state) {
            let reason = task.local.reason.get();
            self.record(run.since, task.to_ref(), What::Ran { until, state, reason });
        }
        // The youngest is the first in the list.
        let mut spawned: Vec<TaskRef> = Vec::new();
        let mut next = self.live.get();
        while let Some(task) = next.map(|ptr| self.alive(ptr)).filter(|task| task.shared.id >= run.new_ids) {
            spawned.push(task.to_ref());
            next = task.local.live.1.get();
        }
        for task in spawned.into_iter().rev() {
            self.record(until, task, What::Spawned { by: by.clone() });
        }
        for task in self.home.ready().since(run.last) {
            if !by.is(task) && !task.is_place() {
                self.record(until, task.to_ref(), What::Woken { by: by.clone(), cause });
            }
        }
        if state == Some(State::Dead) {
            self.record(until, by, What::Ended);
        }
    }

    /// Has the waits of those measured whom the run has queued.
    fn sample_run(&self, run: &Run, until: Nanos) {
        let queue = self.home.ready();
        let queued = queue.since(run.last).count();
        let samples = queued.min(SAMPLES_PER_RUN);
        let mut before = run.last;
        let mut taken = 0;
        for (index, task) in queue.since(run.last).enumerate() {
            if taken == samples {
                break;
            }
            // The middle one of each group stands for it.
            if index == queued * (2 * taken + 1) / (2 * samples) {
                let tasks = queued * (taken + 1) / samples - queued * taken / samples;
                let weight = tasks as u64 * u64::from(self.observer.stands_for.get());
                let at_the_end = run.task.as_ref().is_none_or(|own| own.is(task));
                let since = if at_the_end { until } else { Nanos::midpoint(run.since, until) };
                self.put_place(before, Place { since, resumptions: self.resumptions(), weight });
                taken += 1;
            }
            before = Some(task.ptr());
        }
    }

    /// Puts a place into the queue: after `before`, or before all.
    fn put_place(&self, before: Option<NonNull<Task>>, place: Place) {
        self.observer.places.borrow_mut().push_back(place);
        let task = TaskRef::new(self.home, origin(0), 0, NeverRun);
        if let Some(task) = self.local(&task) {
            task.local.state.set(State::Ready);
            self.home.ready().insert_after(before, task);
        }
        // Kept for the queue, until the loop has come to it.
        task.into_counted();
    }

    /// The loop has come to a place in the queue.
    #[cold]
    #[inline(never)]
    pub(super) fn arrive_at_place(&self, place: &Task) -> Turn {
        // This was no resumption, and nobody runs.
        self.resumed.set(self.resumed.get().wrapping_sub(1));
        self.current.set(self.main_ptr);
        // SAFETY: given up to the queue by `sample_run`, which does not have it any more.
        // Nothing of `place` is used after.
        drop(unsafe { TaskRef::from_counted(place.ptr()) });
        if let Some(place) = self.observer.places.borrow_mut().pop_front() {
            let wait = clock::now().saturating_sub(place.since);
            self.home.meter.queue_time.add(wait, place.weight);
            self.observer.length.set(self.resumptions().saturating_sub(place.resumptions));
        }
        Turn::Suspended(None)
    }

    /// Has the numbers in the home say what is now.
    pub(super) fn publish(&self) {
        let meter = &self.home.meter;
        let (in_use, pooled) = self.stack_counts();
        meter.switches.set(self.resumptions());
        meter.ready.set(if self.home.ready().is_empty() { 0 } else { self.observer.length.get() });
        meter.timers.set(self.timers.borrow().kept() as u64);
        meter.live.set(self.live_count.get() as u64);
        meter.stacks_in_use.set(in_use as u64);
        meter.stacks_pooled.set(pooled as u64);
    }

    /// The same, exactly.
    pub(crate) fn publish_exactly(&self) {
        self.publish();
        let ready = self.home.ready().since(None).filter(|task| !task.is_place()).count();
        self.home.meter.ready.set(ready as u64);
    }
}
