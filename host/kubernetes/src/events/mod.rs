//! Kubernetes Events: what `kubectl describe` shows of a Pod and its StatefulSet.
//!
//! They are told as well as can be: none is waited for, and one that cannot be
//! posted is dropped and counted. The log says the same things.

mod recorder;
mod series;

use k8s_openapi::api::core::v1::ObjectReference;

pub(super) use recorder::Recorder;

use super::pod_identity::PodIdentity;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A generation was refused.
    SwapRefused,
    /// What was refused is gone, and what is live came back.
    SwapRefusalEnded,
    /// A generation went live in place of another.
    GenerationLive,
    /// Partitions begin to move.
    ReshardingStarted,
    /// All partitions are where they belong.
    ReshardingDone,
    /// Shards that have data are not there, as fewer are wanted.
    ShardsMissing,
    /// They are there again.
    ShardsBack,
    /// A shard stores no writes: its disk is full, or its data file is missing.
    WritesRefused,
    /// It does again.
    WritesResumed,
}

impl Kind {
    /// One word for people and filters.
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

    /// What was being done.
    fn action(self) -> &'static str {
        match self {
            Self::SwapRefused | Self::SwapRefusalEnded | Self::GenerationLive => "Swap",
            Self::ReshardingStarted | Self::ReshardingDone => "Reshard",
            Self::ShardsMissing | Self::ShardsBack => "Scale",
            Self::WritesRefused | Self::WritesResumed => "Store",
        }
    }

    /// How much it is to alarm.
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

    /// What it is about: one Pod, or all of them.
    fn regarding(self, place: &PodIdentity, set_uid: Option<String>) -> ObjectReference {
        let (api_version, kind, name, uid) = if self.is_of_the_set() {
            ("apps/v1", "StatefulSet", &place.stateful_set, set_uid)
        } else {
            ("v1", "Pod", &place.pod, place.pod_uid.clone())
        };
        ObjectReference {
            api_version: Some(api_version.to_owned()),
            kind: Some(kind.to_owned()),
            name: Some(name.clone()),
            namespace: Some(place.namespace.clone()),
            uid,
            ..ObjectReference::default()
        }
    }

    /// Whether it is about the StatefulSet.
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

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Of which kind.
    pub kind: Kind,
    /// What it is, for people.
    pub note: String,
}

/// The longest note that the API server takes, in bytes.
const LONGEST_NOTE: usize = 1024;

/// A note that the API server takes.
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
