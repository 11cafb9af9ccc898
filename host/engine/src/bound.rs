//! How long a call may take.

use std::time::Duration;

use super::copies::Copies;

/// How long a call may take, and the consequence if it takes longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The caller runs the call again with more time; the call has not failed.
    Budget(Duration),
    /// The call has failed.
    Deadline(Duration),
}

impl Bound {
    pub(super) fn time(self) -> Duration {
        match self {
            Self::Budget(time) | Self::Deadline(time) => time,
        }
    }

    /// How much the call may copy.
    pub(super) fn copies(self) -> Copies {
        match self {
            Self::Budget(_) => Copies::FEW,
            Self::Deadline(_) => Copies::ANY,
        }
    }
}
