//! Whether it is worth while to take work away from another hub.
//!
//! A greenlet that is taken brings its control block along, some cache lines that another core has just written: a microsecond, or more. Its own hub would have started and
//! ended a dozen in that time, if they are that short. (1,000 empty greenlets at a time, spawned and joined: 85 ns each on one hub, 500 when another one took half of
//! them.) So a hub takes from those only that get on slowly: that spend two microseconds or more from one resumption to the next, or are stuck.

#![forbid(unsafe_code)]

use std::cell::Cell;

use crate::sys::clock::{self, Nanos};
use crate::task::Home;

/// Who spends so long from one resumption to the next gets on slowly.
const SLOW: Nanos = 2_000;
/// So long a look takes: shorter times tell little, since a spawn of many is one run.
const LOOK: Nanos = 20_000;
/// What was seen so long ago tells nothing: the other hub may have slept since.
const STALE: Nanos = 4_000_000;

/// What one hub has seen of another.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    at: Nanos,
    resumptions: u64,
    is_slow: bool,
}

/// What one hub has seen of the others.
#[derive(Debug)]
pub(super) struct Paces(Box<[Cell<Seen>]>);

impl Paces {
    pub(super) fn new(hubs: usize) -> Self {
        Paces((0..hubs).map(|_| Cell::default()).collect())
    }

    /// The first of these hubs that gets on slowly. Takes up to [`LOOK`], if it has not looked for long.
    pub(super) fn find_slow(
        &self,
        hubs: impl Iterator<Item = (usize, &'static Home)> + Clone,
    ) -> Option<usize> {
        let now = clock::now();
        let mut must_look = false;
        for (index, home) in hubs.clone() {
            let seen = &self.0[index];
            if now.saturating_sub(seen.get().at) >= STALE {
                seen.set(Seen { at: now, resumptions: home.resumptions(), is_slow: false });
                must_look = true;
            }
        }
        while must_look && clock::now() < now + LOOK {
            std::hint::spin_loop();
        }
        let now = clock::now();
        hubs.into_iter().find(|&(index, home)| is_slow(&self.0[index], now, home)).map(|(index, _)| index)
    }
}

fn is_slow(last: &Cell<Seen>, now: Nanos, home: &Home) -> bool {
    let seen = last.get();
    let passed = now.saturating_sub(seen.at);
    if passed < LOOK {
        return seen.is_slow;
    }
    let resumptions = home.resumptions();
    let is_slow = passed / SLOW >= resumptions.wrapping_sub(seen.resumptions);
    last.set(Seen { at: now, resumptions, is_slow });
    is_slow
}
