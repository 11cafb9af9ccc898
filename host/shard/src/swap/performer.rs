//! What a swap needs of the host: compiling, linking, checking, going live.

use std::time::Duration;

use ostrakon_contract::contract::Description;

use super::candidate::Candidate;
use super::machine::Step;

/// Why an action failed.
pub trait Failure: std::error::Error + Send + 'static {
    /// Whether the same action on the same content may succeed later.
    fn is_transient(&self) -> bool;
}

/// Performs the actions of a swap, one at a time.
///
/// Each gives the next what it made. One that fails has changed nothing, and
/// its error, with all its sources, is the reason that operators see. Its
/// futures may be dropped on shutdown, except `promote`'s.
pub trait Performer: Send + Sync + 'static {
    /// A compiled component; the live one's is kept for settings-only swaps.
    type Compiled: Clone + Send + Sync + 'static;
    /// A component that is found to fit the host.
    type Linked: Send + 'static;
    /// A generation that may go live.
    type Checked: Send + 'static;
    /// Why an action failed.
    type Error: Failure;

    /// Compiles the component, or finds it compiled, off the request path.
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

    /// Instantiates the guest with its settings and asks it: `describe`, then
    /// `check`.
    fn check(
        &self,
        candidate: &Candidate,
        linked: Self::Linked,
    ) -> impl Future<Output = Result<(Self::Checked, Description), Self::Error>> + Send;

    /// The schema of the stored data; none where nothing was stored yet.
    fn stored_schema(&self) -> Option<u32>;

    /// Puts the candidate in the live one's place, atomically, and gives its
    /// number; first, in the same transaction, lets it migrate the data from
    /// the schema `migrate_from`, if any.
    fn promote(
        &self,
        candidate: &Candidate,
        checked: Self::Checked,
        migrate_from: Option<u32>,
    ) -> impl Future<Output = Result<u64, Self::Error>> + Send;

    /// Counts a refusal.
    fn refused(&self, step: Step);

    /// Counts a generation that went live, so long after it was observed.
    fn went_live(&self, took: Duration);
}
