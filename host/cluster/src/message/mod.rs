//! The messages of shards to one another.
//!
//! A message is `MessagePack`, with its fields by name. A later version may add a field that
//! earlier ones can do without: those pass over it, and the later one has a default for it
//! (`#[serde(default)]`). It may add a request: earlier ones answer it with
//! [`PeerResponse::NotUnderstood`]. Whatever else changes takes a new version of the protocol.
//! Therefore each request and response is a map, even where it has no fields yet.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use ostrakon_base::digest::Digest;
use ostrakon_contract::client::Client;
use ostrakon_contract::contract::{self, Reply};
use ostrakon_observe::trace::{Open, TRACEPARENT, Tracer};
use ostrakon_protocol::{Batch, ClusterId, Epoch, HandOff, Incarnation, Moved, Placement, Plan};
use ostrakon_shard::survey::Owners;
use ostrakon_store::Whole;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::progress::Source;

/// The bytes of a message.
pub(super) fn encode(message: &impl Serialize) -> Bytes {
    let bytes = rmp_serde::to_vec_named(message);
    Bytes::from(bytes.expect("each message can be encoded"))
}

/// The message of these bytes.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, rmp_serde::decode::Error> {
    rmp_serde::from_slice(bytes)
}

/// A request with what every request says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Envelope<R> {
    /// The cluster that the sender belongs to; none while it knows of none.
    pub(super) cluster: Option<ClusterId>,
    /// The process of the receiver's ordinal that the sender accepts, if it knows of any:
    /// an earlier one does nothing.
    pub(super) accepts: Option<Process>,
    pub(super) request: R,
}

/// A process of an ordinal: its number, and its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) incarnation: Incarnation,
    pub(super) store: u128,
}

impl From<(Incarnation, u128)> for Process {
    fn from((incarnation, store): (Incarnation, u128)) -> Self {
        Self { incarnation, store }
    }
}

/// What one shard asks of another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum PeerRequest {
    /// To answer a client's request, and not to pass it on.
    Forward {
        request: ForwardedRequest,
        hand_off: Option<HandOff>,
        plan: Plan,
        /// For how many milliseconds it may wait there.
        wait_ms: u64,
    },
    /// The plan that it goes by.
    Plan {},
    /// To keep its partitions for a moment, until none is on its way.
    Hold {},
    /// Its part of the answer to a request to all.
    Part { request: ForwardedRequest },
    /// The schema of its data.
    Schema {},
    /// To go by this plan, unless it knows a newer one; and by which it goes.
    UsePlan { plan: Plan },
    /// To store the partitions of a batch, under this plan.
    Receive {
        plan: Plan,
        batch: Batch,
        schema: u32,
        partitions: Vec<Partition>,
    },
    /// To note that the sender is done with the plan of this epoch, and how.
    Done {
        epoch: Epoch,
        progress: Option<Source>,
    },
    /// How far it has come with the change under way.
    Progress {},
    /// Whose its partitions would be among so many shards.
    Survey { shards: u32, basis: Basis },
    /// The files of a generation.
    Generation { digest: Digest },
    /// Which process of the sender's ordinal it accepts.
    Accepted {},
    /// Whether it has given away all that it has to under the plan of this epoch.
    HasGiven { epoch: Epoch },
    /// From where peers have called it.
    Addresses {},
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum PeerResponse {
    /// The whole answer to a client.
    Answer {
        generation: Option<u64>,
        reply: ForwardedReply,
    },
    /// Nothing was run: the partition is not this shard's; whose it is.
    Elsewhere {
        at: u32,
        hand_off: Option<HandOff>,
        plan: Plan,
    },
    /// A part of the answer to a request to all.
    Part { moved: Moved, reply: ForwardedReply },
    /// There is no such part, and will be none; what the client is answered.
    PartRefused { reply: ForwardedReply },
    /// The schema of the data; none where there is none yet.
    Schema { schema: Option<u32> },
    /// Nothing was done: try again soon.
    Later { reason: String },
    /// Nothing was done: this version does not know the request.
    NotUnderstood { reason: String },
    /// The plan, if there is one.
    Plan { plan: Option<Plan> },
    /// How far the change has come; none where it is no source that knows of one.
    Progress { source: Option<Source> },
    /// How much of its data would be whose.
    Survey { owners: Owners },
    /// The batch of this number is stored.
    Acknowledged {
        /// Its number.
        number: u64,
        /// The next ones are to be smaller: requests waited for this one.
        was_long: bool,
    },
    /// It is done, or was before.
    Done {},
    /// Nothing was done: a process of the sender's ordinal with this number was
    /// heard of, and is accepted instead.
    Superseded { by: Incarnation },
    /// Nothing was done: this shard belongs to another cluster.
    Foreign { cluster: ClusterId },
    /// The generation's files, if they are here.
    Generation {
        files: Option<BTreeMap<String, Bytes>>,
    },
    /// The process of the sender's ordinal that is accepted, if any was heard of.
    Accepted { accepted: Option<Accepted> },
    /// Nothing was done: the sender accepts a later process of this ordinal.
    Outdated {},
    /// From where peers have called.
    Addresses { addresses: Vec<Address> },
}

