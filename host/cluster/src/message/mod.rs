//! The messages between shards.
//!
//! A message is `MessagePack`, with its fields by name. A later version may add a field that
//! earlier versions can do without: those ignore it, and the later version has a default for it
//! (`#[serde(default)]`). It may add a request: earlier versions answer it with
//! [`PeerResponse::NotUnderstood`]. Any other change needs a new version of the protocol.
//! Therefore each request and response is a map, even one without fields.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use ostrakon_base::digest::Digest;
use ostrakon_contract::client::Client;
use ostrakon_contract::contract::{self, Kept, Reply};
use ostrakon_observe::trace::{Open, Operation, TRACEPARENT, Tracer};
use ostrakon_protocol::{Attempt, Release, Verdict};
use ostrakon_protocol::{Batch, ClusterId, Epoch, HandOff, Incarnation, Moved, Placement, Plan};
use ostrakon_shard::bake::Served;
use ostrakon_shard::survey::Owners;
use ostrakon_store::Whole;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::progress::Source;
use crate::rehearsing::Terms;

pub(super) fn encode(message: &impl Serialize) -> Bytes {
    let bytes = rmp_serde::to_vec_named(message);
    Bytes::from(bytes.expect("each message can be encoded"))
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, rmp_serde::decode::Error> {
    rmp_serde::from_slice(bytes)
}

/// A duration in milliseconds, as messages carry it.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a field so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A request with the fields that every request has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Envelope<R> {
    /// The cluster that the sender belongs to; `None` while the sender knows of none.
    pub(super) cluster: Option<ClusterId>,
    /// The process of the receiver's ordinal that the sender accepts, if it knows of any: an
    /// earlier process must do nothing.
    pub(super) accepts: Option<Process>,
    pub(super) request: R,
}

/// A process of an ordinal: its number and its store.
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

