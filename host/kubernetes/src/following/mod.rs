//! What to ask the API server next, by what it said: a pure function of both.
//!
//! A list says how things are, and a version from which a watch says how they
//! change. A watch that ends is begun again from the last version that was said,
//! so that nothing is missed; where the API server has forgotten that version or
//! refuses it, and every so often, all is listed again.

use std::time::Duration;

use ostrakon_cluster::Replicas;
use ostrakon_settings::settings::MAX_SHARDS;

use super::problem::Problem;

/// A watch that ended sooner, and said nothing, is not begun again at once.
const QUICK: Duration = Duration::from_secs(1);

/// After so many watches all is listed again. An API server that was restored from an
/// older copy lets one watch from a version that it has not reached, and says nothing.
const LIST_AFTER: u32 = 10;

/// What to ask next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// How things are.
    List,
    /// What changes from this version on.
    Watch(String),
}

/// A StatefulSet, as far as it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) replicas: i32,
    pub(super) is_deleting: bool,
}

/// What was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// All there is, and up to which version.
    Listed(String, Option<Seen>),
    /// It is so from this version on.
    Changed(String, Seen),
    /// It is gone from this version on.
    Deleted(String),
    /// Nothing changed up to this version.
    Bookmark(String),
    /// A watch ended in good order, after so long.
    Ended(Duration),
    /// The version is forgotten there.
    Gone,
    /// Nothing was heard, for this reason.
    Failed(Problem),
}

/// How following stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Following {
    next: Ask,
    missing: Problem,
    replicas: Replicas,
    /// Why the StatefulSet, as it was last heard of, has no number to go by.
    unfit: Option<Problem>,
    /// Why nothing was heard last.
    failure: Option<Problem>,
    failures: u32,
    /// How many watches have ended in good order since the last list.
    watches: u32,
    has_heard: bool,
}

impl Following {
    /// Nothing is heard yet. `missing` is what it means that there is none.
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

    /// What to ask next.
    pub(super) fn next(&self) -> Ask {
        self.next.clone()
    }

    /// What counts.
    pub(super) fn replicas(&self) -> Replicas {
        self.replicas
    }

    /// What is wrong, if anything is.
    pub(super) fn problem(&self) -> Option<&Problem> {
        self.failure.as_ref().or(self.unfit.as_ref())
    }

    /// How often it failed since a watch last said something: so much longer is
    /// waited before the next question.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether what was heard last says how things are, and is no failure.
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
            // A watch may have failed before it, and may again: only one that
            // goes on ends the row of failures.
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
                // It may be about the version: one that it has not reached, say.
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
