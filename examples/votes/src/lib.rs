//! Votes: a partition for each poll, with an entry for each voter. A scan counts the votes.
//!
//! | request | response |
//! | --- | --- |
//! | `PUT /polls/<poll>/<voter>` with the choice as its body | 204; a voter has one vote, and the last one counts |
//! | `GET /polls/<poll>/<voter>` | the vote as JSON, or 404 |
//! | `DELETE /polls/<poll>/<voter>` | 204, or 404 |
//! | `GET /polls/<poll>` | the number of votes of each choice, as JSON |
//! | `GET /polls` | the names of the polls, as JSON |

use std::collections::BTreeMap;

use ostrakon_guest::{
    Description, Error, Guest, Part, Request, RequestHead, Response, Result, Route, Settings, Store,
};
use serde::{Deserialize, Serialize};

pub struct Votes;

ostrakon_guest::export!(Votes);

/// The stored vote of a voter.
#[derive(Serialize, Deserialize)]
struct Vote {
    choice: String,
    /// How often the voter has changed the vote.
    changes: u32,
}

impl Guest for Votes {
    fn describe(_: Settings) -> Description {
        Description::new("votes", env!("CARGO_PKG_VERSION"))
    }

    fn new(_: Settings) -> Result<Self, String> {
        Ok(Self)
    }

    fn route(&self, head: &RequestHead) -> Route {
        match head.segments().as_deref() {
            Ok([polls]) if polls == "polls" => Route::everywhere(),
            Ok([polls, poll, ..]) if polls == "polls" => match head.method() {
                "PUT" | "DELETE" => Route::write(poll.as_str()),
                _ => Route::read(poll.as_str()),
            },
            _ => Route::here(),
        }
    }

    fn handle(&self, request: &Request) -> Result<Response> {
        let segments = request.segments()?;
        let names: Vec<&str> = segments.iter().map(String::as_str).collect();
        match (request.method(), &names[..]) {
            ("GET", ["polls"]) => Ok(Response::json(&polls(request))),
            ("GET", ["polls", _]) => Ok(Response::json(&tally(request.store())?)),
            ("GET", ["polls", _, voter]) => match request.store().get_json::<Vote>(voter)? {
                Some(vote) => Ok(Response::json(&vote)),
                None => Err(Error::not_found("this voter has not voted")),
            },
            ("PUT", ["polls", _, voter]) => vote(request, voter),
            ("DELETE", ["polls", _, voter]) if request.store().delete(voter)? => {
                Ok(Response::new(204))
            }
            ("DELETE", ["polls", _, _]) => Err(Error::not_found("this voter has not voted")),
            (_, ["polls", _, _]) => Err(Error::method_not_allowed("GET, PUT, DELETE")),
            (_, ["polls"] | ["polls", _]) => Err(Error::method_not_allowed("GET")),
            _ => Err(Error::not_found(
                "this path does not exist: use /polls, /polls/<poll> or /polls/<poll>/<voter>",
            )),
        }
    }

    fn gather(&self, _: &Request, parts: Vec<Part>) -> Result<Response> {
        let mut polls = Vec::new();
        for part in parts {
            polls.extend(part.json::<Vec<String>>()?);
        }
        polls.sort_unstable();
        Ok(Response::json(&polls))
    }
}

fn polls(request: &Request) -> Vec<String> {
    request
        .shard()
        .partitions()
        .map(|poll| String::from_utf8_lossy(&poll).into_owned())
        .collect()
}

fn tally(poll: Store) -> Result<BTreeMap<String, u32>> {
    let mut tally = BTreeMap::new();
    for entry in poll.scan() {
        *tally.entry(entry.json::<Vote>()?.choice).or_default() += 1;
    }
    Ok(tally)
}

fn vote(request: &Request, voter: &str) -> Result<Response> {
    let choice = String::from_utf8(request.body().to_vec())
        .map_err(|_| Error::bad_request("a choice is a text"))?;
    let changes = request
        .store()
        .get_json::<Vote>(voter)?
        .map_or(0, |before| before.changes + 1);
    request.store().set_json(voter, &Vote { choice, changes })?;
    Ok(Response::new(204))
}
