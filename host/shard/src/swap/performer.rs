//! What a swap asks of the host: compiling, linking, checking, promoting.

use std::time::Duration;

use super::candidate::Candidate;
use super::machine::Refusal;
use ostrakon_base::digest::Digest;
use ostrakon_contract::contract::Description;

/// An error of an action.
pub trait Failure: std::error::Error + Send + 'static {
    /// Whether the same action on the same content may succeed later.
    fn is_transient(&self) -> bool;
}

/// Performs the actions of a swap, one at a time.
///
/// Each action makes the input of the next. A failed action has changed nothing; its error,
/// with all its sources, is the reason that operators see. The futures may be dropped on
/// shutdown, except that of `promote`.
pub trait Performer: Send + Sync + 'static {
    /// A compiled component. The live one is kept for swaps that change only settings.
    type Compiled: Clone + Send + Sync + 'static;
    /// A component that fits the host's imports and exports.
    type Linked: Send + 'static;
    /// A generation that may go live.
    type Checked: Send + 'static;
    /// The permission to go live. Dropping it gives it up.
    type Agreed: Send + 'static;
    type Error: Failure;

    /// Notes that a candidate is verified, and that its other actions follow.
    fn begins(&self, candidate: &Candidate);

    /// Notes that the content which is live is shown.
    fn shows_live(&self, digest: Digest);

    /// Compiles the component, or finds it in the cache, off the request path.
    fn compile(
        &self,
        candidate: &Candidate,
    ) -> impl Future<Output = Result<Self::Compiled, Self::Error>> + Send;

    /// Matches the component's imports and exports with the host's.
    fn link(
        &self,
        candidate: &Candidate,
        compiled: Self::Compiled,
    ) -> impl Future<Output = Result<Self::Linked, Self::Error>> + Send;

    /// Instantiates the guest with its settings and calls `describe`, then `check`.
    fn check(
        &self,
        candidate: &Candidate,
        linked: Self::Linked,
    ) -> impl Future<Output = Result<(Self::Checked, Description), Self::Error>> + Send;

    /// Tries live requests with the candidate, if that is wanted and there is a live generation.
    fn rehearse(
        &self,
        candidate: &Candidate,
        checked: Self::Checked,
        migrate_from: Option<u32>,
    ) -> impl Future<Output = Result<Self::Checked, Self::Error>> + Send;

    /// Waits until the shard may go live with the candidate, which is prepared. It may serve some of
    /// the partitions meanwhile.
    fn agree(
        &self,
        candidate: &Candidate,
        checked: Self::Checked,
    ) -> impl Future<Output = Result<(Self::Checked, Self::Agreed), Self::Error>> + Send;

    /// The schema of the stored data; `None` if nothing has been stored yet.
    fn stored_schema(&self) -> Option<u32>;

    /// Replaces the live generation with the candidate, atomically, and returns its number.
    /// Where `migrate_from` is given, the candidate first migrates the data from that schema,
    /// in the same transaction.
    fn promote(
        &self,
        candidate: &Candidate,
        checked: Self::Checked,
        agreed: Self::Agreed,
        migrate_from: Option<u32>,
    ) -> impl Future<Output = Result<u64, Self::Error>> + Send;

    /// Notes a refusal.
    fn refused(&self, refusal: &Refusal);

    /// Counts a generation that went live this long after it was observed.
    fn went_live(&self, took: Duration);
}
