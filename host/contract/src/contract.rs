//! The contract's types in plain Rust: what the rest of the host knows of a guest.

use bytes::Bytes;
use ostrakon_observe::metrics;
use ostrakon_observe::trace::Trace;

use crate::client::Client;

/// What a guest says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The guest's name, for people.
    pub name: String,
    /// The guest's version, for people.
    pub version: String,
    /// The version of the owner function.
    pub sharding: u32,
    /// The version of the stored data's layout.
    pub schema: u32,
}

/// What a request may do to the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reads the last durable commit, in parallel with everything else.
    Read,
    /// Runs alone in the writer, after all writes before it.
    Write,
}

/// Where a request is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// By the owner of the partition with this key.
    Partition(Vec<u8>),
    /// By the shard that got the request.
    Here,
    /// By each shard, joined by `gather`.
    Everywhere,
}

impl From<&Target> for metrics::Target {
    fn from(target: &Target) -> Self {
        match target {
            Target::Partition(_) => Self::Partition,
            Target::Here => Self::Here,
            Target::Everywhere => Self::Everywhere,
        }
    }
}

impl From<Access> for metrics::Access {
    fn from(access: Access) -> Self {
        match access {
            Access::Read => Self::Read,
            Access::Write => Self::Write,
        }
    }
}

/// What a guest's `route` decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where the request is answered.
    pub target: Target,
    /// What it may do to the data.
    pub access: Access,
}

/// A request as a guest sees it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method as sent.
    pub method: http::Method,
    /// The path and query as sent, percent-encoded, beginning with `/`.
    pub path: String,
    /// All headers.
    pub headers: http::HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The trace that it is part of, if any; a guest does not see it.
    pub trace: Trace,
    /// Whose it is; a guest does not see it.
    pub client: Client,
}

/// A guest's response, checked: it can be sent as it is.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status, 200..=599.
    pub status: http::StatusCode,
    /// The guest's headers.
    pub headers: http::HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// Whether what the request wrote is to be dropped.
    pub discard: bool,
}
