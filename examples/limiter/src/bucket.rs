//! A token bucket, as a function of its class and the time. All amounts are whole numbers.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// A token in the unit of [`Bucket::amount`]: a nanosecond times a billionth of a token per second. In this unit no
/// refill is ever rounded, whatever the rate.
const TOKEN: u128 = NANO * NANO;
const NANO: u128 = 1_000_000_000;

/// The most tokens of a bucket.
const MOST: u64 = 1_000_000;
/// The tokens of a second: at least one in 12 days.
const RATES: RangeInclusive<f64> = 0.000_001..=1_000_000.0;

/// A class of buckets, as `rates.json` has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Class {
    /// In tokens.
    pub(crate) capacity: u64,
    pub(crate) refill_per_second: f64,
}

/// A bucket at a time.
#[derive(Serialize, Deserialize)]
pub(crate) struct Bucket {
    amount: u128,
    /// In nanoseconds since 1970.
    pub(crate) at: u128,
    /// Of the class at that time, in tokens.
    capacity: u64,
}

impl Bucket {
    /// Takes so many tokens. If there are not as many, it takes none and returns the amount that is missing.
    pub(crate) fn take(&mut self, tokens: u64) -> Result<(), u128> {
        let wanted = u128::from(tokens) * TOKEN;
        match self.amount.checked_sub(wanted) {
            Some(left) => self.amount = left,
            None => return Err(wanted - self.amount),
        }
        Ok(())
    }

    /// The whole tokens in it.
    pub(crate) fn tokens(&self) -> u128 {
        self.amount / TOKEN
    }
}

impl Class {
    /// A bucket as it is now; one that is not stored is full. After a change of the capacity, a bucket that was half full
    /// is still half full.
    pub(crate) fn filled(&self, stored: Option<Bucket>, now: u128) -> Bucket {
        let amount = stored.map_or_else(
            || self.full(),
            |before| {
                let kept =
                    before.amount * u128::from(self.capacity) / u128::from(before.capacity.max(1));
                // Nothing flows in while time stands still, or after the clock was set back.
                let elapsed = now.saturating_sub(before.at);
                self.full().min(kept + elapsed * self.flow())
            },
        );
        Bucket {
            amount,
            at: now,
            capacity: self.capacity,
        }
    }

    /// The seconds, rounded up, in which an amount flows in.
    pub(crate) fn seconds_for(&self, amount: u128) -> u128 {
        amount.div_ceil(self.flow() * NANO)
    }

    /// The seconds, rounded up, until a bucket is full, or an empty one.
    pub(crate) fn seconds_to_fill(&self, bucket: Option<&Bucket>) -> u128 {
        self.seconds_for(self.full() - bucket.map_or(0, |bucket| bucket.amount))
    }

    fn full(&self) -> u128 {
        u128::from(self.capacity) * TOKEN
    }

    /// What flows in per nanosecond.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the rate is checked, and rounded to a billionth"
    )]
    fn flow(&self) -> u128 {
        (self.refill_per_second * 1e9).round() as u128
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let (capacity, rate) = (self.capacity, self.refill_per_second);
        if !(1..=MOST).contains(&capacity) {
            return Err(format!("`capacity` is {capacity}: give 1 to {MOST} tokens"));
        }
        if !RATES.contains(&rate) {
            let (least, most) = (RATES.start(), RATES.end());
            return Err(format!(
                "`refill_per_second` is {rate}: give {least} to {most} tokens"
            ));
        }
        Ok(())
    }
}
