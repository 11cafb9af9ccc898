//! The types of the guest contract in plain Rust. The rest of the host uses only these.

use bytes::Bytes;
use ostrakon_observe::metrics;
use ostrakon_observe::trace::Trace;

use crate::client::Client;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The guest's name, for display.
    pub name: String,
    /// The guest's version, for display.
    pub version: String,
    /// The version of the guest's `owner` function.
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

/// Which shard answers a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The owner of the partition with this key.
    Partition(Vec<u8>),
    /// The shard that received the request.
    Here,
    /// Every shard; `gather` joins their replies.
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

/// The result of a guest's `route`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub target: Target,
    pub access: Access,
}

/// A request as a guest sees it.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: http::Method,
    /// The path and query as sent, percent-encoded, beginning with `/`.
    pub path: String,
    pub headers: http::HeaderMap,
    pub body: Bytes,
    /// The trace that the request belongs to, if any; a guest does not see it.
    pub trace: Trace,
    /// The connection that the request came from; a guest does not see it.
    pub client: Client,
}

/// A guest's response after validation: it can be sent unchanged.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status, 200..=599.
    pub status: http::StatusCode,
    pub headers: http::HeaderMap,
    pub body: Bytes,
    /// Whether the request's writes are to be discarded.
    pub discard: bool,
}
