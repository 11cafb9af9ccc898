//! Which shard owns a partition: strategies for [`Guest::owner`](crate::Guest::owner).
//!
//! | strategy | keys that move from n to n + 1 shards | balance | cost |
//! | --- | --- | --- | --- |
//! | [`modulo`] | nearly all | as even as first characters are | constant |
//! | [`jump`] | 1 of n + 1, the least possible | even | logarithmic |
//! | [`rendezvous`] | 1 of n + 1, the least possible | even | linear |
//!
//! All give the same result on every machine and in every version of this crate, because they determine where data is.

/// The first character's code point modulo the number of shards, as in the course's client with `ord`.
///
/// If a key does not begin with a UTF-8 character, its first byte counts. An empty key belongs to shard 0.
///
/// # Panics
/// Where `shards` is 0.
pub fn modulo(partition: &[u8], shards: u32) -> u32 {
    let first = partition
        .utf8_chunks()
        .next()
        .and_then(|chunk| chunk.valid().chars().next());
    let number = first.map_or_else(
        || partition.first().copied().map_or(0, u32::from),
        u32::from,
    );
    number % shards
}

/// Jump consistent hash of the whole key.
///
/// John Lamping, Eric Veach: "A Fast, Minimal Memory, Consistent Hash Algorithm", 2014, arXiv:1406.2294.
///
/// # Panics
/// Where `shards` is 0.
pub fn jump(partition: &[u8], shards: u32) -> u32 {
    jump_bucket(hash(partition), shards)
}

/// The shard with the highest random weight for the key.
///
/// David G. Thaler, Chinya V. Ravishankar: "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM Transactions
/// on Networking 6(1), 1998.
///
/// # Panics
/// Where `shards` is 0.
pub fn rendezvous(partition: &[u8], shards: u32) -> u32 {
    let key = hash(partition);
    (0..shards)
        .max_by_key(|&shard| mix(key ^ mix(u64::from(shard))))
        .expect("there is at least one shard")
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "buckets are below 2^32 and the quotient's parts at most 2^31: all are exact in an f64"
)]
fn jump_bucket(mut key: u64, buckets: u32) -> u32 {
    assert!(buckets > 0, "there is at least one shard");
    let mut bucket = 0;
    let mut next = 0;
    while next < u64::from(buckets) {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((bucket + 1) as f64 * ((1_u64 << 31) as f64 / ((key >> 33) + 1) as f64)) as u64;
    }
    bucket as u32
}

/// FNV-1a of 64 bits (Fowler, Noll, Vo), mixed, because its high bits alone vary too little for short keys.
fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    mix(fnv)
}

/// The finalizer of `SplitMix64` (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Strategy = fn(&[u8], u32) -> u32;

    const KEYS: u32 = 20_000;

    fn keys() -> impl Iterator<Item = Vec<u8>> {
        (0..KEYS).map(|number| format!("user/{number}").into_bytes())
    }

    /// How far the fullest and the emptiest shard are from the mean, in percent of it.
    fn imbalance(strategy: Strategy, shards: u32) -> u32 {
        let mut counts = vec![0_u32; shards as usize];
        keys().for_each(|key| counts[strategy(&key, shards) as usize] += 1);
        let mean = KEYS / shards;
        counts
            .iter()
            .map(|count| count.abs_diff(mean) * 100 / mean)
            .max()
            .unwrap()
    }

    /// How many keys change their owner, and how many of those move to a shard that existed before.
    fn moved(strategy: Strategy, from: u32, to: u32) -> (u32, u32) {
        keys().fold((0, 0), |(moved, astray), key| {
            match (strategy(&key, from), strategy(&key, to)) {
                (before, after) if before == after => (moved, astray),
                (before, after) => (moved + 1, astray + u32::from(after < from && before < to)),
            }
        })
    }

    #[test]
    fn modulo_places_letters_as_the_course_does() {
        let letters: Vec<u32> = ('a'..='f')
            .map(|letter| modulo(letter.to_string().as_bytes(), 3))
            .collect();
        assert_eq!(letters, [1, 2, 0, 1, 2, 0]);
        assert_eq!(modulo("éa".as_bytes(), 100), 0xe9 % 100);
        assert_eq!(modulo("日".as_bytes(), 1000), 0x65e5 % 1000);
        assert_eq!(modulo(b"\xff\x01", 16), 15);
        assert_eq!(modulo(b"", 3), 0);
    }

    #[test]
    fn jump_agrees_with_the_published_algorithm() {
        let known = [
            (10_863_919_174_838_991, 11, 6),
            (2_016_238_256_797_177_309, 11, 3),
            (1_673_758_223_894_951_030, 11, 5),
            (2, 100_001, 80_343),
            (2201, 100_001, 22_152),
            (2202, 100_001, 15_018),
        ];
        for (key, buckets, bucket) in known {
            assert_eq!(jump_bucket(key, buckets), bucket, "{key}");
        }
    }

    #[test]
    fn owners_stay_the_same_for_ever() {
        let owners = |strategy: Strategy| {
            ["", "a", "b", "user/17", "日本"].map(|key| strategy(key.as_bytes(), 1000))
        };
        assert_eq!(owners(jump), [994, 835, 383, 500, 231]);
        assert_eq!(owners(rendezvous), [87, 279, 860, 679, 337]);
    }

    #[test]
    fn hashing_strategies_are_balanced() {
        for shards in [2, 3, 7, 16] {
            assert!(
                imbalance(jump, shards) <= 8,
                "jump, {shards}: {} %",
                imbalance(jump, shards)
            );
            assert!(
                imbalance(rendezvous, shards) <= 8,
                "rendezvous, {shards}: {} %",
                imbalance(rendezvous, shards)
            );
        }
    }

    #[test]
    fn hashing_strategies_move_no_more_keys_than_they_must() {
        for strategy in [jump as Strategy, rendezvous] {
            for (from, to) in [(1, 2), (2, 3), (3, 4), (9, 10), (10, 9), (4, 3), (3, 5)] {
                let (moved, astray) = moved(strategy, from, to);
                let least = KEYS * from.abs_diff(to) / from.max(to);
                assert!(
                    moved.abs_diff(least) <= least / 10,
                    "{from} to {to}: {moved} moved, {least} must"
                );
                assert_eq!(
                    astray, 0,
                    "{from} to {to}: keys moved between shards that stay"
                );
            }
        }
    }

    #[test]
    fn one_shard_owns_all() {
        for strategy in [modulo as Strategy, jump, rendezvous] {
            assert!(keys().all(|key| strategy(&key, 1) == 0));
        }
    }
}
