//! How long a call may take.

use std::time::Duration;

use super::copies::Copies;

/// How long a call may take, and what it means that it takes longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Whoever calls runs it again, with more time: it has not failed.
    Budget(Duration),
    /// It has failed.
    Deadline(Duration),
}

impl Bound {
    /// The time.
    pub(super) fn time(self) -> Duration {
        match self {
            Self::Budget(time) | Self::Deadline(time) => time,
        }
    }

    /// What it may copy.
    pub(super) fn copies(self) -> Copies {
        match self {
            Self::Budget(_) => Copies::FEW,
            Self::Deadline(_) => Copies::ANY,
        }
    }
}
