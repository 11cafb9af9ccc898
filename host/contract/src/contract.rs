//! The types of the guest contract in plain Rust. The rest of the host uses only these.

use std::fmt;
use std::sync::OnceLock;

use bytes::Bytes;
use ostrakon_base::digest::Digest;
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
    /// Whether the reply to a write may leave before the write is durable.
    pub relaxed: bool,
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
    pub kept: Kept,
}

/// What a request keeps however often it is run. Nothing is chosen before a guest asks for it.
#[derive(Clone, Default)]
pub struct Kept {
    seed: OnceLock<Seed>,
    /// In nanoseconds since 1970.
    instant: OnceLock<u64>,
}

/// What the random bytes of a request are made of.
pub type Seed = [u8; 32];

impl Kept {
    /// What a shard keeps of a request that another shard has begun with.
    pub fn of(seed: Option<Seed>) -> Self {
        Self {
            seed: seed.map_or_else(OnceLock::new, OnceLock::from),
            instant: OnceLock::new(),
        }
    }

    /// The seed, if it is chosen.
    pub fn chosen_seed(&self) -> Option<Seed> {
        self.seed.get().copied()
    }

    /// The seed; chosen now if it is not yet.
    ///
    /// # Panics
    /// If the system has no random numbers.
    pub fn seed(&self) -> Seed {
        *self.seed.get_or_init(|| {
            let mut seed = [0; size_of::<Seed>()];
            getrandom::fill(&mut seed).expect("the system has random numbers");
            seed
        })
    }

    /// The request's instant in this shard; taken now if it is not yet.
    pub fn instant(&self, now: impl FnOnce() -> u64) -> u64 {
        *self.instant.get_or_init(now)
    }
}

/// Says nothing: who knows a seed knows the ids that a guest makes.
impl fmt::Debug for Kept {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Kept").finish_non_exhaustive()
    }
}

/// The generation that gave a part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The digest of its component and settings.
    pub digest: Digest,
    pub description: Description,
}

/// One shard's part of the answer to a request to all shards, as a guest joins it.
#[derive(Clone, Debug)]
pub struct Part {
    /// The shard's ordinal.
    pub shard: u32,
    pub reply: Reply,
    /// `None` if the shard's host is too old to say.
    pub origin: Option<Origin>,
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
