//! The votes of one poll, and how many voters prefer each option most.

use std::marker::PhantomData;

use ostrakon_guest::{Result, Store, collections::Map};

use crate::{Ballot, Poll};

/// The map of votes in a poll's partition, by voter.
pub const VOTES: &str = "votes";
/// The number of first choices of each option, kept in the transaction of each vote.
pub(crate) const TALLY: &str = "tally";

/// The votes of the request's poll.
#[derive(Debug)]
pub struct Votes<B> {
    store: Store,
    ballot: PhantomData<fn() -> B>,
}

impl<B: Ballot> Votes<B> {
    pub(crate) fn of(store: Store) -> Self {
        Self {
            store,
            ballot: PhantomData,
        }
    }

    /// The choices of a voter, the most preferred one first; empty if there is no vote.
    pub(crate) fn choices(&self, voter: &str) -> Result<Vec<u8>> {
        let vote = self.map().get(voter)?;
        Ok(vote.map(|vote| vote.choices()).unwrap_or_default())
    }

    /// Stores a voter's vote in place of any former one.
    pub(crate) fn cast(&self, poll: &Poll, voter: &str, ballot: &B) -> Result<()> {
        let votes = self.map();
        let mut tally = self.first_choices(poll)?;
        if let Some(former) = votes.get(voter)?
            && let Some(count) = first(&mut tally, &former)
        {
            *count = count.saturating_sub(1);
        }
        if let Some(count) = first(&mut tally, ballot) {
            *count += 1;
        }
        self.store.set_json(TALLY, &tally)?;
        votes.set(voter, ballot)
    }

    /// How many voters prefer each option most, in the poll's order.
    ///
    /// # Errors
    /// If what is stored cannot be read.
    pub fn first_choices(&self, poll: &Poll) -> Result<Vec<u32>> {
        let tally = self.store.get_json(TALLY)?;
        Ok(tally.unwrap_or_else(|| vec![0; poll.options.len()]))
    }

    /// All votes.
    pub fn ballots(&self) -> impl Iterator<Item = Result<B>> + use<B> {
        self.map().iter().map(|vote| vote.map(|(_, ballot)| ballot))
    }

    fn map(&self) -> Map<String, B> {
        self.store.map(VOTES)
    }
}

fn first<'a, B: Ballot>(tally: &'a mut [u32], ballot: &B) -> Option<&'a mut u32> {
    let option = *ballot.choices().first()?;
    tally.get_mut(usize::from(option))
}
