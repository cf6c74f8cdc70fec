//! How much of its time a hub may spend on putting a sleep off.

#![forbid(unsafe_code)]

use std::time::Duration;

use crate::sys::clock::Nanos;

/// To sleep and to be woken, about: what is saved when something comes before the hub sleeps.
pub(super) const SLEEP_COSTS: Duration = Duration::from_micros(40);
/// What is in vain is at most a hundredth of the time, beyond what has been saved …
const SHARE: u64 = 100;
/// … in as long as this.
const MEMORY: Nanos = 1_000_000_000;

/// A budget, kept as the time at which it is balanced: in the future while there is a debt, the farther in the past the more
/// may be in vain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Vigil {
    balanced: Nanos,
}

impl Vigil {
    pub(super) fn is_due(self, now: Nanos) -> bool {
        self.balanced <= now
    }

    pub(super) fn has_saved_a_sleep(&mut self, now: Nanos) {
        self.balanced = self.balanced.saturating_sub(SHARE * SLEEP_COSTS.as_nanos() as Nanos);
        self.forget(now);
    }

    pub(super) fn was_in_vain(&mut self, now: Nanos, took: Nanos) {
        self.forget(now);
        self.balanced += SHARE * took;
    }

    fn forget(&mut self, now: Nanos) {
        self.balanced = self.balanced.max(now.saturating_sub(MEMORY));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    /// One that tries whenever it may, each time for `took`, from `start` until `end`: how long it has tried in vain.
    fn in_vain(vigil: &mut Vigil, start: Nanos, end: Nanos, took: Nanos) -> Nanos {
        let (mut now, mut sum) = (start, 0);
        while now < end {
            if vigil.is_due(now) {
                now += took;
                sum += took;
                vigil.was_in_vain(now, took);
            } else {
                now = vigil.balanced;
            }
        }
        sum
    }

    #[test]
    fn what_is_in_vain_is_a_small_part_of_the_time() {
        for took in [1_000, 40_000, 3_000_000] {
            // A second's worth is remembered at the beginning, and the last try may be too long.
            let most = (100 * SECOND + MEMORY) / SHARE + took;
            let sum = in_vain(&mut Vigil::default(), 1000 * SECOND, 1100 * SECOND, took);
            assert!(sum <= most && sum > most / 2, "{sum} of {most} ns, {took} each");
        }
    }

    #[test]
    fn what_mostly_saves_a_sleep_never_ceases() {
        let (mut vigil, mut now) = (Vigil::default(), 1000 * SECOND);
        for n in 0..100_000 {
            assert!(vigil.is_due(now), "after {n}");
            now += 40_000;
            if n % 3 == 0 { vigil.was_in_vain(now, 40_000) } else { vigil.has_saved_a_sleep(now) }
        }
    }

    #[test]
    fn savings_of_long_ago_do_not_count() {
        let (mut vigil, now) = (Vigil::default(), 1000 * SECOND);
        for _ in 0..1_000_000 {
            vigil.has_saved_a_sleep(now);
        }
        let sum = in_vain(&mut vigil, now, now + SECOND, 40_000);
        assert!(sum <= (SECOND + MEMORY) / SHARE + 40_000, "{sum} ns");
    }
}
