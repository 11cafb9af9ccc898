//! What shards ask of each other.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use ostrakon_base::digest::Digest;
use ostrakon_contract::client::Client;
use ostrakon_contract::contract::{Reply, Request};
use ostrakon_observe::trace::{Open, TRACEPARENT, Tracer};
use ostrakon_protocol::{Batch, ClusterId, Epoch, Incarnation, Moved, Passed, Placement, Plan};
use ostrakon_shard::survey::Owners;
use ostrakon_store::Whole;
use serde::{Deserialize, Serialize};

use super::progress::Source;

/// What is sent to ask something.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Asked<A> {
    /// The cluster that the sender belongs to; none while it knows of none.
    pub(super) cluster: Option<ClusterId>,
    /// The process of the receiver's ordinal that the sender heeds, if it knows of any: an
    /// earlier one does nothing.
    pub(super) heeds: Option<Process>,
    pub(super) ask: A,
}

/// The number of a process, and its store.
pub(super) type Process = (Incarnation, u128);

/// What one shard asks of another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// To answer a client's request, and not to pass it on.
    Forward {
        request: ForwardedRequest,
        told: Option<Passed>,
        plan: Plan,
        /// For how many milliseconds it may wait there.
        within: u64,
    },
    /// The plan that it goes by.
    Plan,
    /// To keep its partitions for a moment, until none is on its way.
    Hold,
    /// Its part of the answer to a request to all.
    Part(ForwardedRequest),
    /// The schema of its data.
    Schema,
    /// To go by this plan, unless it knows a newer one; and by which it goes.
    Learn(Plan),
    /// To store the partitions of a batch, under this plan.
    Receive {
        plan: Plan,
        batch: Batch,
        schema: u32,
        partitions: Vec<Whole>,
    },
    /// To note that the sender is done with the plan of this epoch, and how.
    Done(Epoch, Option<Source>),
    /// How far it has come with the change under way.
    Progress,
    /// Whose its partitions would be among so many shards.
    Survey { shards: u32, basis: Basis },
    /// The files of a generation.
    Generation(Digest),
    /// Which process of the sender's ordinal it heeds.
    Heeded,
    /// Whether it has given away all that it has to under the plan of this epoch.
    HasGiven(Epoch),
    /// From where peers have called it.
    Addresses,
}

/// What is said to that.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Said {
    /// The whole answer to a client.
    Answer {
        generation: Option<u64>,
        reply: ForwardedReply,
    },
    /// Nothing was run: the partition is not this shard's; whose it is.
    Elsewhere {
        at: u32,
        passed: Option<Passed>,
        plan: Plan,
    },
    /// A part of the answer to a request to all.
    Part { moved: Moved, reply: ForwardedReply },
    /// The schema of the data; none where there is none yet.
    Schema(Option<u32>),
    /// Nothing was done: try again soon.
    Later(String),
    /// The plan, if there is one.
    Plan(Option<Plan>),
    /// How far the change has come; none where it is no source that knows of one.
    Progress(Option<Source>),
    /// How much of its data would be whose.
    Survey(Owners),
    /// The batch of this number is stored.
    Acknowledged {
        /// Its number.
        number: u64,
        /// The next ones are to be smaller: requests waited for this one.
        was_long: bool,
    },
    /// It is done, or was before.
    Done,
    /// Nothing was done: a process of the sender's ordinal with this number was
    /// heard of, and is to be heeded instead.
    Superseded(Incarnation),
    /// Nothing was done: this shard belongs to another cluster.
    Foreign(ClusterId),
    /// The generation's files, if they are here.
    Generation(Option<BTreeMap<String, Vec<u8>>>),
    /// The process of the sender's ordinal that is heeded, if any was heard of.
    Heeded(Option<Heeded>),
    /// Nothing was done: the sender heeds a later process of this ordinal.
    Past,
    /// From where peers have called, by their ordinals.
    Addresses(Vec<(u32, IpAddr)>),
}

/// A process that is heeded.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Heeded {
    pub(super) process: Process,
    /// For how long it has said nothing to who is asked; none: it has never said
    /// anything to that process.
    pub(super) silent: Option<Duration>,
}

/// Whose `owner` counts in a survey.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Basis {
    /// That of a generation that some shard has.
    Kept(Placement),
    /// That of a generation with these files, which is not to be kept.
    Trial(BTreeMap<String, Vec<u8>>),
}

/// A client's request on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ForwardedRequest {
    method: String,
    path: String,
    headers: Vec<(String, Bytes)>,
    body: Bytes,
    /// What the sender knows the client by: its requests share what there is for one.
    /// Of one length, whatever the number.
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
    pub(super) fn new(request: &Request, span: Option<&Open>) -> Self {
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
    pub(super) fn unpack(self, tracer: &Tracer, client: Client) -> Option<(Request, Option<Open>)> {
        let headers = unpack(self.headers)?;
        let (trace, span) = tracer.begin(&headers, "answer for a peer");
        let request = Request {
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

#[cfg(test)]
mod tests {
    use ostrakon_store::Whole;

    /// The bound on a partition's bytes is half of a message's: this is why.
    #[test]
    fn a_partition_of_the_smallest_entries_takes_less_than_twice_its_bytes() {
        let key = |number: u32| number.to_be_bytes()[1..].to_vec();
        let entries: Vec<_> = (0..300_000).map(|at| (key(at), Vec::new())).collect();
        let bytes = entries.len() * 3;
        let partition = Whole {
            partition: vec![b'p'; 1024],
            entries,
        };
        let message = postcard::to_stdvec(&[partition]).unwrap();
        assert!(
            message.len() < 2 * bytes - 65_536,
            "{} for {bytes}",
            message.len()
        );
    }
}
