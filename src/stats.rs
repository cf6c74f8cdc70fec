//! How hubs are doing: numbers that are always kept, and cheap enough to be.
//!
//! ```
//! use switchgrass::{joinall, spawn, stats, yield_now};
//!
//! let greenlets: Vec<_> = (0..10).map(|_| spawn(yield_now)).collect();
//! joinall(&greenlets);
//! let stats = stats::here();
//! assert!(stats.switches >= 20);
//! assert_eq!((stats.live, stats.ready), (0, 0));
//! println!("{stats}");
//! ```

#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use crate::hub::hub;
use crate::task::{BUCKETS, Home};

/// The numbers of one hub, at one time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// A number that no other hub of this process has or had. Hubs are numbered as they are made, from 1.
    pub hub: u64,
    /// The name (if any) and the id of the hub's thread.
    pub thread: String,
    /// How many times a greenlet (or coroutine, or the thread's own stack) was resumed.
    pub switches: u64,
    /// How many greenlets are ready to run, and wait until it is their turn.
    ///
    /// Of another thread's hub: as of the last sample, as in [`queue_time`](Stats::queue_time).
    pub ready: usize,
    /// How long those that became ready waited until it was their turn.
    ///
    /// Estimated from samples: about one in 2,000 is measured, and more of a hub that sleeps often.
    pub queue_time: Histogram,
    /// How many times the hub has asked the system for events.
    pub polls: u64,
    /// How many deadlines the hub keeps: of all sleeps and timeouts that are going on, and of those that ended early
    /// and whose time has not come yet.
    pub timers: usize,
    /// How many greenlets, coroutines and generators have not ended. The thread's own stack is not counted.
    pub live: usize,
    /// How many stacks are in use. A greenlet that has not run yet has none.
    pub stacks_in_use: usize,
    /// How many stacks are kept for the next greenlets.
    pub stacks_pooled: usize,
}

/// The numbers of this thread's hub, as they are now.
///
/// Takes time in proportion to the greenlets that are ready. Does not switch.
pub fn here() -> Stats {
    let hub = hub();
    hub.publish_exactly();
    read(hub.home, hub.incarnation)
}

/// The numbers of all hubs of this process, in the order in which they were made. From any thread; makes no hub.
///
/// For this thread's hub, they are as by [`here`]. A hub of another thread brings its numbers up to date in each turn
/// of its loop, which is every half millisecond at least and before it goes to sleep, unless a greenlet (or the
/// thread's own code) does not let it.
pub fn all() -> Vec<Stats> {
    if crate::hub::existing().is_some() {
        hub().publish_exactly();
    }
    // A hub may go meanwhile, with its thread, and leave its numbers to the next one.
    let read_one = |home: &'static Home| {
        let hub = home.incarnation();
        let stats = read(home, hub);
        (hub != 0 && home.incarnation() == hub).then_some(stats)
    };
    let mut all: Vec<Stats> = Home::all().into_iter().filter_map(read_one).collect();
    all.sort_by_key(|stats| stats.hub);
    all
}

fn read(home: &'static Home, hub: u64) -> Stats {
    let meter = &home.meter;
    Stats {
        hub,
        thread: home.thread_name(),
        switches: meter.switches.get(),
        ready: meter.ready.get() as usize,
        queue_time: Histogram {
            buckets: std::array::from_fn(|i| meter.queue_time.buckets[i].get()),
            sum: meter.queue_time.sum.get(),
            longest: meter.queue_time.longest.get(),
        },
        polls: meter.polls.get(),
        timers: meter.timers.get() as usize,
        live: meter.live.get() as usize,
        stacks_in_use: meter.stacks_in_use.get() as usize,
        stacks_pooled: meter.stacks_pooled.get() as usize,
    }
}

/// How durations are spread: how many there were between each power of two of nanoseconds and the next.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    buckets: [u64; BUCKETS],
    sum: u64,
    longest: u64,
}

impl Histogram {
    /// How many durations there were, by estimate.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The mean, or zero if there are none.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.sum.checked_div(self.count()).unwrap_or(0))
    }

    /// The longest of all.
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest)
    }

    /// What the part `q` of all (0.99: all but one in a hundred) does not exceed: at most twice as much as the least
    /// duration of which that is true. Zero if there are none.
    ///
    /// # Panics
    ///
    /// If `q` is not from 0 to 1.
    pub fn quantile(&self, q: f64) -> Duration {
        assert!((0.0..=1.0).contains(&q), "a quantile is from 0 to 1, and not {q}");
        let mut left = (q * self.count() as f64).ceil() as u64;
        for (range, count) in self.buckets() {
            if left <= count {
                return range.end.min(self.longest());
            }
            left -= count;
        }
        self.longest()
    }

    /// The counts, each with the durations that it is for, from short to long. Those at the end that are zero are left out.
    pub fn buckets(&self) -> impl Iterator<Item = (Range<Duration>, u64)> + '_ {
        let used = self.buckets.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
        (0..used).map(|i| {
            let end = if i == BUCKETS - 1 { u64::MAX } else { 1 << i };
            let start = if i == 0 { 0 } else { 1 << (i - 1) };
            (Duration::from_nanos(start)..Duration::from_nanos(end), self.buckets[i])
        })
    }

    /// What has come since `earlier`, which is of the same hub. The longest is that of all the time.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        Histogram {
            buckets: std::array::from_fn(|i| self.buckets[i].saturating_sub(earlier.buckets[i])),
            sum: self.sum.saturating_sub(earlier.sum),
            longest: self.longest,
        }
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.buckets().filter(|(_, count)| *count > 0)).finish()
    }
}

/// `mean 1.2µs, 99 % below 4.1µs, longest 20ms`.
impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mean, most, longest) = (self.mean(), self.quantile(0.99), self.longest());
        write!(f, "mean {mean:.1?}, 99 % below {most:.1?}, longest {longest:.1?}")
    }
}

/// Some lines for people.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "hub {} on thread {}", self.hub, self.thread)?;
        writeln!(f, "  switches {}, polls {}, timers {}", self.switches, self.polls, self.timers)?;
        writeln!(f, "  greenlets {} live, {} ready", self.live, self.ready)?;
        writeln!(f, "  stacks {} in use, {} pooled", self.stacks_in_use, self.stacks_pooled)?;
        write!(f, "  in the ready queue: {}", self.queue_time)
    }
}
