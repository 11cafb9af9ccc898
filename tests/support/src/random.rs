//! Random numbers for tests, from a seed that a failing test prints.

use std::time::{SystemTime, UNIX_EPOCH};

/// A generator of numbers: `SplitMix64`, by Steele, Lea and Flood (2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 up to, but not including, `end`, which is above 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// The seed given by `OSTRAKON_TEST_SEED`, otherwise a new one.
///
/// # Panics
/// When the variable is not a number.
pub fn seed() -> u64 {
    match std::env::var("OSTRAKON_TEST_SEED") {
        Ok(seed) => seed.parse().expect("OSTRAKON_TEST_SEED is a number"),
        Err(_) => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs() ^ u64::from(now.subsec_nanos()) << 32),
    }
}
