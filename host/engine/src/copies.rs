//! Limits how much a call may copy out of the store.

/// The limit on the keys and values that a call within a budget may copy, in bytes: about a tenth
/// of a millisecond's work, including what the guest and the reply do with them. A call that
/// needs more ends before the copy, and is run again without a budget.
const WITHIN_A_BUDGET: usize = 256 << 10;

/// The bytes that a call may still copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copies {
    left: usize,
    overrun: bool,
}

impl Copies {
    /// No limit, for a call with a deadline.
    pub(super) const ANY: Self = Self::of(usize::MAX);
    /// The limit for a call within a budget.
    pub(super) const FEW: Self = Self::of(WITHIN_A_BUDGET);

    const fn of(left: usize) -> Self {
        Self {
            left,
            overrun: false,
        }
    }

    /// Whether this many more bytes may be copied; if so, counts them.
    pub(super) fn may(&mut self, bytes: usize) -> bool {
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => self.overrun = true,
        }
        !self.overrun
    }
}
