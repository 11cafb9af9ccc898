//! What a vote is.

use ostrakon_guest::{Migration, Result};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Outcome, Poll, Votes};

/// A vote as it is stored. Options are numbered from 0, in the poll's order.
pub trait Ballot: Serialize + DeserializeOwned + 'static {
    /// The service's version.
    const VERSION: &'static str;

    /// The version of the stored data's layout.
    const SCHEMA: u32;

    /// Whether a voter ranks several options.
    const RANKED: bool;

    /// A vote for these options of the poll, the most preferred one first. There can be none.
    ///
    /// # Errors
    /// A text for the voter that says what to change.
    fn new(poll: &Poll, choices: &[u8]) -> Result<Self, String>;

    /// The options, the most preferred one first.
    fn choices(&self) -> Vec<u8>;

    /// The fields of the form, with these options chosen. They are named `choice`, in the order of preference.
    fn fields(poll: &Poll, chosen: &[u8]) -> String;

    /// Who wins, and how.
    ///
    /// # Errors
    /// If the stored votes cannot be read.
    fn outcome(poll: &Poll, votes: Votes<Self>) -> Result<Outcome>;

    /// Converts the stored votes of an older schema.
    ///
    /// # Errors
    /// A text for people.
    fn migrate(from: u32, shard: &Migration) -> Result<(), String>;
}
