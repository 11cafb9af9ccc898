//! The voting service, version 2: voters rank options, and an instant run-off decides.

mod migration;
mod ranking;
mod run_off;

pub use ranking::Ranking;
pub use run_off::run_off;

pub type Voting = voting_polls::Voting<Ranking>;

ostrakon_guest::export!(Voting);
