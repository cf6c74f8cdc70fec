//! What a hub tells of itself: numbers that its own thread writes and any thread may read.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::clock::Nanos;

/// The numbers of one hub. The hub brings them up to date once per turn of its loop.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    pub(crate) switches: Gauge,
    pub(crate) ready: Gauge,
    pub(crate) polls: Gauge,
    pub(crate) timers: Gauge,
    pub(crate) live: Gauge,
    pub(crate) stacks_in_use: Gauge,
    pub(crate) stacks_pooled: Gauge,
    pub(crate) queue_time: QueueTime,
}

/// A number with one writer, which so needs no locked instruction.
#[derive(Debug)]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Owner only, as all that follows.
    #[inline]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn add(&self, more: u64) {
        self.set(self.get() + more);
    }
}

impl Default for Gauge {
    fn default() -> Self {
        Gauge(AtomicU64::new(0))
    }
}

/// How many buckets a histogram of waits has. Bucket 0 is for no wait at all, bucket `i` for 2^(i-1) ns up to 2^i ns,
/// and the last for all that is longer (137 s and more).
pub(crate) const BUCKETS: usize = 39;

/// How long tasks were in the ready queue.
#[derive(Debug)]
pub(crate) struct QueueTime {
    pub(crate) buckets: [Gauge; BUCKETS],
    pub(crate) sum: Gauge,
    pub(crate) longest: Gauge,
}

impl Default for QueueTime {
    fn default() -> Self {
        QueueTime {
            buckets: std::array::from_fn(|_| Gauge::default()),
            sum: Gauge::default(),
            longest: Gauge::default(),
        }
    }
}

impl QueueTime {
    /// Counts a wait `weight` times.
    pub(crate) fn add(&self, wait: Nanos, weight: u64) {
        let bucket = (Nanos::BITS - wait.leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)].add(weight);
        self.sum.add(wait.saturating_mul(weight));
        if wait > self.longest.get() {
            self.longest.set(wait);
        }
    }
}

impl Meter {
    /// For the next hub that moves in.
    pub(super) fn reset(&self) {
        let plain = [
            &self.switches,
            &self.ready,
            &self.polls,
            &self.timers,
            &self.live,
            &self.stacks_in_use,
            &self.stacks_pooled,
        ];
        let times = [&self.queue_time.sum, &self.queue_time.longest];
        for gauge in plain.into_iter().chain(times).chain(&self.queue_time.buckets) {
            gauge.set(0);
        }
    }
}