/// A process that is accepted.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Accepted {
    pub(super) process: Process,
    /// For how many milliseconds it has said nothing to who is asked; none: it has never
    /// said anything to that process.
    pub(super) silent_ms: Option<u64>,
}

/// From where a peer has called.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Address {
    pub(super) ordinal: u32,
    pub(super) ip: IpAddr,
}

/// Whose `owner` counts in a survey.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Basis {
    /// That of a generation that some shard has.
    Kept { placement: Placement },
    /// That of a generation with these files, which is not to be kept.
    Trial { files: BTreeMap<String, Bytes> },
}

/// A partition on its way to another shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Partition {
    key: Bytes,
    /// Its entries as postcard has them: each byte string after its length. The smallest
    /// are many, and take little more than their bytes.
    entries: Bytes,
}

impl From<Whole> for Partition {
    fn from(whole: Whole) -> Self {
        let entries = postcard::to_stdvec(&whole.entries);
        Self {
            key: whole.partition.into(),
            entries: entries.expect("entries can be encoded").into(),
        }
    }
}

impl Partition {
    /// The partition; none if it is not one.
    pub(super) fn unpack(self) -> Option<Whole> {
        Some(Whole {
            partition: self.key.into(),
            entries: postcard::from_bytes(&self.entries).ok()?,
        })
    }
}

/// A client's request on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ForwardedRequest {
    method: String,
    path: String,
    headers: Vec<(String, Bytes)>,
    body: Bytes,
    /// What the sender knows the client by: its requests share what there is for one.
    /// Of one length, whatever the number, so that a message's is the same in each run.
    #[serde(with = "serde_bytes")]
    client: [u8; 8],
}

/// A reply on its way back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ForwardedReply {
    status: u16,
    headers: Vec<(String, Bytes)>,
    body: Bytes,
}

fn pack(headers: &HeaderMap) -> Vec<(String, Bytes)> {
    let headers = headers.iter();
    headers
        .map(|(name, value)| {
            let value = Bytes::copy_from_slice(value.as_bytes());
            (name.as_str().to_owned(), value)
        })
        .collect()
}

fn unpack(headers: Vec<(String, Bytes)>) -> Option<HeaderMap> {
    let mut unpacked = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let name = http::HeaderName::try_from(name).ok()?;
        unpacked.append(name, http::HeaderValue::from_maybe_shared(value).ok()?);
    }
    Some(unpacked)
}

impl ForwardedRequest {
    /// The request, to be sent within `span`.
    pub(super) fn new(request: &contract::Request, span: Option<&Open>) -> Self {
        let mut headers = pack(&request.headers);
        if let Some(parent) = request.trace.header(span) {
            headers.retain(|(name, _)| name != TRACEPARENT.as_str());
            let value = Bytes::copy_from_slice(parent.as_bytes());
            headers.push((TRACEPARENT.as_str().to_owned(), value));
        }
        Self {
            method: request.method.as_str().to_owned(),
            path: request.path.clone(),
            headers,
            body: request.body.clone(),
            client: request.client.number().to_be_bytes(),
        }
    }

    /// What the sender knows the client by.
    pub(super) fn client(&self) -> u64 {
        u64::from_be_bytes(self.client)
    }

    /// The request of a client, and the span of answering it here, if it is recorded; none if it
    /// is none.
    pub(super) fn unpack(
        self,
        tracer: &Tracer,
        client: Client,
    ) -> Option<(contract::Request, Option<Open>)> {
        let headers = unpack(self.headers)?;
        let (trace, span) = tracer.begin(&headers, "answer for a peer");
        let request = contract::Request {
            method: self.method.parse().ok()?,
            path: self.path,
            headers,
            body: self.body,
            trace,
            client,
        };
        Some((request, span))
    }
}

impl ForwardedReply {
    pub(super) fn new(status: StatusCode, headers: &HeaderMap, body: Bytes) -> Self {
        Self {
            status: status.as_u16(),
            headers: pack(headers),
            body,
        }
    }

    pub(super) fn of(reply: &Reply) -> Self {
        Self::new(reply.status, &reply.headers, reply.body.clone())
    }

    /// The reply; none if it is not one.
    pub(super) fn unpack(self) -> Option<Reply> {
        Some(Reply {
            status: StatusCode::from_u16(self.status).ok()?,
            headers: unpack(self.headers)?,
            body: self.body,
            discard: false,
        })
    }
}
