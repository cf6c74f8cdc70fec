//! What a hub knows of itself, measured at (almost) no cost.
//!
//! How many resumptions there were is told by the countdown that leads to the next look at the clock. How long tasks are in the ready
//! queue, and how many there are, is sampled: reading a clock takes several times as long as a switch.
//!
//! One wake in [`WAKES_PER_SAMPLE`] is a sample. The hub then puts its own *place* into the queue, just before the woken
//! task: a task that has no stack, so that the loop comes upon it where it would start one, off the path of a switch. The time until
//! then is the wait of the woken task, but for nothing. The resumptions until then are the length of the queue.
//!
//! A yield is queued without anybody counting. So at one in [`CHECKS_PER_SAMPLE`] looks at the clock, which come after each 64
//! resumptions, a task that has just yielded is the sample. The place is put behind it then, and what is measured includes its next run.
//!
//! There is one place. A sample that comes while it is queued counts as another one of the same length; or long waits, during which many
//! samples come, would be counted too rarely.
//!
//! What goes by the queue is not measured: a task that somebody switches to explicitly.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::panic::Location;

use super::{Hub, existing, new_ids};
use crate::coro::Turn;
use crate::sys::clock::{self, Nanos};
use crate::task::{Kind, Origin, State, Task, Watched};

/// A prime, so that work which comes in batches is not always sampled at the same one of a batch.
const WAKES_PER_SAMPLE: u32 = 251;
/// With 64 resumptions per check, about as many yields per sample as wakes.
const CHECKS_PER_SAMPLE: u32 = 4;

#[derive(Debug, Default)]
pub(super) struct Sampler {
    /// When the place was queued, if it is.
    since: Cell<Option<Nanos>>,
    /// How many resumptions there were then.
    resumptions: Cell<u64>,
    /// How many samples it stands for.
    weight: Cell<u64>,
    /// How long the queue was at the last sample.
    length: Cell<u64>,
    /// Looks at the clock until the next sample of a yield.
    checks: Cell<u32>,
}

/// What the loop's place in the queue is made of.
pub(super) fn origin() -> Origin {
    Origin {
        id: new_ids(1).start,
        kind: Kind::Loop,
        name: None,
        spawned_at: Location::caller(),
        stack_size: 0,
        measured: false,
    }
}

/// What homes call for wakes that a hub wants to see.
pub(super) fn look_at_wake(watched: Watched<'_>) {
    let (Some(hub), Watched::Woken(_)) = (existing(), watched) else { return };
    hub.home.skip_wakes(WAKES_PER_SAMPLE - 1);
    hub.sample(clock::now());
}

impl Hub {
    /// Has the wait measured of what is queued next.
    fn sample(&self, now: Nanos) {
        let sampler = &self.sampler;
        sampler.weight.set(sampler.weight.get() + 1);
        if sampler.since.get().is_some() {
            return;
        }
        sampler.since.set(Some(now));
        sampler.resumptions.set(self.resumptions());
        if let Some(place) = self.local(&self.place) {
            place.local.state.set(State::Ready);
            self.home.ready().push_back(place);
        }
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

    /// The loop has come to its place in the queue.
    #[cold]
    pub(super) fn sample_arrived(&self, place: &Task) -> Turn {
        self.uncount_resumption();
        // Nobody runs.
        place.local.state.set(State::Unstarted);
        self.current.set(self.main_ptr);
        let sampler = &self.sampler;
        if let Some(since) = sampler.since.take() {
            let wait = clock::now().saturating_sub(since);
            self.home.meter.queue_time.add(wait, sampler.weight.take());
            sampler.length.set(self.resumptions().saturating_sub(sampler.resumptions.get()));
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
        let place = usize::from(self.sampler.since.get().is_some());
        self.home.meter.ready.set((self.home.ready().count() - place) as u64);
    }
}