/// A request of one shard to another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum PeerRequest {
    /// Answer a client's request, without forwarding it.
    Forward {
        request: ForwardedRequest,
        hand_off: Option<HandOff>,
        plan: Plan,
        /// How many milliseconds the request may wait there.
        wait_ms: u64,
    },
    /// Report the plan that the receiver follows.
    Plan {},
    /// Hold the receiver's partitions for a moment, until none is on its way.
    Hold {},
    /// Answer the receiver's part of a request to all shards.
    Part { request: ForwardedRequest },
    /// Report the schema of the receiver's data.
    Schema {},
    /// Follow this plan, unless the receiver knows a newer one, and report the plan followed.
    UsePlan { plan: Plan },
    /// Store the partitions of a batch, under this plan.
    Receive {
        plan: Plan,
        batch: Batch,
        schema: u32,
        partitions: Vec<Partition>,
    },
    /// Note that the sender has finished the plan of this epoch, and with what outcome.
    Done {
        epoch: Epoch,
        progress: Option<Source>,
    },
    /// Report the receiver's progress with the change under way.
    Progress {},
    /// Survey who would own the receiver's partitions among this many shards.
    Survey { shards: u32, basis: Basis },
    /// Send the files of a generation.
    Generation { digest: Digest },
    /// Report which process of the sender's ordinal the receiver accepts.
    Accepted {},
    /// Report whether the receiver has given away everything that the plan of this epoch takes
    /// from it.
    HasGiven { epoch: Epoch },
    /// Report the addresses from which peers have called the receiver.
    Addresses {},
    /// Report which release the receiver knows, and what it says of a candidate.
    Releases {},
    /// Ask the sender for its releases: there is something new.
    News {},
    /// Let no client's request begin, for this many milliseconds at most, until the candidate is live,
    /// and report when none is under way; only shard 0 asks for it.
    HoldRequests {
        candidate: Candidate,
        /// The number of this hold, in the sender's process.
        hold: u64,
        within_ms: u64,
    },
    /// Report whether the sender is to go on holding requests for the candidate.
    IsHeld { candidate: Candidate, hold: u64 },
    /// Let requests begin again that are held for the candidate: it does not go live now.
    LetRequests { candidate: Candidate, hold: u64 },
    /// Try content with the receiver's live requests, and report what was found.
    Rehearse {
        files: BTreeMap<String, Bytes>,
        terms: Terms,
    },
    /// Report what the receiver has answered by these generations, and by which release it serves.
    Served { generations: Vec<u64> },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum PeerResponse {
    /// The whole answer to a client.
    Answer {
        generation: Option<u64>,
        reply: ForwardedReply,
    },
    /// Nothing was run: the partition has this other owner.
    Elsewhere {
        at: u32,
        hand_off: Option<HandOff>,
        plan: Plan,
    },
    /// A part of the answer to a request to all shards.
    Part {
        moved: Moved,
        reply: ForwardedReply,
        /// What gave it; missing from hosts of older versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<Origin>,
    },
    /// There is no such part, and will be none; the client gets this reply.
    PartRefused { reply: ForwardedReply },
    /// The schema of the data; `None` where there is none yet.
    Schema { schema: Option<u32> },
    /// Nothing was done: try again soon.
    Later { reason: String },
    /// Nothing was done: this version does not know the request.
    NotUnderstood { reason: String },
    /// The plan that this shard follows, if there is one.
    Plan { plan: Option<Plan> },
    /// The progress of the change; `None` where this shard is no source that knows of one.
    Progress { source: Option<Source> },
    /// How much of its data each shard would own.
    Survey { owners: Owners },
    /// The batch is stored.
    Acknowledged {
        number: u64,
        /// Whether the next batches are to be smaller, because requests waited for this one.
        was_long: bool,
        /// For how many milliseconds no more partitions are to come, because requests do; missing
        /// from hosts of older versions.
        #[serde(default, skip_serializing_if = "is_zero")]
        rest_ms: u64,
    },
    /// The request is done, or was done before.
    Done {},
    /// Nothing was done: the process of the sender's ordinal with this number is accepted
    /// instead.
    Superseded { by: Incarnation },
    /// Nothing was done: this shard belongs to another cluster.
    Foreign { cluster: ClusterId },
    /// The generation's files, if they are here.
    Generation {
        files: Option<BTreeMap<String, Bytes>>,
    },
    /// The accepted process of the sender's ordinal, if any is known.
    Accepted { accepted: Option<Accepted> },
    /// Nothing was done: the sender accepts a later process of this ordinal.
    Outdated {},
    /// The addresses from which peers have called.
    Addresses { addresses: Vec<Address> },
    /// The releases and candidates, as the responding shard knows them.
    Releases {
        /// The newest release.
        known: Option<Release>,
        /// Whether the responding process knows what other shards know, or that they cannot be asked.
        has_asked: bool,
        /// What is to go live in all shards; only shard 0 says so.
        candidate: Option<Candidate>,
        /// What the responding shard says of the candidate that it was last told of.
        said: Option<Said>,
        /// Whether the candidate has served before, and an operator goes back to it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        goes_back: bool,
    },
    /// What trying content has found, as JSON.
    Rehearsed { findings: String },
    /// What was answered by each of the generations, where that is known.
    Served {
        release: Option<Release>,
        served: Vec<Option<Served>>,
    },
}

/// Content that is to go live in all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Candidate {
    pub(super) digest: Digest,
    /// The process of shard 0 that says so, and the number of its candidate: the same content can be
    /// tried again.
    pub(super) by: Incarnation,
    pub(super) attempt: Attempt,
}

/// What a shard says of a candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Said {
    pub(super) candidate: Candidate,
    pub(super) says: Says,
    /// The step at which it is refused or fails.
    pub(super) step: Option<String>,
    /// Why, for people.
    pub(super) reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Says {
    Prepared,
    Refused,
    /// It will be tried again by itself.
    Failing,
}

impl Says {
    /// What the protocol knows of it.
    pub(super) fn verdict(self) -> Option<Verdict> {
        match self {
            Self::Prepared => Some(Verdict::Prepared),
            Self::Refused => Some(Verdict::Refused),
            Self::Failing => None,
        }
    }
}

