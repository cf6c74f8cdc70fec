//! Which hubs of a team sleep, and who is woken when there is work for them.
//!
//! Work is put into queues that all hubs look into (see `team.rs`). A hub is *awake*, or *searches*, or is *asleep*:
//!
//! ```text
//!           finds no work of its own,            finds nothing
//!           but sees some elsewhere         ┌───────────────────┐
//!   awake ──────────────────────────▶ searches                  ▼
//!     ▲ ◀───────────────────────────        ▲     awake, then asleep
//!     │        finds work, or none          │          │
//!     │                                     └──────────┘
//!     └──────────────────────────────────  is chosen, and sent a message
//!        an event, a timer, a message
//! ```
//!
//! The rules:
//!
//! 1. Who has put work into a queue looks at the counts. If somebody sleeps and nobody searches, it *chooses* one who sleeps, who
//!    searches from then on, and wakes it. So while all are awake this costs no system call, and one who searches is enough to look after all that comes.
//! 2. Who ends its search as the last one that searched looks at the queues again; if there is work, it chooses the next.
//! 3. Who falls asleep is counted first, and then looks at the queues again.
//!
//! No wake is lost. Each of the three changes or reads the counts after, and the queues before, or the other way round, with a
//! sequentially consistent fence in between:
//!
//! ```text
//!   who has work        the last one that searches     who falls asleep
//!   1. push             1. searching -= 1              1. sleeping += 1
//!   2. fence            2. fence                       2. fence
//!   3. read the counts  3. look at the queues          3. look at the queues
//! ```
//!
//! Of two fences one comes first. If it is that of who has work, the other one sees the work. If not, who has work sees the count as it is then: it chooses
//! one that sleeps, or there is still one that searches, to which the same applies.
//!
//! Who searches may take more than it can start, and puts that into its own queue without rule 1. If it is not the last
//! one that searched, the one that ends its search after it is to see what is there: it acquires by `searching -= 1` what
//! the others released by theirs. The fences do not bring that about: its own may come before theirs.
//!
//! `tests/protocols` checks this with loom.

#![forbid(unsafe_code)]

use crate::sys::lock::Lock;
use crate::sys::sync::{AtomicU64, Ordering, fence};

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Idle {
    /// How many sleep, and how many search.
    counts: AtomicU64,
    /// Those that sleep and are not chosen.
    asleep: Lock<Vec<usize>>,
}

const SLEEPER: u64 = 1;
const SEARCHER: u64 = 1 << 32;

/// Whether somebody should be woken for work: one sleeps, and none searches.
fn wants_a_searcher(counts: u64) -> bool {
    (1..SEARCHER).contains(&counts)
}

impl Idle {
    pub(crate) const fn new() -> Self {
        Idle { counts: AtomicU64::new(0), asleep: Lock::new(Vec::new()) }
    }

    /// To be called after work was put into a queue: who is to be woken for it. That one [searches](Idle::end_search) from now on.
    #[inline]
    pub(crate) fn choose(&self) -> Option<usize> {
        fence(Ordering::SeqCst);
        if wants_a_searcher(self.counts.load(Ordering::Relaxed)) { self.choose_one() } else { None }
    }

    #[cold]
    fn choose_one(&self) -> Option<usize> {
        let mut asleep = self.asleep.lock();
        // Another one may have done so just now.
        if !wants_a_searcher(self.counts.load(Ordering::Relaxed)) {
            return None;
        }
        let chosen = asleep.pop();
        if chosen.is_some() {
            self.counts.fetch_add(SEARCHER - SLEEPER, Ordering::Relaxed);
        }
        chosen
    }

    /// From now on the caller searches. (Who was chosen does already.)
    pub(crate) fn begin_search(&self) {
        self.counts.fetch_add(SEARCHER, Ordering::Relaxed);
    }

    /// The caller searches no longer. `true`: nobody does now. Then it has to look at the queues again, and if there is work, to [choose](Idle::choose).
    #[must_use]
    pub(crate) fn end_search(&self) -> bool {
        let is_last = self.counts.fetch_sub(SEARCHER, Ordering::AcqRel) < 2 * SEARCHER;
        fence(Ordering::SeqCst);
        is_last
    }

    /// The caller is about to sleep. Then it has to look at the queues again, and if there is work, to [wake up](Idle::wake_up).
    pub(crate) fn fall_asleep(&self, who: usize) {
        let mut asleep = self.asleep.lock();
        asleep.push(who);
        self.counts.fetch_add(SLEEPER, Ordering::Relaxed);
        drop(asleep);
        fence(Ordering::SeqCst);
    }

    /// The caller does not sleep any more. `true`: it was chosen, so it searches.
    #[must_use]
    pub(crate) fn wake_up(&self, who: usize) -> bool {
        let mut asleep = self.asleep.lock();
        match asleep.iter().rposition(|&other| other == who) {
            Some(at) => {
                asleep.swap_remove(at);
                self.counts.fetch_sub(SLEEPER, Ordering::Relaxed);
                false
            }
            None => true,
        }
    }
}
