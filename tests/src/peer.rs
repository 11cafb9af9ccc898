//! A second definition of the messages between shards, for peers that send arbitrary messages. See
//! `host/cluster/src/message`.

use ostrakon_base::digest::Digest;
use ostrakon_protocol::{Batch, ClusterId, Epoch, Incarnation, Placement, Plan};
use serde::{Deserialize, Serialize};

/// A request with the fields that every request has.
#[derive(Clone, Debug, Serialize)]
pub struct Envelope<R> {
    pub cluster: Option<ClusterId>,
    /// The process of the receiver's ordinal that the sender accepts.
    pub accepts: Option<Process>,
    pub request: R,
}

/// A process of an ordinal.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Process {
    /// The number of the process.
    pub incarnation: Incarnation,
    /// The number of its store.
    pub store: u128,
}

/// The requests that tests make.
#[derive(Clone, Debug, Serialize)]
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

/// The placement or guest whose `owner` a survey uses.
#[derive(Clone, Debug, Serialize)]
pub enum Basis {
    Kept { placement: Placement },
}

/// The responses that tests read or make.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum PeerResponse {
    Plan { plan: Option<Plan> },
    NotUnderstood { reason: String },
}

/// The encoding of a message.
///
/// # Panics
/// When it cannot be encoded.
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    rmp_serde::to_vec_named(message).expect("the message can be encoded")
}

/// The response with this encoding, if it is one of these.
pub(crate) fn decode(response: &[u8]) -> Option<PeerResponse> {
    rmp_serde::from_slice(response).ok()
}

/// The plan in a response.
///
/// # Panics
/// When it is another response, or has no plan.
pub fn plan_of(response: &[u8]) -> Plan {
    match decode(response) {
        Some(PeerResponse::Plan { plan: Some(plan) }) => plan,
        other => panic!("no plan: {other:?}"),
    }
}
