//! The pure swap machine: decides the next action from the state and an event.
//!
//! ```text
//! observed -> verified -> compiled -> linked -> checked -> rehearsed -> agreed -> (migrated,) live
//!                  |          |          |         |          |           |           |
//!                  +----------+----------+---------+----------+-----------+-----------+--> refused
//! ```
//!
//! At most one action is under way. Content observed meanwhile takes over when that action
//! ends, with these exceptions: a compile and a rehearsal, which can take minutes, and the wait for
//! other shards are cancelled for it, and a promotion that has been requested counts.

use ostrakon_base::digest::Digest;
use serde::Serialize;

/// Where a swap stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    live: Option<Live>,
    work: Option<Work>,
    /// The newest observation, if it arrived during an action and differs from the candidate.
    next: Option<Observed>,
    refusal: Option<Refusal>,
}

/// The generation that serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Live {
    pub generation: u64,
    /// The digest of all its content.
    pub digest: Digest,
    /// The digest of its component.
    pub component: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// The refused content; `None` where it could not be read.
    pub digest: Option<Digest>,
    pub step: Step,
    pub reason: String,
    /// When it was refused, in the unit of the caller's clock.
    pub at: u64,
    /// Whether the same content may pass later, because something else failed.
    pub transient: bool,
}

/// A step on the way to going live. Displayed in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Read the volume.
    Read,
    /// Check that its files are a component and settings.
    Verify,
    Compile,
    /// Match its imports and exports with the host's.
    Link,
    /// Ask the guest whether it may serve.
    Check,
    /// Try live requests with it, and throw away what it answers and writes.
    Rehearse,
    /// Wait until all shards are prepared for it.
    Agree,
    /// Migrate the data to its schema, then go live.
    Migrate,
    /// Go live; the data needs no migration.
    Promote,
}

impl Step {
    /// All steps, in their order.
    pub const ALL: [Self; 9] = [
        Self::Read,
        Self::Verify,
        Self::Compile,
        Self::Link,
        Self::Check,
        Self::Rehearse,
        Self::Agree,
        Self::Migrate,
        Self::Promote,
    ];

    /// The step's name in logs, metrics and status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Verify => "verify",
            Self::Compile => "compile",
            Self::Link => "link",
            Self::Check => "check",
            Self::Rehearse => "rehearse",
            Self::Agree => "agree",
            Self::Migrate => "migrate",
            Self::Promote => "promote",
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The volume has this content.
    Observed(Digest),
    /// This content is to be tried, also if it was refused.
    Again(Digest),
    /// The volume cannot be read, for this reason.
    Unreadable(String),
    /// The content is well-formed, with this component.
    Verified {
        component: Digest,
    },
    Compiled,
    Linked,
    /// The guest may serve.
    Checked {
        /// The schema that the guest needs.
        schema: u32,
        /// The schema of the stored data; `None` if nothing has been stored yet.
        stored: Option<u32>,
    },
    /// It has rehearsed, if it is to.
    Rehearsed,
    /// The shard may go live with it.
    Agreed,
    /// The candidate is live.
    Promoted {
        generation: u64,
    },
    /// The action failed and changed nothing.
    Failed {
        reason: String,
        /// Whether the same action may succeed later: the disk was full, for example.
        transient: bool,
    },
    /// Time has passed since a transient refusal.
    Retry,
}

/// What the caller is to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Begin this action, and report its end as one event.
    Begin(Action),
    /// Cancel the action under way, and report nothing of it.
    Cancel,
    /// Report this refusal.
    Refused(Refusal),
    /// Report that this generation went live.
    Live(Live),
}

