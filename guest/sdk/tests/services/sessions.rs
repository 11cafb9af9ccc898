//! A session store: the server makes the ids, and sessions expire.

use std::time::Duration;

use ostrakon_guest::{
    Description, Error, Guest, Request, RequestHead, Response, Result, Route, Settings,
    router::{Call, Endpoint, Place, Router},
};

pub(crate) struct Sessions {
    lifetime: Duration,
}

const NEW: Place = Place::Key(|head, _| Ok(head.random_id().into()));
const ID: Place = Place::Partition("id");
const ROUTER: Router<Sessions> = Router::new(&[
    Endpoint::post("/sessions", NEW, Sessions::make),
    Endpoint::get("/sessions/{id}", ID, |_, call| {
        Ok(Response::json(&data(call)?))
    }),
    Endpoint::put("/sessions/{id}", ID, |store, call| {
        data(call).and_then(|_| store.keep(call))
    }),
    Endpoint::delete("/sessions/{id}", ID, |_, call| {
        Ok(Response::json(&call.store().delete("session")?))
    }),
]);

/// The data of a session that has not expired.
fn data(call: &Call<'_>) -> Result<String> {
    let session: Option<(Duration, String)> = call.store().get_json("session")?;
    let live = session.filter(|(until, _)| *until > call.now());
    live.map(|(_, data)| data)
        .ok_or_else(|| Error::not_found("there is no such session"))
}

impl Sessions {
    fn make(&self, call: &Call<'_>) -> Result<Response> {
        let id = String::from_utf8_lossy(&call.partition().unwrap_or_default()).into_owned();
        Ok(self
            .keep(call)?
            .status(201)
            .header("location", ["/sessions/", &id].concat()))
    }

    fn keep(&self, call: &Call<'_>) -> Result<Response> {
        let data: String = call.json()?;
        call.store()
            .set_json("session", &(call.now() + self.lifetime, data))?;
        Ok(Response::new(204))
    }
}

impl Guest for Sessions {
    fn describe(_: Settings) -> Description {
        Description::new("sessions", "1.0.0")
    }
    fn new(settings: Settings) -> Result<Self, String> {
        let lifetime = Duration::from_secs(settings.parsed("lifetime")?.unwrap_or(1800));
        Ok(Self { lifetime })
    }
    fn route(&self, head: &RequestHead) -> Route {
        ROUTER.route(head)
    }
    fn handle(&self, request: &Request) -> Result<Response> {
        ROUTER.handle(self, request)
    }
}