/// The process of an ordinal that the responding process accepts.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Accepted {
    pub(super) process: Process,
    /// For how many milliseconds it has said nothing to the responding process; `None` if it
    /// has never said anything to it.
    pub(super) silent_ms: Option<u64>,
}

/// The address from which a peer has called.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Address {
    pub(super) ordinal: u32,
    pub(super) ip: IpAddr,
}

/// Whose `owner` counts in a survey.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Basis {
    /// The `owner` of a generation that some shard has.
    Kept { placement: Placement },
    /// The `owner` of a generation with these files, which is not to be kept.
    Trial { files: BTreeMap<String, Bytes> },
}

/// A partition on its way to another shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Partition {
    key: Bytes,
    /// The entries as postcard encodes them: each byte string after its length. The smallest
    /// entries are many, and take little more than their bytes.
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
    /// The partition; `None` if the bytes do not form one.
    pub(super) fn unpack(self) -> Option<Whole> {
        Some(Whole {
            partition: self.key.into(),
            entries: postcard::from_bytes(&self.entries).ok()?,
        })
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ForwardedRequest {
    method: String,
    path: String,
    headers: Vec<(String, Bytes)>,
    body: Bytes,
    /// The sender's identifier of the client: all its requests share the limits of one client.
    /// Its length is fixed, so that a message has the same length in each run.
    #[serde(with = "serde_bytes")]
    client: [u8; 8],
    /// What the guest's random bytes are made of, if it has asked for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seed: Option<Bytes>,
    /// The number of the generation that the sender serves, if no request for an earlier one is to
    /// run any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at_least: Option<u64>,
}

/// The generation that gave a part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Origin {
    digest: Digest,
    name: String,
    version: String,
    sharding: u32,
    schema: u32,
}

impl From<contract::Origin> for Origin {
    fn from(origin: contract::Origin) -> Self {
        let description = origin.description;
        Self {
            digest: origin.digest,
            name: description.name,
            version: description.version,
            sharding: description.sharding,
            schema: description.schema,
        }
    }
}

impl From<Origin> for contract::Origin {
    fn from(origin: Origin) -> Self {
        Self {
            digest: origin.digest,
            description: contract::Description {
                name: origin.name,
                version: origin.version,
                sharding: origin.sharding,
                schema: origin.schema,
            },
        }
    }
}

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
    /// The message for a request, to be sent within `span`. If it is to run on no generation before
    /// one, `at_least` has that one's number.
    pub(super) fn new(
        request: &contract::Request,
        span: Option<&Open>,
        at_least: Option<u64>,
    ) -> Self {
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
            seed: request
                .kept
                .chosen_seed()
                .map(|seed| Bytes::copy_from_slice(&seed)),
            at_least,
        }
    }

    pub(super) fn at_least(&self) -> Option<u64> {
        self.at_least
    }

    /// The sender's identifier of the client.
    pub(super) fn client(&self) -> u64 {
        u64::from_be_bytes(self.client)
    }

    /// The client's request, and the span of answering it here, if it is recorded; `None` if
    /// the message does not form a request.
    pub(super) fn unpack(
        self,
        tracer: &Tracer,
        client: Client,
    ) -> Option<(contract::Request, Option<Open>)> {
        let headers = unpack(self.headers)?;
        let seed = match self.seed {
            Some(seed) => Some(<[u8; 32]>::try_from(&*seed).ok()?),
            None => None,
        };
        let (trace, span) = tracer.begin(&headers, Operation::AnswerForAPeer);
        let request = contract::Request {
            method: self.method.parse().ok()?,
            path: self.path,
            headers,
            body: self.body,
            trace,
            client,
            kept: Kept::of(seed),
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

    /// The reply; `None` if the message does not form one.
    pub(super) fn unpack(self) -> Option<Reply> {
        Some(Reply {
            status: StatusCode::from_u16(self.status).ok()?,
            headers: unpack(self.headers)?,
            body: self.body,
            discard: false,
        })
    }
}
