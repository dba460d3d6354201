//! Random numbers that are the same on every machine.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// splitmix64: small, fast, and good enough to choose faults with.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator that is a function of `seed`.
    pub fn new(seed: u64) -> Rng {
        Rng(seed ^ 0x5851_f42d_4c95_7f2d)
    }

    /// 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `end`; 0 if that is 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.bits() % end }
    }

    /// A number from `first` to `last`, both included.
    pub(crate) fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last.saturating_sub(first) + 1)
    }

    /// True `permille` times in a thousand.
    pub(crate) fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// One of `choices`, which are not none.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A generator that takes nothing from this one, another one for each number.
    pub(crate) fn aside(&self, number: u64) -> Rng {
        Rng(mix(self.0 ^ mix(number)))
    }

    /// A generator for somebody else.
    pub(crate) fn fork(&mut self) -> Rng {
        Rng(self.bits())
    }
}

/// splitmix64's finalizer: every bit of the input changes about half of the output's.
pub(crate) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A hash of bytes and of what came before them.
pub(crate) fn hash(state: u64, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, state)
}
