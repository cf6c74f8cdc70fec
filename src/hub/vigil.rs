//! How much of its time a hub may spend on putting a sleep off.

#![forbid(unsafe_code)]

use crate::sys::clock::Nanos;

/// To sleep and to be woken, about: what is saved when something comes before the hub sleeps.
const SLEEP_COSTS: Nanos = 40_000;
/// So much is remembered of what has been saved.
const MOST_SAVED: Nanos = 10_000_000;
/// What is in vain is first paid from that. For the rest there is a pause, so many times as long.
const PAUSE: Nanos = 100;

/// A budget. At first there is none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Vigil {
    saved: Nanos,
    not_before: Nanos,
}

impl Vigil {
    pub(super) fn is_due(self, now: Nanos) -> bool {
        self.not_before <= now
    }

    pub(super) fn has_saved_a_sleep(&mut self) {
        self.saved = (self.saved + SLEEP_COSTS).min(MOST_SAVED);
    }

    pub(super) fn was_in_vain(&mut self, now: Nanos, took: Nanos) {
        let paid = took.min(self.saved);
        self.saved -= paid;
        self.not_before = now + PAUSE * (took - paid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    /// One that tries whenever it may for 100 seconds, each time for `took`: how long it has tried in vain.
    fn in_vain(vigil: &mut Vigil, took: Nanos) -> Nanos {
        let (mut now, mut sum) = (1000 * SECOND, 0);
        while now < 1100 * SECOND {
            assert!(vigil.is_due(now));
            now += took;
            sum += took;
            vigil.was_in_vain(now, took);
            now = now.max(vigil.not_before);
        }
        sum
    }

    #[test]
    fn what_is_in_vain_is_a_hundredth_of_the_time() {
        for took in [1_000, 40_000, 3_000_000] {
            let sum = in_vain(&mut Vigil::default(), took);
            assert!((SECOND * 98 / 100..=SECOND + took).contains(&sum), "{sum} ns, {took} each");
        }
    }

    #[test]
    fn what_saves_as_much_as_it_costs_never_ceases() {
        let (mut vigil, mut now) = (Vigil::default(), 1000 * SECOND);
        for n in 0..100_000 {
            assert!(vigil.is_due(now), "after {n}");
            now += SLEEP_COSTS;
            if n % 2 == 0 { vigil.has_saved_a_sleep() } else { vigil.was_in_vain(now, SLEEP_COSTS) }
        }
    }

    #[test]
    fn however_much_was_saved_not_much_more_may_be_in_vain() {
        let mut vigil = Vigil::default();
        for _ in 0..1_000_000 {
            vigil.has_saved_a_sleep();
        }
        let sum = in_vain(&mut vigil, 40_000);
        assert!(sum <= SECOND + MOST_SAVED + 40_000, "{sum} ns");
    }
}
