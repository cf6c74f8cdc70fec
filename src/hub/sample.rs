//! What a hub knows of itself, measured at (almost) no cost.
//!
//! How many resumptions there were is told by the countdown that leads to the next look at the clock. How long tasks are in the ready
//! queue, and how many there are, is sampled: reading a clock takes several times as long as a switch.
//!
//! One wake in [`WAKES_PER_SAMPLE`] is a sample. A *place* is then put into the queue, just before the woken task: a task that has no
//! stack, so that the loop comes upon it where it would start one, off the path of a switch. The time until then is the wait of the
//! woken task, and the resumptions until then are the length of the queue.
//!
//! A yield is queued without anybody counting. So at one in [`CHECKS_PER_SAMPLE`] looks at the clock, which come after each 64
//! resumptions, a task that has just yielded is the sample. The place is behind it then, and what is measured includes its next run.
//!
//! What goes by the queue is not measured: a task that somebody switches to explicitly.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::Location;

use super::{Hub, NeverRun, existing};
use crate::coro::Turn;
use crate::sys::clock::{self, Nanos};
use crate::task::{Kind, Origin, State, Task, TaskRef, Watched};

/// A prime, so that work which comes in batches is not always sampled at the same one of a batch.
const WAKES_PER_SAMPLE: u32 = 251;
/// With 64 resumptions per check, about as many yields per sample as wakes.
const CHECKS_PER_SAMPLE: u32 = 4;

#[derive(Debug, Default)]
pub(super) struct Sampler {
    /// The places in the queue, in their order: when each was queued, and how many resumptions there were then.
    places: RefCell<VecDeque<(Nanos, u64)>>,
    /// How long the queue was at the last sample.
    length: Cell<u64>,
    /// Looks at the clock until the next sample of a yield.
    checks: Cell<u32>,
    /// Wakes until the next sample, while each is recorded.
    unseen: Cell<u32>,
}

/// What a place in the queue is made of, and the task that stands for the loop in a recording.
pub(super) fn origin(id: u64) -> Origin {
    Origin {
        id,
        kind: Kind::Loop,
        name: None,
        spawned_at: Location::caller(),
        stack_size: 0,
        measured: false,
    }
}

/// What homes call for wakes that a hub wants to see.
pub(super) fn look_at_wake(watched: Watched<'_>) {
    let Some(hub) = existing() else { return };
    let now = clock::now();
    match watched {
        Watched::Woken(task) if hub.recorder.is_on() => {
            hub.record_wake(now, task.to_ref());
            hub.home.skip_wakes(0);
            let unseen = hub.sampler.unseen.get();
            hub.sampler.unseen.set(unseen.checked_sub(1).unwrap_or(WAKES_PER_SAMPLE - 1));
            if unseen == 0 {
                hub.sample(now);
            }
        }
        Watched::Woken(_) => {
            hub.home.skip_wakes(WAKES_PER_SAMPLE - 1);
            hub.sample(now);
        }
        Watched::Sent(task) if hub.recorder.is_on() => hub.record_wake(now, task.clone()),
        Watched::Sent(_) => {}
    }
}

impl Hub {
    /// Has the wait measured of what is queued next.
    fn sample(&self, now: Nanos) {
        self.sampler.places.borrow_mut().push_back((now, self.resumptions()));
        let place = TaskRef::new(self.home, origin(0), 0, NeverRun);
        if let Some(place) = self.local(&place) {
            place.local.state.set(State::Ready);
            self.home.ready().push_back(place);
        }
        // Kept for the queue, until the loop has come to it.
        place.into_counted();
    }

    /// The loop has just looked at the clock, before the next resumption.
    #[inline]
    pub(super) fn sample_yield(&self, now: Nanos) {
        let left = self.sampler.checks.get();
        if left > 0 {
            return self.sampler.checks.set(left - 1);
        }
        self.sampler.checks.set(CHECKS_PER_SAMPLE - 1);
        if self.current().local.state.get() == State::Ready {
            self.sample(if self.virtual_now.get().is_some() { clock::now() } else { now });
        }
    }

    /// The loop has come to a place in the queue.
    #[cold]
    pub(super) fn sample_arrived(&self, place: &Task) -> Turn {
        self.uncount_resumption();
        // Nobody runs.
        self.current.set(self.main_ptr);
        // SAFETY: given up to the queue by `sample`, which does not have it any more. Nothing of `place` is used after.
        drop(unsafe { TaskRef::from_counted(place.ptr()) });
        if let Some((since, resumptions)) = self.sampler.places.borrow_mut().pop_front() {
            self.home.meter.queue_time.add(clock::now().saturating_sub(since));
            self.sampler.length.set(self.resumptions().saturating_sub(resumptions));
        }
        Turn::Suspended(None)
    }

    /// Has the numbers in the home say what is now.
    pub(super) fn publish(&self) {
        let meter = &self.home.meter;
        let (in_use, pooled) = self.stack_counts();
        meter.switches.set(self.resumptions());
        meter.ready.set(if self.home.ready().is_empty() { 0 } else { self.sampler.length.get() });
        meter.timers.set(self.timers.borrow().kept() as u64);
        meter.live.set(self.live_count.get() as u64);
        meter.stacks_in_use.set(in_use as u64);
        meter.stacks_pooled.set(pooled as u64);
    }

    /// The same, exactly.
    pub(crate) fn publish_exactly(&self) {
        self.publish();
        let places = self.sampler.places.borrow().len();
        self.home.meter.ready.set((self.home.ready().count() - places) as u64);
    }
}
