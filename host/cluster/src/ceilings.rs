//! Ceilings on the numbers of processes.
//!
//! Each start of a shard takes a number one above its last, or above the one that a peer
//! reports. A peer that could name any number could name the highest there is, after which no
//! process could be accepted. So a number is believed only up to a ceiling, which is raised by
//! one step at most once a second while a higher number is reported: exhausting all numbers
//! takes 35,000 years. A number that is true but higher is believed after a few seconds, one
//! for each step.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use ostrakon_protocol::{Incarnation, Ordinal};
use tokio::time::Instant;

/// More starts than a shard has between two that a peer hears of: one every 10 s for five
/// years.
const STEP: u64 = 1 << 24;
/// The least time between two raises of a ceiling.
const EVERY: Duration = Duration::from_secs(1);

/// The ceilings of all shards' numbers. A std mutex, because it is held only briefly.
#[derive(Debug, Default)]
pub(super) struct Ceilings(Mutex<BTreeMap<Ordinal, Ceiling>>);

#[derive(Debug)]
struct Ceiling {
    height: u64,
    raised: Instant,
}

impl Ceilings {
    /// Whether a process of a shard can have the number `said`, where `known` is the shard's
    /// highest known number.
    pub(super) fn admit(&self, shard: Ordinal, known: Incarnation, said: Incarnation) -> bool {
        let now = Instant::now();
        let mut ceilings = self.0.lock().expect("no holder of this lock panics");
        let ceiling = ceilings.entry(shard).or_insert_with(|| Ceiling {
            height: known.0.saturating_add(STEP),
            raised: now,
        });
        if said.0 > ceiling.height && now.duration_since(ceiling.raised) >= EVERY {
            ceiling.height = ceiling.height.saturating_add(STEP);
            ceiling.raised = now;
        }
        said.0 <= ceiling.height
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: Ordinal = Ordinal(1);

    #[tokio::test(start_paused = true)]
    async fn a_number_that_no_shard_comes_to_is_never_believed_and_one_ahead_soon() {
        let ceilings = Ceilings::default();
        let known = Incarnation(7);
        assert!(ceilings.admit(SHARD, known, Incarnation(8)));
        assert!(ceilings.admit(SHARD, known, Incarnation(7 + STEP)));
        let ahead = Incarnation(7 + 3 * STEP);
        for said in [ahead, Incarnation(u64::MAX)] {
            assert!(!ceilings.admit(SHARD, known, said));
        }
        for _ in 0..2 {
            tokio::time::advance(EVERY).await;
            // Repeating a number does not raise the ceiling faster.
            for _ in 0..1000 {
                assert!(!ceilings.admit(SHARD, known, Incarnation(u64::MAX)));
            }
        }
        assert!(ceilings.admit(SHARD, known, ahead), "after two seconds");
        // Each shard has its own ceiling.
        assert!(!ceilings.admit(Ordinal(2), known, ahead));
    }
}
