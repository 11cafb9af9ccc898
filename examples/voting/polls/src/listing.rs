//! Polls of all shards, the newest first, page by page.

use std::cmp::Reverse;

use ostrakon_guest::{Entry, Error, Part, Request, Response, Result, Shard};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Poll,
    poll::{POLL, is_id},
    votes::TALLY,
};

/// The number of polls in a page.
pub(crate) const PAGE: usize = 50;

/// A poll in a listing.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) id: String,
    #[serde(flatten)]
    pub(crate) poll: Poll,
    /// The first choices for each option.
    pub(crate) tally: Vec<u32>,
    /// Whether voters rank options. Version 1 does not know this field.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) ranked: bool,
}

/// One shard's polls of a page, or those of all.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Listing {
    pub(crate) polls: Vec<Summary>,
    /// Whether there are older ones.
    pub(crate) more: bool,
}

/// A position in the order of polls, the newest first: a time and an id.
type Position = (u64, String);

impl Summary {
    fn position(&self) -> Position {
        (self.poll.created, self.id.clone())
    }

    pub(crate) fn votes(&self) -> u32 {
        self.tally.iter().sum()
    }
}

impl Listing {
    /// The query of the next page; `None` for the last one.
    pub(crate) fn next(&self) -> Option<String> {
        let (created, id) = self.polls.last().filter(|_| self.more)?.position();
        Some(format!("before={created}-{id}"))
    }

    /// Sorts the polls, and keeps the first page.
    fn cut(&mut self) {
        self.polls
            .sort_by_cached_key(|poll| Reverse(poll.position()));
        self.more |= self.polls.len() > PAGE;
        self.polls.truncate(PAGE);
    }
}

/// This shard's part of a page.
pub(crate) fn part(request: &Request, ranked: bool) -> Result<Response> {
    let before = before(request)?;
    let shard = request.shard();
    let mut listing = Listing::default();
    for id in shard.partitions() {
        let Some(poll) = stored::<Poll>(shard, &id, POLL)? else {
            continue;
        };
        let tally = stored(shard, &id, TALLY)?.unwrap_or_else(|| vec![0; poll.options.len()]);
        let id = String::from_utf8_lossy(&id).into_owned();
        let summary = Summary {
            id,
            poll,
            tally,
            ranked,
        };
        if before
            .as_ref()
            .is_none_or(|before| summary.position() < *before)
        {
            listing.polls.push(summary);
        }
        // Few are held at a time, however many there are.
        if listing.polls.len() == 4 * PAGE {
            listing.cut();
        }
    }
    listing.cut();
    Ok(Response::json(&listing))
}

fn stored<T: DeserializeOwned>(shard: Shard, id: &[u8], key: &str) -> Result<Option<T>> {
    let value = shard.get(id, key);
    let entry = value.map(|value| Entry {
        key: key.into(),
        value,
    });
    entry.map(|entry| entry.json()).transpose()
}

/// The page, from the parts of all shards.
pub(crate) fn join(request: &Request, parts: Vec<Part>) -> Result<Listing> {
    before(request)?;
    let mut all = Listing::default();
    for part in parts {
        let Listing { polls, more } = part.json()?;
        all.polls.extend(polls);
        all.more |= more;
    }
    all.cut();
    Ok(all)
}

/// Before which poll the page begins.
fn before(request: &Request) -> Result<Option<Position>> {
    let Some(text) = request.query("before")? else {
        return Ok(None);
    };
    let parts = text.split_once('-').filter(|(_, id)| is_id(id));
    let position = parts.and_then(|(created, id)| Some((created.parse().ok()?, id.to_owned())));
    let malformed = || Error::bad_request("This page does not exist: begin with the newest polls.");
    position.map(Some).ok_or_else(malformed)
}
