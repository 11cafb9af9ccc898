//! Deliberate mistakes: the simulation must find each.

use std::sync::Arc;

use ostrakon_contract::contract::Request;
use ostrakon_protocol::{Epoch, HandOff, Ordinal};
use ostrakon_shard::service::{Boxed, Forwarded, Gate, NoPart, Others, Part};
use tokio::time::Instant;

use super::super::Cluster;

/// A mistake in every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mistake {
    /// A batch, like everything else, is acknowledged before it is durable.
    AcknowledgesEarly,
    /// A source takes a batch for acknowledged before it is.
    ForgetsBatches,
    /// A forwarded write is retried although it may have been run.
    RepeatsWrites,
}

/// The other shards, as a process that repeats writes calls them.
#[derive(Debug)]
pub(super) struct Repeating(pub(super) Cluster);

impl Others for Repeating {
    fn gate(&self) -> &Gate {
        self.0.gate()
    }

    fn forward<'a>(
        &'a self,
        at: Ordinal,
        request: &'a Arc<Request>,
        hand_off: Option<HandOff>,
        until: Instant,
    ) -> Boxed<'a, Forwarded> {
        Box::pin(async move {
            match self.0.forward(at, request, hand_off, until).await {
                Forwarded::Unknown(why) => Forwarded::NotTaken(why),
                forwarded => forwarded,
            }
        })
    }

    fn hold(&self, at: Ordinal, until: Instant) -> Boxed<'_, Result<(), String>> {
        self.0.hold(at, until)
    }

    fn tell(&self, at: Ordinal, until: Instant) -> Boxed<'_, Result<Epoch, String>> {
        self.0.tell(at, until)
    }

    fn part<'a>(
        &'a self,
        at: Ordinal,
        request: &'a Arc<Request>,
        until: Instant,
    ) -> Boxed<'a, Result<Part, NoPart>> {
        self.0.part(at, request, until)
    }
}
