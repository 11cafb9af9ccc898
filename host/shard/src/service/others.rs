//! The other shards, as requests see them.

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;

use ostrakon_contract::contract::{Reply, Request};
use ostrakon_protocol::{Epoch, HandOff, Moved, Ordinal};
use tokio::time::Instant;

/// A future that can be named.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The other shards.
pub trait Others: Debug + Send + Sync {
    /// Asks a shard to answer a request, and not to pass it on. It waits there no longer
    /// than until then, as it does for being sent; once it runs, it runs to its end.
    fn forward<'a>(
        &'a self,
        at: Ordinal,
        request: &'a Arc<Request>,
        hand_off: Option<HandOff>,
        until: Instant,
    ) -> Boxed<'a, Forwarded>;

    /// Asks a shard, be it this one, to keep its partitions for a moment, and
    /// waits until none is on its way from it; asks not after `until`. An error says
    /// why it does not, and of which shard.
    fn hold(&self, at: Ordinal, until: Instant) -> Boxed<'_, Result<(), String>>;

    /// Tells a shard this one's plan, which it goes by from then on, or by a
    /// later one, though not after `until`; gives the plan's number. An error says why
    /// it was not told.
    fn tell(&self, at: Ordinal, until: Instant) -> Boxed<'_, Result<Epoch, String>>;

    /// Asks a shard for its part of the answer to a request to all, though not after
    /// `until`.
    fn part<'a>(
        &'a self,
        at: Ordinal,
        request: &'a Arc<Request>,
        until: Instant,
    ) -> Boxed<'a, Result<Part, NoPart>>;
}

/// What a request that was passed on came to.
#[derive(Debug)]
pub enum Forwarded {
    /// The shard answered.
    Answered {
        /// The generation that did.
        generation: Option<u64>,
        /// The whole answer, whether of a guest or of the host.
        reply: Reply,
    },
    /// Nothing was run: the partition is another's.
    Elsewhere {
        /// Whose.
        at: Ordinal,
        /// What that one needs to know.
        hand_off: Option<HandOff>,
    },
    /// Nothing was run, and why: it can be asked again.
    NotTaken(String),
    /// It may have been run or not, and why that is not known.
    Unknown(String),
}

/// Why a shard gave no part of the answer to a request to all.
#[derive(Debug)]
pub enum NoPart {
    /// It could not, and why, and which shard: it can be asked again.
    Away(String),
    /// It refused, and would again: what the client is answered.
    Refused(Reply),
}

/// One shard's part of the answer to a request to all.
#[derive(Debug)]
pub struct Part {
    /// The shard.
    pub shard: Ordinal,
    /// What it had given and taken when it looked at its data.
    pub moved: Moved,
    /// What it says.
    pub reply: Reply,
}