/// A step that takes time and can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Take the content observed last, which has this digest, as a candidate.
    Verify(Digest),
    Compile,
    /// Link the component compiled for the candidate. Where compiling was skipped, the live
    /// generation's compiled component is used: it is the same.
    Link,
    /// Instantiate the guest, and call `describe` and `check`.
    Check,
    /// Try live requests with the candidate.
    Rehearse {
        /// The schema of the stored data, where it is older than the guest's.
        migrate_from: Option<u32>,
    },
    /// Wait until the shard may go live with the candidate, which is prepared.
    Agree {
        /// The schema of the stored data, where it is older than the guest's.
        migrate_from: Option<u32>,
    },
    /// Replace the live generation with the candidate, atomically. Where `migrate_from` is
    /// given, first migrate the data in the same transaction.
    Promote {
        /// The schema of the stored data, where it is older than the guest's.
        migrate_from: Option<u32>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Observed {
    Content(Digest),
    Unreadable(String),
}

/// A candidate, and the action under way for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Work {
    digest: Digest,
    /// Known once the candidate is verified.
    component: Option<Digest>,
    action: Action,
}

impl Action {
    /// Whether it is cancelled for newer content, because it can take minutes.
    const fn is_cancellable(&self) -> bool {
        matches!(
            self,
            Self::Compile | Self::Rehearse { .. } | Self::Agree { .. }
        )
    }

    /// The step that the action belongs to.
    pub const fn step(&self) -> Step {
        match self {
            Self::Verify(_) => Step::Verify,
            Self::Compile => Step::Compile,
            Self::Link => Step::Link,
            Self::Check => Step::Check,
            Self::Rehearse { .. } => Step::Rehearse,
            Self::Agree { .. } => Step::Agree,
            Self::Promote {
                migrate_from: Some(_),
            } => Step::Migrate,
            Self::Promote { migrate_from: None } => Step::Promote,
        }
    }
}

impl State {
    /// The generation that serves; `None` before the first went live.
    pub fn live(&self) -> Option<&Live> {
        self.live.as_ref()
    }

    /// The candidate's digest and the step under way.
    pub(crate) fn in_progress(&self) -> Option<(Digest, Step)> {
        self.work
            .as_ref()
            .map(|work| (work.digest, work.action.step()))
    }

    /// The last refusal, until a generation goes live or the live content is observed again.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// Applies an event that happens at the time `now`, and returns the new state and the
    /// effects.
    ///
    /// # Panics
    /// When the event ends an action that is not under way: a bug of the caller.
    pub fn apply(self, event: Event, now: u64) -> (Self, Vec<Effect>) {
        let mut machine = Transition {
            state: self,
            now,
            effects: Vec::new(),
        };
        machine.apply(event);
        (machine.state, machine.effects)
    }
}

struct Transition {
    state: State,
    now: u64,
    effects: Vec<Effect>,
}

impl Transition {
    fn apply(&mut self, event: Event) {
        match event {
            Event::Observed(digest) => self.observed(Observed::Content(digest)),
            Event::Again(digest) => {
                let refused = &mut self.state.refusal;
                refused.take_if(|refused| refused.digest == Some(digest));
                self.observed(Observed::Content(digest));
            }
            Event::Unreadable(reason) => self.observed(Observed::Unreadable(reason)),
            Event::Failed { reason, transient } => {
                let work = self.state.work.take().expect("an action is under way");
                self.refuse(Some(work.digest), work.action.step(), reason, transient);
                self.take_next();
            }
            Event::Retry => self.retry(),
            Event::Promoted { generation } => {
                let work = self.state.work.take().expect("a promotion is under way");
                let (Action::Promote { .. }, Some(component)) = (work.action, work.component)
                else {
                    panic!("promoted during {:?}", work.action);
                };
                let live = Live {
                    generation,
                    digest: work.digest,
                    component,
                };
                self.state.live = Some(live.clone());
                self.state.refusal = None;
                self.effects.push(Effect::Live(live));
                self.take_next();
            }
            step_done => self.step_done(&step_done),
        }
    }

