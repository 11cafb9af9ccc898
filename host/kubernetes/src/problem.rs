//! Why the number of replicas is unknown or cannot be used.

use std::time::Duration;

use super::pod_identity::PodIdentity;
use ostrakon_base::causes::with_causes;

/// Why the number of replicas is unknown or cannot be used, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error(
        "the API server forbids it ({said}): give this Pod's ServiceAccount a Role that allows it to list and watch the StatefulSet `{stateful_set}` in the namespace `{namespace}`"
    )]
    Forbidden {
        said: String,
        namespace: String,
        stateful_set: String,
    },
    #[error(
        "the API server does not accept this Pod's token ({0}): check that its ServiceAccount exists"
    )]
    Unauthorized(String),
    #[error(
        "there is no StatefulSet `{stateful_set}` in the namespace `{namespace}`: if it has another name, give --statefulset; if it was deleted, the last number stays in force"
    )]
    Missing {
        namespace: String,
        stateful_set: String,
    },
    #[error("the StatefulSet is being deleted: the last number stays in force")]
    Deleting,
    #[error("the StatefulSet specifies no replicas: the last number stays in force")]
    Zero,
    #[error("the StatefulSet specifies {0} replicas, more than there can be shards: scale it down")]
    TooMany(i32),
    #[error("the API server refuses ({code}, {said}): it will be asked again")]
    Refused { code: u16, said: String },
    #[error("the API server cannot be reached ({0}): it will be asked again")]
    Unreachable(String),
    #[error("the API server did not answer for {0:?}: it will be asked again")]
    Silent(Duration),
}

impl Problem {
    /// The problem that a client error means. `None` if the version to resume from is forgotten
    /// there.
    pub(super) fn of(error: &kube::Error, identity: &PodIdentity) -> Option<Self> {
        match error {
            kube::Error::Api(status) => Self::of_status(status, identity),
            error => Some(Self::Unreachable(with_causes(error))),
        }
    }

    /// The problem that an error status from the API server means.
    pub(super) fn of_status(status: &kube::core::Status, identity: &PodIdentity) -> Option<Self> {
        let said = status.message.clone();
        Some(match status.code {
            410 => return None,
            401 => Self::Unauthorized(said),
            403 => Self::Forbidden {
                said,
                namespace: identity.namespace.clone(),
                stateful_set: identity.stateful_set.clone(),
            },
            code => Self::Refused { code, said },
        })
    }

    pub(super) fn missing(identity: &PodIdentity) -> Self {
        Self::Missing {
            namespace: identity.namespace.clone(),
            stateful_set: identity.stateful_set.clone(),
        }
    }

    /// Whether asking again soon is useless unless an operator acts.
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
