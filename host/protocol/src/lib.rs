//! The protocol by which shards agree on who owns which partition, and move partitions when the
//! owner changes. Pure state machines.
//!
//! Nothing here has a clock, a socket, a file or a task. [`Shard`] decides for one shard,
//! [`Coordinator`] for the cluster. The host feeds events to them and carries out their
//! decisions; the model checker in `model` does the same.
//!
//! # How a partition moves from shard A to shard B
//!
//! 1. The coordinator's [`Plan`] says which partitions move: each has an owner
//!    under `from`, and one under `to`. Its epoch is higher than any before.
//! 2. A goes through its partitions in key order. Each step is one transaction in
//!    A's writer and advances the [`Cursor`]. No shard may write the partitions that
//!    the cursor passed and that have another owner under `to`; they form a batch for
//!    that owner.
//! 3. A sends the batch to B until B acknowledges it. B applies it once, identified by
//!    its number, in one transaction; then A deletes the partitions in it.
//! 4. When A's cursor is at the end and its outboxes are empty, A reports that
//!    it is done. When all sources are done, the coordinator's next plan is stable.
//! # Who may answer for a partition
//!
//! A, while its cursor has not passed it. From then on B, once B has applied all batches from A
//! up to the last one that existed when the cursor passed. B learns the position of A's cursor
//! from A's batches, and from the hand-offs that A gives to askers: see [`Shard::authority`].
//!
//! # How all shards go over to another generation
//!
//! 1. The coordinator's volume shows a candidate, and every shard is asked to prepare it. One shard's
//!    refusal is the cluster's. A shard that says nothing for too long is left behind.
//! 2. The coordinator makes a [`Release`], goes live by it, and stores it in the same transaction.
//!    Only then does it tell others: a release that is told and not stored could be made again, for
//!    other content.
//! 3. Each shard goes live by the newest release that it knows, and stores it likewise. A shard
//!    that was left behind prepares first.
//! 4. A shard that starts serves nothing before it has asked the coordinator or, while that is away,
//!    the others. A release that was sent to an earlier process of it is no answer, and a coordinator
//!    answers only once it has itself asked all others, because its disk may be an older one.
//! 5. The coordinator goes on asking all others which release they know and saying which one it
//!    knows, so that neither it nor a shard that was left behind stays with an older one.
//!
//! A candidate may go live in steps. Then a release goes on naming what was live, with a [`Trial`]: the
//! share of the partitions that the candidate serves. Larger shares follow, each by a release of its
//! own, and then the candidate goes live. Where it fails, a shard refuses it, or the volume shows
//! something else, the next release ends the trial: what was live is live again, with a number above
//! the candidate's.
//!
//! Releases are no part of the plan. A plan must be followed by every shard before the next one is
//! made, because partitions depend on it; a shard that is away only misses a release. So neither has
//! to wait for the other.
//!
//! # What is not trusted
//!
//! Anyone with a peer's credentials can send anything. A number that no real cluster can reach is
//! rejected, whoever sends it: no number would be left above it, and so there would be no way
//! back. See [`Plan::may_follow`] and [`Shard::receive`]. The host bounds the numbers of
//! processes, since that takes a clock.

mod coordinator;
mod listing;
mod plan;
mod release;
mod rollout;
mod shard;
mod tally;

#[cfg(test)]
mod tests;

pub use coordinator::Coordinator;
pub use listing::Moved;
pub use plan::{ClusterId, Cursor, Epoch, Incarnation, MAX_SHARDS, Ordinal, Placement, Plan};
pub use release::{ALL, Generation, Release, Serving, Trial};
pub use rollout::{Attempt, Next, Refused, Rollout, Verdict};
pub use shard::{Authority, Batch, HandOff, Range, Received, Shard, Stopped};
pub use tally::{Counted, Tally};
