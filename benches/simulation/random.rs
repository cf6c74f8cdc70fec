//! Numbers that are the same for the same seed.

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// More than 0, at most 1.
    fn share(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Exponential, with that mean: times between events that know nothing of each other.
    pub(crate) fn exponential(&mut self, mean: f64) -> u64 {
        (-self.share().ln() * mean) as u64
    }

    /// From half to one and a half times as much, each equally often: so that nothing happens in step.
    pub(crate) fn about(&mut self, value: u64) -> u64 {
        value / 2 + (self.share() * value as f64) as u64
    }
}
