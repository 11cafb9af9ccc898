//! Polls, votes and pages: what both versions of the voting service share. They differ in their [`Ballot`].

mod api;
mod ballot;
mod listing;
mod outcome;
mod pages;
mod poll;
mod visitor;
mod votes;

use std::marker::PhantomData;

use ostrakon_guest::{
    Description, Error, Guest, Migration, Part, Request, RequestHead, Response, Result, Route,
    Settings,
    router::{Call, Endpoint, Place, Router},
};

pub use ballot::Ballot;
pub use outcome::{Outcome, Round};
pub use poll::Poll;
pub use votes::{VOTES, Votes};

use crate::{
    poll::{Draft, id_in_path, new_id},
    visitor::Cookies,
};

/// The most bytes of a request's body. The longest poll has less, even percent-encoded.
const MAX_BODY: usize = 64 << 10;

/// The service, with votes of the type `B`.
#[derive(Debug)]
pub struct Voting<B> {
    cookies: Cookies,
    ballot: PhantomData<fn() -> B>,
}

#[expect(clippy::unused_self, reason = "the router passes the guest")]
impl<B: Ballot> Voting<B> {
    const ROUTER: Router<Self> = Router::new(&[
        Endpoint::get("/", Place::Everywhere, Self::part).joined(Self::home),
        Endpoint::get("/results", Place::Everywhere, Self::part).joined(Self::overview),
        Endpoint::get("/polls/new", Place::Here, |_, _| {
            Ok(pages::new(&Draft::default(), None))
        }),
        Endpoint::post("/polls", Place::Key(new_id), Self::create),
        Endpoint::get("/polls/{poll}", Place::Key(id_in_path), Self::ballot),
        Endpoint::post("/polls/{poll}/votes", Place::Key(id_in_path), Self::vote),
        Endpoint::get(
            "/polls/{poll}/results",
            Place::Key(id_in_path),
            Self::results,
        ),
        Endpoint::get("/api/polls", Place::Everywhere, Self::part).joined(Self::api_list),
        Endpoint::post("/api/polls", Place::Key(new_id), Self::api_create),
        Endpoint::get("/api/polls/{poll}", Place::Key(id_in_path), Self::api_show),
        Endpoint::put(
            "/api/polls/{poll}/vote",
            Place::Key(id_in_path),
            Self::api_vote,
        ),
    ]);

    /// The response to a client, with an error as a page unless the client is a program.
    fn finished(request: &Request, answered: Result<Response>) -> Response {
        match answered {
            Ok(response) => response,
            Err(error) if request.path().starts_with("/api/") => error.into(),
            Err(error) => pages::error(error),
        }
    }

    fn part(&self, call: &Call<'_>) -> Result<Response> {
        listing::part(call, B::RANKED)
    }

    fn home(&self, call: &Call<'_>, parts: Vec<Part>) -> Result<Response> {
        let listing = listing::join(call, parts)?;
        Ok(pages::home(&listing, call.now()))
    }

    fn overview(&self, call: &Call<'_>, parts: Vec<Part>) -> Result<Response> {
        let listing = listing::join(call, parts)?;
        Ok(pages::overview(&listing, call.now(), is_live(call)?))
    }

    fn create(&self, call: &Call<'_>) -> Result<Response> {
        let draft = Draft::of(&call.form()?);
        let id = poll::id(call)?;
        match draft.checked(call.now()) {
            Ok(poll) => {
                poll.store(call.store())?;
                Ok(Response::see_other(&format!("/polls/{id}")))
            }
            Err(wrong) => Ok(pages::new(&draft, Some(&wrong)).status(422).discard()),
        }
    }

    fn ballot(&self, call: &Call<'_>) -> Result<Response> {
        let (id, poll) = (poll::id(call)?, Poll::load(call.store())?);
        let chosen = Self::choices(call)?;
        let page = pages::ballot::<B>(&id, &poll, &chosen, None, call.now());
        Ok(self.cookies.remembered(call, page))
    }

    fn vote(&self, call: &Call<'_>) -> Result<Response> {
        let (id, poll) = (poll::id(call)?, Poll::load(call.store())?);
        let voter = visitor::required(call)?;
        poll.check_open(call.now())?;
        let choices = poll.choices(&call.form()?)?;
        match B::new(&poll, &choices) {
            Ok(ballot) => {
                Votes::of(call.store()).cast(&poll, &voter, &ballot)?;
                Ok(Response::see_other(&format!("/polls/{id}/results")))
            }
            Err(wrong) => {
                let page = pages::ballot::<B>(&id, &poll, &choices, Some(&wrong), call.now());
                Ok(page.status(422).discard())
            }
        }
    }

