//! What shards send each other, written down a second time: for peers that say what they
//! like. See `host/cluster/src/message`.

use ostrakon_base::digest::Digest;
use ostrakon_protocol::{Batch, ClusterId, Epoch, Incarnation, Placement, Plan};
use serde::{Deserialize, Serialize};

/// A request with what every request says.
#[derive(Clone, Debug, Serialize)]
pub struct Envelope<R> {
    /// The sender's cluster.
    pub cluster: Option<ClusterId>,
    /// The process of the receiver's ordinal that the sender accepts.
    pub accepts: Option<Process>,
    /// The request.
    pub request: R,
}

/// A process of an ordinal.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Process {
    /// Its number.
    pub incarnation: Incarnation,
    /// Its store.
    pub store: u128,
}

/// Those requests that tests make up.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the host's have them")]
pub enum PeerRequest {
    Plan {},
    Schema {},
    UsePlan {
        plan: Plan,
    },
    Receive {
        plan: Plan,
        batch: Batch,
        schema: u32,
        partitions: Vec<()>,
    },
    Done {
        epoch: Epoch,
        progress: Option<()>,
    },
    Progress {},
    Survey {
        shards: u32,
        basis: Basis,
    },
    Generation {
        digest: Digest,
    },
    Accepted {},
    HasGiven {
        epoch: Epoch,
    },
}

/// Whose `owner` counts in a survey.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the host's have them")]
pub enum Basis {
    Kept { placement: Placement },
}

/// Those responses that tests look into or make up.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the host's have them")]
pub enum PeerResponse {
    Plan { plan: Option<Plan> },
    NotUnderstood { reason: String },
}

/// The bytes of a message.
///
/// # Panics
/// When it has none.
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    rmp_serde::to_vec_named(message).expect("it can be encoded")
}

/// The response of these bytes, if it is one of those.
pub fn decode(response: &[u8]) -> Option<PeerResponse> {
    rmp_serde::from_slice(response).ok()
}

/// The plan of a response.
///
/// # Panics
/// When it is another, or there is none.
pub fn plan_of(response: &[u8]) -> Plan {
    match decode(response) {
        Some(PeerResponse::Plan { plan: Some(plan) }) => plan,
        other => panic!("no plan: {other:?}"),
    }
}
