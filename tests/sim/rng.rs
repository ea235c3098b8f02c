//! A small seeded random generator: the same seed gives the same world on every
//! machine, which no library promises across its versions.

use std::time::Duration;

/// SplitMix64.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6a09_e667_f3bc_c909)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.below(among.len() as u64) as usize]
    }

    /// One of these numbers of milliseconds.
    pub fn ms(&mut self, among: &[u64]) -> Duration {
        Duration::from_millis(self.pick(among))
    }

    /// A few round lengths of time, so that a deadline and an event often fall
    /// on the same moment.
    pub fn moment(&mut self) -> Duration {
        self.ms(&[0, 50, 50, 100, 100, 250, 300, 500, 500, 700, 1000, 1000, 2000, 3000, 5000, 10_000])
    }
}
