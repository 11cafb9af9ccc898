//! How much a call may copy out of the store.

/// What a call within a budget may copy of keys and values, in bytes: about a tenth of
/// a millisecond's work, with what the guest and the reply make of it. A call that asks
/// for more is ended before that is copied, and made anew where it has the time.
const WITHIN_A_BUDGET: usize = 256 << 10;

/// What is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copies {
    left: usize,
    overrun: bool,
}

impl Copies {
    /// As much as it likes, within its deadline.
    pub(super) const ANY: Self = Self::of(usize::MAX);
    /// As much as takes little time.
    pub(super) const FEW: Self = Self::of(WITHIN_A_BUDGET);

    const fn of(left: usize) -> Self {
        Self {
            left,
            overrun: false,
        }
    }

    /// Whether so many bytes more may be copied; they count then.
    pub(super) fn may(&mut self, bytes: usize) -> bool {
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => self.overrun = true,
        }
        !self.overrun
    }
}
