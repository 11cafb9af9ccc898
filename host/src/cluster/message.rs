//! What shards ask of each other.

use std::collections::BTreeMap;

use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use crate::contract::{Reply, Request};
use crate::digest::Digest;
use crate::store::Position;
use crate::topology::{Batch, Epoch, Passed, Plan};

/// What one shard asks of another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// To answer a client's request, and not to pass it on.
    Forward {
        request: ForwardedRequest,
        told: Option<Passed>,
        plan: Plan,
    },
    /// The plan that it goes by.
    Plan,
    /// Its part of the answer to an `everywhere` request.
    Part(ForwardedRequest),
    /// To go by this plan.
    Learn(Plan),
    /// To store the partitions of a batch, under this plan.
    Receive {
        plan: Plan,
        batch: Batch,
        schema: u32,
        entries: Vec<(Position, Vec<u8>)>,
    },
    /// To note that the sender is done with the plan of this epoch.
    Done(Epoch),
    /// The files of a generation.
    Generation(Digest),
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
    /// A part of the answer to an `everywhere` request.
    Part {
        epoch: Epoch,
        is_whole: bool,
        reply: ForwardedReply,
    },
    /// Nothing was done: try again soon.
    Later(String),
    /// The plan, if there is one.
    Plan(Option<Plan>),
    /// The batch of this number is stored.
    Acknowledged(u64),
    /// It is done, or was before.
    Done,
    /// The generation's files, if they are here.
    Generation(Option<BTreeMap<String, Vec<u8>>>),
}

/// A client's request on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ForwardedRequest {
    method: String,
    path: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// A reply on its way back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ForwardedReply {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

fn pack(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let headers = headers.iter();
    headers
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect()
}

fn unpack(headers: Vec<(String, Vec<u8>)>) -> Option<HeaderMap> {
    let mut unpacked = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let name = http::HeaderName::try_from(name).ok()?;
        unpacked.append(name, http::HeaderValue::try_from(value).ok()?);
    }
    Some(unpacked)
}

impl ForwardedRequest {
    pub(super) fn new(request: &Request) -> Self {
        Self {
            method: request.method.as_str().to_owned(),
            path: request.path.clone(),
            headers: pack(&request.headers),
            body: request.body.to_vec(),
        }
    }

    /// The request; none if it is not one.
    pub(super) fn unpack(self) -> Option<Request> {
        Some(Request {
            method: self.method.parse().ok()?,
            path: self.path,
            headers: unpack(self.headers)?,
            body: self.body.into(),
        })
    }
}

impl ForwardedReply {
    pub(super) fn new(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        Self {
            status: status.as_u16(),
            headers: pack(headers),
            body: body.to_vec(),
        }
    }

    pub(super) fn of(reply: &Reply) -> Self {
        Self::new(reply.status, &reply.headers, &reply.body)
    }

    /// The reply; none if it is not one.
    pub(super) fn unpack(self) -> Option<Reply> {
        Some(Reply {
            status: StatusCode::from_u16(self.status).ok()?,
            headers: unpack(self.headers)?,
            body: self.body.into(),
            discard: false,
        })
    }
}