    fn results(&self, call: &Call<'_>) -> Result<Response> {
        let (id, poll) = (poll::id(call)?, Poll::load(call.store())?);
        let chosen = Self::choices(call)?;
        let outcome = B::outcome(&poll, Votes::of(call.store()))?;
        let live = is_live(call)?;
        Ok(pages::results(
            &id,
            &poll,
            &chosen,
            &outcome,
            call.now(),
            live,
        ))
    }

    fn api_list(&self, call: &Call<'_>, parts: Vec<Part>) -> Result<Response> {
        let listing = listing::join(call, parts)?;
        Ok(api::list(&listing, call.now()))
    }

    fn api_create(&self, call: &Call<'_>) -> Result<Response> {
        let poll = api::draft(call)?
            .checked(call.now())
            .map_err(|wrong| poll::invalid(wrong.to_string()))?;
        poll.store(call.store())?;
        let id = poll::id(call)?;
        let shown = Self::shown(call, &id, &poll)?.status(201);
        Ok(shown.header("location", format!("/api/polls/{id}")))
    }

    fn api_show(&self, call: &Call<'_>) -> Result<Response> {
        let (id, poll) = (poll::id(call)?, Poll::load(call.store())?);
        let shown = Self::shown(call, &id, &poll)?;
        Ok(self.cookies.remembered(call, shown))
    }

    fn api_vote(&self, call: &Call<'_>) -> Result<Response> {
        let poll = Poll::load(call.store())?;
        let voter = visitor::required(call)?;
        poll.check_open(call.now())?;
        let choices = api::choices(call, &poll)?;
        let ballot = B::new(&poll, &choices).map_err(poll::invalid)?;
        Votes::of(call.store()).cast(&poll, &voter, &ballot)?;
        Ok(Response::new(204))
    }

    /// What this browser chose; empty if it has not voted.
    fn choices(call: &Call<'_>) -> Result<Vec<u8>> {
        match visitor::known(call) {
            Some(voter) => Votes::<B>::of(call.store()).choices(&voter),
            None => Ok(Vec::new()),
        }
    }

    fn shown(call: &Call<'_>, id: &str, poll: &Poll) -> Result<Response> {
        let yours = Self::choices(call)?;
        let outcome = B::outcome(poll, Votes::of(call.store()))?;
        Ok(api::show(id, poll, &yours, &outcome, call.now()))
    }
}

/// Rejects what is too large for any poll, and would be repeated in the form with what is wrong.
fn check_size(request: &Request) -> Result<()> {
    if request.body().len() <= MAX_BODY {
        return Ok(());
    }
    let message = "A poll or vote has at most 64 KiB. Shorten it.";
    Err(Error::new(413, "too_large", message))
}

/// Whether a page of results is to refresh itself: unless the visitor stopped that, or reads older ones.
fn is_live(call: &Call<'_>) -> Result<bool> {
    Ok(call.query("live")?.as_deref() != Some("no") && call.query("before")?.is_none())
}

impl<B: Ballot> Guest for Voting<B> {
    fn describe(_: Settings) -> Description {
        Description::new("voting", B::VERSION).with_schema(B::SCHEMA)
    }

    fn new(settings: Settings) -> Result<Self, String> {
        Ok(Self {
            cookies: Cookies::new(settings)?,
            ballot: PhantomData,
        })
    }

    fn route(&self, head: &RequestHead) -> Route {
        Self::ROUTER.route(head)
    }

    fn handle(&self, request: &Request) -> Result<Response> {
        let allowed = check_size(request).and_then(|()| visitor::from_here(request));
        let answered = allowed.and_then(|()| Self::ROUTER.handle(self, request));
        Ok(Self::finished(request, answered))
    }

    fn gather(&self, request: &Request, parts: Vec<Part>) -> Result<Response> {
        let answered = Self::ROUTER.gather(self, request, parts);
        Ok(Self::finished(request, answered))
    }

    fn migrate(&self, from: u32, shard: &Migration) -> Result<(), String> {
        B::migrate(from, shard)
    }
}
