//! Decides what to ask the API server next, from its earlier answers: a pure function.
//!
//! A list returns the current state, and a version from which a watch reports the changes. When a
//! watch ends, the next one begins from the last reported version, so that nothing is missed. If
//! the API server has forgotten that version or rejects it, and at regular intervals, the follower
//! lists again.

use std::time::Duration;

use ostrakon_cluster::Replicas;
use ostrakon_settings::settings::MAX_SHARDS;

use super::problem::Problem;

/// After a watch that ended sooner than this without an event, the next one is not begun at once.
const QUICK: Duration = Duration::from_secs(1);

/// After this many watches the follower lists again. An API server that was restored from an older
/// copy accepts a watch from a version that it has not reached, and stays silent.
const LIST_AFTER: u32 = 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    List,
    /// Watch the changes from this version on.
    Watch(String),
}

/// The relevant part of a StatefulSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) replicas: i32,
    pub(super) is_deleting: bool,
}

/// An answer from the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The version of a list, and the StatefulSet, if it exists.
    Listed(String, Option<Seen>),
    /// The StatefulSet changed to this state at this version.
    Changed(String, Seen),
    /// The StatefulSet was deleted at this version.
    Deleted(String),
    /// Nothing changed up to this version.
    Bookmark(String),
    /// A watch ended in good order after this time.
    Ended(Duration),
    /// The API server has forgotten the version.
    Gone,
    Failed(Problem),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Following {
    next: Ask,
    missing: Problem,
    replicas: Replicas,
    /// Why the last known StatefulSet has no usable number.
    unfit: Option<Problem>,
    /// Why the last request failed.
    failure: Option<Problem>,
    failures: u32,
    /// How many watches have ended in good order since the last list.
    watches: u32,
    has_heard: bool,
}

impl Following {
    /// The state before any answer. `missing` is the problem to report if the StatefulSet does not
    /// exist.
    pub(super) fn new(missing: Problem) -> Self {
        Self {
            next: Ask::List,
            missing,
            replicas: Replicas::NotHeard,
            unfit: None,
            failure: None,
            failures: 0,
            watches: 0,
            has_heard: false,
        }
    }

    pub(super) fn next(&self) -> Ask {
        self.next.clone()
    }

    /// The number of replicas to use.
    pub(super) fn replicas(&self) -> Replicas {
        self.replicas
    }

    pub(super) fn problem(&self) -> Option<&Problem> {
        self.failure.as_ref().or(self.unfit.as_ref())
    }

    /// The consecutive failures since a watch last reported something, which determine the wait
    /// before the next request.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether the last answer reported the state and is not a failure.
    pub(super) fn has_heard(&self) -> bool {
        self.has_heard
    }

    pub(super) fn apply(&mut self, heard: Heard) {
        self.has_heard = match &heard {
            Heard::Gone | Heard::Failed(_) => false,
            Heard::Ended(after) => *after >= QUICK,
            _ => true,
        };
        match heard {
            // The list succeeded, but the watches may keep failing: only a watch that continues
            // ends the run of failures.
            Heard::Listed(version, seen) => {
                self.next = Ask::Watch(version);
                self.failure = None;
                self.watches = 0;
                self.judge(seen);
            }
            Heard::Changed(version, seen) => {
                self.went_on(version);
                self.judge(Some(seen));
            }
            Heard::Deleted(version) => {
                self.went_on(version);
                self.judge(None);
            }
            Heard::Bookmark(version) => self.went_on(version),
            Heard::Ended(_) if self.has_heard => {
                self.failures = 0;
                self.failure = None;
                self.watches += 1;
                if self.watches >= LIST_AFTER {
                    self.next = Ask::List;
                }
            }
            Heard::Ended(_) => self.failures = self.failures.saturating_add(1),
            Heard::Gone => {
                self.next = Ask::List;
                self.failures = self.failures.saturating_add(1);
            }
            Heard::Failed(problem) => {
                self.failures = self.failures.saturating_add(1);
                // The cause may be the version, for example one that the server has not reached.
                if matches!(problem, Problem::Refused { .. }) {
                    self.next = Ask::List;
                }
                if problem.is_final() && self.replicas == Replicas::NotHeard {
                    self.replicas = Replicas::None;
                }
                self.failure = Some(problem);
            }
        }
    }

    fn went_on(&mut self, version: String) {
        self.next = Ask::Watch(version);
        self.failures = 0;
        self.failure = None;
    }

    fn judge(&mut self, seen: Option<Seen>) {
        let judged = match seen {
            None => Err(self.missing.clone()),
            Some(seen) if seen.is_deleting => Err(Problem::Deleting),
            Some(Seen { replicas: 0, .. }) => Err(Problem::Zero),
            Some(seen) => u32::try_from(seen.replicas)
                .ok()
                .filter(|replicas| *replicas <= MAX_SHARDS)
                .ok_or(Problem::TooMany(seen.replicas)),
        };
        self.replicas = judged
            .as_ref()
            .map_or(Replicas::None, |number| Replicas::Are(*number));
        self.unfit = judged.err();
    }
}

#[cfg(test)]
mod tests;
