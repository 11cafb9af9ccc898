//! The checks of values against their bounds.

use std::time::Duration;

use super::MIB;
use super::error::{Error, Value};

pub(super) const MINUTE: Duration = Duration::from_mins(1);
pub(super) const HOUR: Duration = Duration::from_hours(1);

pub(super) fn count(name: &'static str, value: u64, least: u64, most: u64) -> Result<(), Error> {
    within(
        name,
        Value::Count(value),
        Value::Count(least),
        Value::Count(most),
    )
}

pub(super) fn bytes(
    name: &'static str,
    value: usize,
    least: usize,
    most: usize,
) -> Result<(), Error> {
    within(
        name,
        Value::Size(value),
        Value::Size(least),
        Value::Size(most),
    )
}

pub(super) fn time(name: &'static str, value: Duration, most: Duration) -> Result<(), Error> {
    within(
        name,
        Value::Time(value),
        Value::Time(Duration::from_millis(1)),
        Value::Time(most),
    )
}

fn within(name: &'static str, value: Value, least: Value, most: Value) -> Result<(), Error> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(Error::OutOfRange {
            name,
            value,
            least,
            most,
        })
    }
}

pub(super) type Named = (&'static str, Value);

/// A partition moves in one message: a partition of this size fits into one, however small its
/// entries are.
pub(super) const MOVABLE: Named = (
    "the limit for moving to another shard",
    Value::Size(16 * MIB),
);

pub(super) fn at_most((name, value): Named, (other, bound): Named) -> Result<(), Error> {
    if value <= bound {
        Ok(())
    } else {
        Err(Error::Conflict {
            name,
            value,
            other,
            bound,
        })
    }
}
