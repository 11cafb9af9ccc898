//! Requests and responses in JSON, for programs.

use std::time::Duration;

use ostrakon_guest::{Request, Response, Result, time};
use serde::{Deserialize, Serialize};

use crate::{
    Outcome, Poll,
    listing::Listing,
    poll::{Draft, is_past},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPoll {
    question: String,
    options: Vec<String>,
    #[serde(default)]
    closes: Option<String>,
}

/// The poll in a request's body, not yet checked.
pub(crate) fn draft(request: &Request) -> Result<Draft> {
    let NewPoll {
        question,
        options,
        closes,
    } = request.json()?;
    Ok(Draft {
        question,
        options,
        closes: closes.unwrap_or_default(),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewVote {
    choices: Vec<u8>,
}

/// The options that a request's body names, the most preferred one first.
pub(crate) fn choices(request: &Request, poll: &Poll) -> Result<Vec<u8>> {
    let NewVote { choices } = request.json()?;
    poll.checked(choices)
}

#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    question: &'a str,
    options: &'a [String],
    created: String,
    closes: Option<String>,
    closed: bool,
    votes: u32,
}

impl<'a> Shown<'a> {
    fn new(id: &'a str, poll: &'a Poll, votes: u32, now: Duration) -> Self {
        let text = |millis| time::rfc3339(Duration::from_millis(millis));
        Self {
            id,
            question: &poll.question,
            options: &poll.options,
            created: text(poll.created),
            closes: poll.closes.map(text),
            closed: is_past(poll.closes, now),
            votes,
        }
    }
}

/// A page of polls.
pub(crate) fn list(listing: &Listing, now: Duration) -> Response {
    #[derive(Serialize)]
    struct Listed<'a> {
        #[serde(flatten)]
        poll: Shown<'a>,
        /// The first choices for each option.
        first: &'a [u32],
        ranked: bool,
    }
    #[derive(Serialize)]
    struct Page<'a> {
        polls: Vec<Listed<'a>>,
        /// The path of the next page.
        next: Option<String>,
    }
    let polls = listing.polls.iter().map(|summary| Listed {
        poll: Shown::new(&summary.id, &summary.poll, summary.votes(), now),
        first: &summary.tally,
        ranked: summary.ranked,
    });
    let next = listing.next().map(|query| format!("/api/polls?{query}"));
    Response::json(&Page {
        polls: polls.collect(),
        next,
    })
}

/// A poll with its result, and what this browser chose.
pub(crate) fn show(
    id: &str,
    poll: &Poll,
    yours: &[u8],
    outcome: &Outcome,
    now: Duration,
) -> Response {
    #[derive(Serialize)]
    struct Result<'a> {
        #[serde(flatten)]
        poll: Shown<'a>,
        #[serde(flatten)]
        outcome: &'a Outcome,
        yours: &'a [u8],
    }
    Response::json(&Result {
        poll: Shown::new(id, poll, outcome.votes(), now),
        outcome,
        yours,
    })
    .header("cache-control", "no-store")
}
