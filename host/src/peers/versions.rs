//! The protocol versions that a side speaks.

use std::fmt;

/// The range of protocol versions that a side speaks, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The lowest version spoken.
    pub lowest: u16,
    /// The highest version spoken.
    pub highest: u16,
}

impl Versions {
    /// The versions that this code speaks.
    pub const SPOKEN: Self = Self {
        lowest: 1,
        highest: 1,
    };

    /// The highest version that both ranges hold, if there is one.
    pub fn common(self, other: Self) -> Option<u16> {
        let highest = self.highest.min(other.highest);
        (highest >= self.lowest.max(other.lowest)).then_some(highest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} to {}", self.lowest, self.highest)
    }
}
