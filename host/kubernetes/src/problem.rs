//! Why the number of replicas is not heard, or cannot count.

use std::time::Duration;

use super::pod_identity::PodIdentity;
use ostrakon_base::causes::with_causes;

/// Why the number of replicas is not heard, or cannot count, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error(
        "the API server forbids it ({said}): give this Pod's ServiceAccount a Role that allows to list and watch the StatefulSet `{stateful_set}` in the namespace `{namespace}`"
    )]
    Forbidden {
        said: String,
        namespace: String,
        stateful_set: String,
    },
    #[error(
        "the API server does not take this Pod's token ({0}): see that its ServiceAccount is there"
    )]
    Unauthorized(String),
    #[error(
        "there is no StatefulSet `{stateful_set}` in the namespace `{namespace}`: where it has another name, give --statefulset; where it was deleted, the number stays"
    )]
    Missing {
        namespace: String,
        stateful_set: String,
    },
    #[error("the StatefulSet is being deleted: the number stays")]
    Deleting,
    #[error("the StatefulSet is to have no replicas: the number stays")]
    Zero,
    #[error(
        "the StatefulSet is to have {0} replicas, more than there can be shards: scale it down"
    )]
    TooMany(i32),
    #[error("the API server refuses ({code}, {said}): it is asked again")]
    Refused { code: u16, said: String },
    #[error("the API server cannot be reached ({0}): it is asked again")]
    Unreachable(String),
    #[error("the API server said nothing for {0:?}: it is asked again")]
    Silent(Duration),
}

impl Problem {
    /// What an error of the client's means; none: what was to be resumed is
    /// forgotten there.
    pub(super) fn of(error: &kube::Error, place: &PodIdentity) -> Option<Self> {
        match error {
            kube::Error::Api(status) => Self::of_status(status, place),
            error => Some(Self::Unreachable(with_causes(error))),
        }
    }

    /// The same of what the API server answers.
    pub(super) fn of_status(status: &kube::core::Status, place: &PodIdentity) -> Option<Self> {
        let said = status.message.clone();
        Some(match status.code {
            410 => return None,
            401 => Self::Unauthorized(said),
            403 => Self::Forbidden {
                said,
                namespace: place.namespace.clone(),
                stateful_set: place.stateful_set.clone(),
            },
            code => Self::Refused { code, said },
        })
    }

    pub(super) fn missing(place: &PodIdentity) -> Self {
        Self::Missing {
            namespace: place.namespace.clone(),
            stateful_set: place.stateful_set.clone(),
        }
    }

    /// Whether asking again soon brings nothing else, unless somebody acts.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Forbidden { .. }
            | Self::Missing { .. }
            | Self::Deleting
            | Self::Zero
            | Self::TooMany(_) => true,
            Self::Unauthorized(_)
            | Self::Refused { .. }
            | Self::Unreachable(_)
            | Self::Silent(_) => false,
        }
    }
}