    fn observed(&mut self, observed: Observed) {
        match &self.state.work {
            None => self.consider(observed),
            // The volume shows the candidate again: anything observed in between does not
            // matter.
            Some(work) if observed == Observed::Content(work.digest) => self.state.next = None,
            // A volume that cannot be read now shows nothing else.
            Some(work)
                if work.action.is_cancellable() && matches!(observed, Observed::Content(_)) =>
            {
                self.state.work = None;
                self.state.next = None;
                self.effects.push(Effect::Cancel);
                self.consider(observed);
            }
            Some(_) => self.state.next = Some(observed),
        }
    }

    /// Decides on an observation while no action is under way.
    fn consider(&mut self, observed: Observed) {
        let digest = match observed {
            Observed::Content(digest) => digest,
            Observed::Unreadable(reason) => return self.refuse(None, Step::Read, reason, false),
        };
        if self
            .state
            .live
            .as_ref()
            .is_some_and(|live| live.digest == digest)
        {
            self.state.refusal = None;
        } else if self
            .state
            .refusal
            .as_ref()
            .is_none_or(|last| last.digest != Some(digest))
        {
            self.try_content(digest);
        }
    }

    /// Tries the refused content once more, where that may help. The refusal stays visible
    /// until the content is live or refused again.
    fn retry(&mut self) {
        let refused = self.state.refusal.as_ref();
        let transient = refused.filter(|refusal| refusal.transient);
        if let (None, Some(digest)) = (&self.state.work, transient.and_then(|last| last.digest)) {
            self.try_content(digest);
        }
    }

    fn try_content(&mut self, digest: Digest) {
        self.begin(Work {
            digest,
            component: None,
            action: Action::Verify(digest),
        });
    }

    fn step_done(&mut self, event: &Event) {
        let mut work = self.state.work.take().expect("an action is under way");
        // The safe point: newer content takes over between two steps. A volume that cannot be read shows
        // none, and all shards may have gone over by now.
        let is_unreadable = matches!(self.state.next, Some(Observed::Unreadable(_)));
        if self.state.next.is_some() && !(is_unreadable && *event == Event::Agreed) {
            return self.take_next();
        }
        work.action = match (work.action, event) {
            (Action::Verify(_), &Event::Verified { component }) => {
                work.component = Some(component);
                let compiled = self
                    .state
                    .live
                    .as_ref()
                    .is_some_and(|live| live.component == component);
                if compiled {
                    Action::Link
                } else {
                    Action::Compile
                }
            }
            (Action::Compile, Event::Compiled) => Action::Link,
            (Action::Link, Event::Linked) => Action::Check,
            (Action::Check, &Event::Checked { schema, stored }) => match stored {
                Some(stored) if schema < stored => {
                    let reason = format!(
                        "the guest's schema is {schema}, older than the stored data's {stored}; \
                         deliver a guest of schema {stored} or newer"
                    );
                    return self.refuse(Some(work.digest), Step::Check, reason, false);
                }
                Some(stored) if schema > stored => Action::Rehearse {
                    migrate_from: Some(stored),
                },
                _ => Action::Rehearse { migrate_from: None },
            },
            (Action::Rehearse { migrate_from }, Event::Rehearsed) => Action::Agree { migrate_from },
            (Action::Agree { migrate_from }, Event::Agreed) => Action::Promote { migrate_from },
            (action, event) => panic!("{event:?} during {action:?}"),
        };
        self.begin(work);
    }

    fn begin(&mut self, work: Work) {
        self.effects.push(Effect::Begin(work.action));
        self.state.work = Some(work);
    }

    fn refuse(&mut self, digest: Option<Digest>, step: Step, reason: String, transient: bool) {
        let refusal = Refusal {
            digest,
            step,
            reason,
            at: self.now,
            transient,
        };
        self.state.refusal = Some(refusal.clone());
        self.effects.push(Effect::Refused(refusal));
    }

    fn take_next(&mut self) {
        if let Some(next) = self.state.next.take() {
            self.consider(next);
        }
    }
}

#[cfg(test)]
mod tests;
