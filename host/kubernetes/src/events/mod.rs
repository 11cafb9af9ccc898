//! Kubernetes Events, which `kubectl describe` shows for a Pod and its StatefulSet.
//!
//! They are posted on a best-effort basis: nothing waits for them, and an Event that cannot be
//! posted is dropped and counted. The log contains the same messages.

mod recorder;
mod series;

use k8s_openapi::api::core::v1::ObjectReference;

pub(super) use recorder::Recorder;

use super::pod_identity::PodIdentity;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    SwapRefused,
    /// The refused content is gone, and the live content is back.
    SwapRefusalEnded,
    /// A generation went live in place of another.
    GenerationLive,
    /// Partitions begin to move.
    ReshardingStarted,
    /// All partitions are where they belong.
    ReshardingDone,
    /// Shards that have data do not run because the set was scaled down.
    ShardsMissing,
    /// The missing shards run again.
    ShardsBack,
    /// A shard refuses writes because its disk is full or its data file is missing.
    WritesRefused,
    /// The shard accepts writes again.
    WritesResumed,
}

impl Kind {
    /// One word, for people and filters.
    fn reason(self) -> &'static str {
        match self {
            Self::SwapRefused => "SwapRefused",
            Self::SwapRefusalEnded => "SwapRefusalEnded",
            Self::GenerationLive => "GenerationLive",
            Self::ReshardingStarted => "ReshardingStarted",
            Self::ReshardingDone => "ReshardingDone",
            Self::ShardsMissing => "ShardsMissing",
            Self::ShardsBack => "ShardsBack",
            Self::WritesRefused => "WritesRefused",
            Self::WritesResumed => "WritesResumed",
        }
    }

    /// The action that was being taken.
    fn action(self) -> &'static str {
        match self {
            Self::SwapRefused | Self::SwapRefusalEnded | Self::GenerationLive => "Swap",
            Self::ReshardingStarted | Self::ReshardingDone => "Reshard",
            Self::ShardsMissing | Self::ShardsBack => "Scale",
            Self::WritesRefused | Self::WritesResumed => "Store",
        }
    }

    /// The Event's type: `Normal` or `Warning`.
    fn severity(self) -> &'static str {
        match self {
            Self::SwapRefused | Self::ShardsMissing | Self::WritesRefused => "Warning",
            Self::SwapRefusalEnded
            | Self::GenerationLive
            | Self::ReshardingStarted
            | Self::ReshardingDone
            | Self::ShardsBack
            | Self::WritesResumed => "Normal",
        }
    }

    /// The object that the Event concerns: one Pod, or the StatefulSet.
    fn regarding(self, identity: &PodIdentity, set_uid: Option<String>) -> ObjectReference {
        let (api_version, kind, name, uid) = if self.is_of_the_set() {
            ("apps/v1", "StatefulSet", &identity.stateful_set, set_uid)
        } else {
            ("v1", "Pod", &identity.pod, identity.pod_uid.clone())
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

    fn is_of_the_set(self) -> bool {
        match self {
            Self::ReshardingStarted
            | Self::ReshardingDone
            | Self::ShardsMissing
            | Self::ShardsBack => true,
            Self::SwapRefused
            | Self::SwapRefusalEnded
            | Self::GenerationLive
            | Self::WritesRefused
            | Self::WritesResumed => false,
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
    use super::*;

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
