//! The other shards, as this shard's requests use them.

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;

use ostrakon_contract::contract::{Origin, Reply, Request};
use ostrakon_protocol::{Epoch, HandOff, Moved, Ordinal};
use tokio::time::Instant;

use super::Gate;

/// A boxed future, so that its type can be named.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

pub trait Others: Debug + Send + Sync {
    /// Where this shard's clients' requests begin.
    fn gate(&self) -> &Gate;

    /// Asks a shard to answer a request without forwarding it. The request is sent, and waits
    /// at that shard, until `until` at the latest; once it runs, it runs to its end.
    fn forward<'a>(
        &'a self,
        at: Ordinal,
        request: &'a Arc<Request>,
        hand_off: Option<HandOff>,
        until: Instant,
    ) -> Boxed<'a, Forwarded>;

    /// Asks a shard, possibly this one, not to move its partitions for a moment, and waits
    /// until none is on its way from that shard, until `until` at the latest. The error names
    /// the shard and says why it does not hold its partitions.
    fn hold(&self, at: Ordinal, until: Instant) -> Boxed<'_, Result<(), String>>;

    /// Sends this shard's plan to a shard and waits until that shard follows it or a later
    /// plan, until `until` at the latest. Returns the number of the plan that the shard
    /// follows. The error says why the shard was not told.
    fn tell(&self, at: Ordinal, until: Instant) -> Boxed<'_, Result<Epoch, String>>;

    /// Asks a shard for its part of the answer to a request to all shards, until `until` at the
    /// latest.
    fn part<'a>(
        &'a self,
        at: Ordinal,
        request: &'a Arc<Request>,
        until: Instant,
    ) -> Boxed<'a, Result<Part, NoPart>>;
}

#[derive(Debug)]
pub enum Forwarded {
    Answered {
        /// The generation that answered, if any did.
        generation: Option<u64>,
        /// The whole reply, whether from a guest or from the host.
        reply: Reply,
    },
    /// Nothing was run: another shard owns the partition.
    Elsewhere {
        /// The owner.
        at: Ordinal,
        /// What the owner needs to know.
        hand_off: Option<HandOff>,
    },
    /// Nothing was run, for this reason. The shard can be asked again.
    NotTaken(String),
    /// The request may or may not have been run; the reason says why that is not known.
    Unknown(String),
}

/// Why a shard gave no part of the answer to a request to all shards.
#[derive(Debug)]
pub enum NoPart {
    /// The shard could not answer; the text names the shard and the reason. It can be asked
    /// again.
    Away(String),
    /// The shard refused, and would refuse again. The client gets this reply.
    Refused(Reply),
}

/// One shard's part of the answer to a request to all shards.
#[derive(Debug)]
pub struct Part {
    pub shard: Ordinal,
    /// What the shard had given and received when it read its data.
    pub moved: Moved,
    pub reply: Reply,
    /// What gave the reply; `None` if the shard's host is too old to say.
    pub origin: Option<Origin>,
}
