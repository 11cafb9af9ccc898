//! Checks whether a register's history is linearizable: whether its operations could have happened
//! one after another, each at an instant between its call and its return.
//!
//! The search is Wing and Gong's (*Testing and Verifying Concurrent Objects*, 1993): take any
//! operation that no other one precedes, check whether it could come next, and continue with the
//! rest. As in Lowe's (*Testing for Linearizability*, 2016), no configuration is entered twice. A
//! configuration is the set of operations taken and the value after them.

use std::collections::HashSet;

/// An operation on a register that has a value or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A read, and the value that it saw.
    Read(Option<u64>),
    /// A write, and whether the response said that there was a value before.
    Write(u64, bool),
    /// A deletion, and whether there was a value before.
    Delete(bool),
}

/// The value of `returned` for an operation without a response. It may take effect at any time
/// after its call, or never, and what it reports about the value before is meaningless.
pub const UNKNOWN: u64 = u64::MAX;

/// An operation as its client saw it, by one clock for all clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The time before it was sent.
    pub called: u64,
    /// The time after its response arrived, or [`UNKNOWN`].
    pub returned: u64,
    pub action: Action,
}

impl Action {
    /// The value after the action, if the action is possible with this value.
    #[expect(
        clippy::option_option,
        reason = "none: the operation cannot be here; some of none: it leaves no value"
    )]
    fn after(self, value: Option<u64>) -> Option<Option<u64>> {
        match self {
            Self::Read(seen) => (seen == value).then_some(value),
            Self::Write(written, was) => (was == value.is_some()).then_some(Some(written)),
            Self::Delete(was) => (was == value.is_some()).then_some(None),
        }
    }
}

impl Operation {
    /// The value after the operation, if the operation is possible with this value.
    #[expect(clippy::option_option, reason = "as for an action")]
    fn after(self, value: Option<u64>) -> Option<Option<u64>> {
        match self.action {
            Action::Write(written, _) if self.returned == UNKNOWN => Some(Some(written)),
            Action::Delete(_) if self.returned == UNKNOWN => Some(None),
            action => action.after(value),
        }
    }
}

/// Whether a history of one register, which begins without a value, is linearizable.
pub fn is_linearizable(history: &[Operation]) -> bool {
    let mut operations = history.to_vec();
    operations.sort_unstable_by_key(|operation| operation.called);
    let start = Configuration {
        taken: vec![0; operations.len().div_ceil(64)],
        value: None,
    };
    let mut entered = HashSet::from([start.clone()]);
    let mut open = vec![start];
    while let Some(configuration) = open.pop() {
        if configuration.is_whole(&operations) {
            return true;
        }
        let next = configuration.next(&operations);
        // The operation that returned first is last in the list, so it is tried first.
        open.extend(
            next.into_iter()
                .rev()
                .filter(|next| entered.insert(next.clone())),
        );
    }
    false
}

/// A set of operations that have been taken, as bits, and the register's value after them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Configuration {
    taken: Vec<u64>,
    value: Option<u64>,
}

impl Configuration {
    fn has(&self, index: usize) -> bool {
        self.taken[index / 64] >> (index % 64) & 1 == 1
    }

    /// Whether all operations that returned have been taken.
    fn is_whole(&self, operations: &[Operation]) -> bool {
        let mut operations = operations.iter().enumerate();
        operations.all(|(index, operation)| operation.returned == UNKNOWN || self.has(index))
    }

    /// The configurations that can come next: those after an operation that was called before any
    /// other remaining one returned. Operations are sorted by the times of their calls.
    fn next(&self, operations: &[Operation]) -> Vec<Self> {
        let mut next = Vec::new();
        let mut first_return = u64::MAX;
        let left = (0..operations.len()).filter(|&index| !self.has(index));
        for index in left {
            let operation = &operations[index];
            if operation.called > first_return {
                break;
            }
            first_return = first_return.min(operation.returned);
            if let Some(value) = operation.after(self.value) {
                let mut taken = self.taken.clone();
                taken[index / 64] |= 1 << (index % 64);
                next.push(Self { taken, value });
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::Action::{Delete, Read, Write};
    use super::*;

    fn check(expected: bool, history: &[(u64, u64, Action)]) {
        let operation = |&(called, returned, action)| Operation {
            called,
            returned,
            action,
        };
        let history: Vec<Operation> = history.iter().map(operation).collect();
        assert_eq!(is_linearizable(&history), expected, "{history:?}");
    }

    #[test]
    fn what_happens_one_after_another_must_fit() {
        check(true, &[]);
        check(
            true,
            &[
                (0, 1, Read(None)),
                (2, 3, Write(1, false)),
                (4, 5, Read(Some(1))),
                (6, 7, Write(2, true)),
                (8, 9, Delete(true)),
                (10, 11, Delete(false)),
                (12, 13, Read(None)),
            ],
        );
        check(false, &[(0, 1, Read(Some(1)))]);
        check(false, &[(0, 1, Write(1, true))]);
        check(false, &[(0, 1, Delete(true))]);
    }

    #[test]
    fn what_overlaps_may_have_come_in_any_order() {
        for seen in [None, Some(1)] {
            check(true, &[(0, 3, Write(1, false)), (1, 2, Read(seen))]);
        }
        check(
            true,
            &[
                (0, 9, Write(1, true)),
                (1, 8, Write(2, false)),
                (10, 11, Read(Some(1))),
            ],
        );
    }

    #[test]
    fn a_stale_read_is_found() {
        check(
            false,
            &[
                (0, 1, Write(1, false)),
                (2, 3, Write(2, true)),
                (4, 5, Read(Some(1))),
            ],
        );
    }

    #[test]
    fn a_lost_write_is_found() {
        check(
            false,
            &[
                (0, 3, Write(1, false)),
                (1, 2, Write(2, false)),
                (4, 5, Read(Some(2))),
            ],
        );
    }

    #[test]
    fn what_nobody_was_told_of_may_have_happened_late_or_never() {
        let lost = (0, UNKNOWN, Write(1, true));
        check(true, &[lost]);
        check(true, &[lost, (2, 3, Read(None))]);
        check(true, &[lost, (2, 3, Read(None)), (4, 5, Read(Some(1)))]);
        check(false, &[lost, (2, 3, Read(Some(1))), (4, 5, Read(None))]);
        check(
            true,
            &[
                lost,
                (1, 2, Write(2, false)),
                (3, UNKNOWN, Delete(false)),
                (4, 5, Read(Some(1))),
                (6, 7, Read(None)),
            ],
        );
        check(
            false,
            &[(2, UNKNOWN, Write(1, false)), (0, 1, Read(Some(1)))],
        );
    }

    /// Each read would be possible by itself.
    #[test]
    fn reads_that_see_a_write_and_then_not_are_found() {
        check(
            false,
            &[
                (0, 9, Write(1, false)),
                (1, 2, Read(Some(1))),
                (3, 4, Read(None)),
            ],
        );
    }
}
