//! Random decisions that depend only on the seed and the subject of the decision.

/// A random number for a subject. Tasks that decide at the same time do not take each other's
/// numbers, as they would from one sequence.
pub(super) fn of(seed: u64, about: &[u64]) -> u64 {
    about
        .iter()
        .fold(mix(seed), |mixed, part| mix(mixed ^ mix(*part)))
}

/// `SplitMix64`, by Steele, Lea and Flood (2014).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}
