//! Polls with pages: a form to vote, one vote for each browser, and the results of all shards.

use std::collections::BTreeMap;

use ostrakon_guest::{
    Cookie, Description, Error, Guest, Part, Request, RequestHead, Response, Result, Route,
    Settings,
    html::escape,
    router::{Call, Endpoint, Place, Router},
};

pub(crate) struct Polls;

const POLL: Place = Place::Partition("poll");
const ROUTER: Router<Polls> = Router::new(&[
    Endpoint::get("/polls", Place::Everywhere, list).joined(join),
    Endpoint::post("/polls/{poll}", POLL, make),
    Endpoint::get("/polls/{poll}", POLL, show),
    Endpoint::post("/polls/{poll}/votes", POLL, vote),
]);

fn list(_: &Polls, call: &Call<'_>) -> Result<Response> {
    let polls = call.shard().partitions();
    let names: Vec<_> = polls
        .map(|key| String::from_utf8_lossy(&key).into_owned())
        .collect();
    Ok(Response::json(&names))
}

fn join(_: &Polls, _: &Call<'_>, parts: Vec<Part>) -> Result<Response> {
    let parts: Vec<Vec<String>> = parts.iter().map(Part::json).collect::<Result<_>>()?;
    let items = parts
        .concat()
        .into_iter()
        .map(|name| format!("<li>{}", escape(&name)));
    Ok(Response::html(format!(
        "<title>Polls</title><ul>{}</ul>",
        items.collect::<String>()
    )))
}

fn make(_: &Polls, call: &Call<'_>) -> Result<Response> {
    let form = call.form()?;
    let options: Vec<_> = form.all("option").collect();
    call.store().set_json("options", &options)?;
    Ok(Response::see_other(call.path()))
}

fn show(_: &Polls, call: &Call<'_>) -> Result<Response> {
    let options: Option<Vec<String>> = call.store().get_json("options")?;
    let options = options.ok_or_else(|| Error::not_found("there is no such poll"))?;
    let mut counts = BTreeMap::new();
    for vote in &call.store().map::<String, String>("votes") {
        *counts.entry(vote?.1).or_insert(0) += 1;
    }
    let items = options.iter().map(|option| {
        let (count, option) = (counts.get(option).unwrap_or(&0), escape(option));
        format!("<button name=choice value=\"{option}\">{option}</button> {count}<br>")
    });
    let (name, items) = (escape(call.param("poll")), items.collect::<String>());
    let action = format!("{}/votes", escape(call.path()));
    Ok(Response::html(format!(
        "<title>{name}</title><form method=post action=\"{action}\">{items}</form>"
    )))
}

fn vote(_: &Polls, call: &Call<'_>) -> Result<Response> {
    let options: Vec<String> = call.store().get_json("options")?.unwrap_or_default();
    let (form, voter) = (
        call.form()?,
        call.cookie("voter").unwrap_or_else(|| call.random_id()),
    );
    let choice = form.required("choice")?.to_owned();
    if !options.contains(&choice) {
        return Err(Error::bad_request("the poll has no such option"));
    }
    call.store()
        .map::<String, String>("votes")
        .set(voter.clone(), &choice)?;
    let poll = call.path().trim_end_matches("/votes");
    Ok(Response::see_other(poll).cookie(Cookie::new("voter", &voter)))
}

#[rustfmt::skip]
impl Guest for Polls {
    fn describe(_: Settings) -> Description { Description::new("polls", "1.0.0") }
    fn new(_: Settings) -> Result<Self, String> { Ok(Self) }
    fn route(&self, head: &RequestHead) -> Route { ROUTER.route(head) }
    fn handle(&self, request: &Request) -> Result<Response> { ROUTER.handle(self, request) }
    fn gather(&self, request: &Request, parts: Vec<Part>) -> Result<Response> { ROUTER.gather(self, request, parts) }
}
