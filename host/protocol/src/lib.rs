//! Who owns which partition, and how partitions move when that changes: the
//! protocol among shards, as pure state machines.
//!
//! Nothing here has a clock, a socket, a file or a task. [`Shard`] decides for
//! one shard, [`Coordinator`] for all; the host feeds them with what happened
//! and does what they say, and so does the model checker in `model`.
//!
//! # The way of a partition from shard A to shard B
//!
//! 1. The coordinator's [`Plan`] says that partitions move: each has an owner
//!    under `from`, and one under `to`. It has a higher epoch than any before.
//! 2. A goes through its partitions in key order. Each step, one transaction in
//!    A's writer, advances the [`Cursor`]: those passed that have another owner
//!    under `to` are nobody's to write from then on, and a batch for that owner.
//! 3. The batch is sent to B until B acknowledges it. B applies it once, by its
//!    number, in one transaction; then A deletes what was in it.
//! 4. When A's cursor is at the end and its outboxes are empty, A reports that
//!    it is done. When all sources are, the coordinator's next plan is stable.
//!
//! # Who may answer for a partition
//!
//! A, while its cursor has not passed it; from then on B, once B has applied
//! all batches from A up to the one that was the last when the cursor passed.
//! B knows how far A's cursor is from A's batches and from what A tells those
//! who ask: see [`Shard::authority`].
//!
//! # What is not believed
//!
//! Whoever has what a peer shows can say anything. A number that no cluster comes to
//! is not taken, whoever says it: it would leave no number above it, and so no way
//! back. See [`Plan::may_follow`] and [`Shard::receive`]; of processes' numbers the
//! host sees to it, for that takes a clock.

mod coordinator;
mod listing;
mod plan;
mod shard;
mod tally;

#[cfg(test)]
mod tests;

pub use coordinator::Coordinator;
pub use listing::Moved;
pub use plan::{ClusterId, Cursor, Epoch, Incarnation, MAX_SHARDS, Ordinal, Placement, Plan};
pub use shard::{Authority, Batch, HandOff, Range, Received, Shard, Stopped};
pub use tally::{Counted, Tally};
