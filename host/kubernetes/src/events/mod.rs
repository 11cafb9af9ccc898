//! Kubernetes Events, which `kubectl describe` shows for a Pod and its StatefulSet.
//!
//! They are posted on a best-effort basis: nothing waits for them, and an Event that cannot be
//! posted is dropped and counted. The log contains the same messages.

mod recorder;
mod series;

use k8s_openapi::api::core::v1::ObjectReference;

pub(super) use recorder::Recorder;

use super::pod_identity::PodIdentity;

/// Declares the kinds of Events: each with the object that it concerns, its type, and the action
/// that was being taken.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident: $about:ident $severity:ident $action:ident,)+) => {
        /// The kind of an Event.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $kind,)+
        }

        impl Kind {
            #[cfg(test)]
            const ALL: &[Self] = &[$(Self::$kind),+];

            /// One word, for people and filters.
            fn reason(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($kind),)+
                }
            }

            /// The object that the Event concerns.
            fn about(self) -> About {
                match self {
                    $(Self::$kind => About::$about,)+
                }
            }

            /// The Event's type: `Normal` or `Warning`.
            fn severity(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($severity),)+
                }
            }

            /// The action that was being taken.
            fn action(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($action),)+
                }
            }
        }
    };
}

kinds! {
    /// A generation was refused.
    SwapRefused: Pod Warning Swap,
    /// The refused content is gone, and the live content is back.
    SwapRefusalEnded: Pod Normal Swap,
    /// A generation went live in place of another.
    GenerationLive: Pod Normal Swap,
    /// The generation that went live differed from the one before in its rehearsal, or is slower.
    RehearsalDiffers: Pod Warning Swap,
    /// A shard refuses writes because its disk is full or its data file is missing.
    WritesRefused: Pod Warning Store,
    /// The shard accepts writes again.
    WritesResumed: Pod Normal Store,
    /// Partitions begin to move.
    ReshardingStarted: StatefulSet Normal Reshard,
    /// All partitions are where they belong.
    ReshardingDone: StatefulSet Normal Reshard,
    /// Shards that have data do not run because the set was scaled down.
    ShardsMissing: StatefulSet Warning Scale,
    /// The missing shards run again.
    ShardsBack: StatefulSet Normal Scale,
    /// A generation waits to go live in all shards.
    RolloutWaits: StatefulSet Warning Swap,
    /// No generation waits any longer.
    RolloutGoesOn: StatefulSet Normal Swap,
    /// A generation serves a part of the partitions.
    RolloutStep: StatefulSet Normal Swap,
    /// All shards went back from a generation.
    WentBack: StatefulSet Warning Swap,
}

/// The object that an Event concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    /// This Pod.
    Pod,
    /// The StatefulSet that the Pod belongs to.
    StatefulSet,
}

impl Kind {
    /// The reference to the object that the Event concerns.
    fn regarding(self, identity: &PodIdentity, set_uid: Option<String>) -> ObjectReference {
        let (api_version, kind, name, uid) = match self.about() {
            About::Pod => ("v1", "Pod", &identity.pod, identity.pod_uid.clone()),
            About::StatefulSet => ("apps/v1", "StatefulSet", &identity.stateful_set, set_uid),
        };
        ObjectReference {
            api_version: Some(api_version.to_owned()),
            kind: Some(kind.to_owned()),
            name: Some(name.clone()),
            namespace: Some(identity.namespace.clone()),
            uid,
            ..ObjectReference::default()
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: Kind,
    /// The message for people.
    pub note: String,
}

/// The longest note that the API server accepts, in bytes.
const LONGEST_NOTE: usize = 1024;

/// Shortens a note to a length that the API server accepts.
fn shortened(note: &str) -> String {
    if note.len() <= LONGEST_NOTE {
        return note.to_owned();
    }
    let end = note.floor_char_boundary(LONGEST_NOTE - "...".len());
    format!("{}...", &note[..end])
}

#[cfg(test)]
mod tests {
    use ostrakon_test_support::pages::{code, rows};

    use super::*;

    #[test]
    fn the_reference_has_exactly_these_events_with_their_object_and_type() {
        let readme = include_str!("../../../README.md");
        let rows = rows(readme, "| Event | about | type | meaning |");
        let shown = rows.iter().flat_map(|row| {
            let of_one = |reason| format!("{reason} {} {}", row[1], row[2]);
            code(row[0]).map(of_one)
        });
        let all = Kind::ALL
            .iter()
            .map(|kind| format!("{} {:?} {}", kind.reason(), kind.about(), kind.severity()));
        assert_eq!(
            shown.collect::<Vec<_>>(),
            all.collect::<Vec<_>>(),
            "host/README.md, and the kinds of Events"
        );
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let most = "x".repeat(LONGEST_NOTE);
        assert_eq!(shortened(&most), most);
        let cut = shortened(&"ä".repeat(LONGEST_NOTE));
        assert!(
            cut.len() <= LONGEST_NOTE && cut.ends_with("ä..."),
            "{}",
            cut.len()
        );
    }
}
