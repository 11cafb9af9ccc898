//! A session store: ids that the server makes, and expiry. README.md has its requests.

mod client;
mod session;

use std::time::Duration;

use client::{COOKIE, by_cookie, by_path, check_site, gone, id, is_by_path, new_partition};
use ostrakon_guest::{
    Cookie, Description, Error, Guest, Request, RequestHead, Response, Result, Route, Settings,
    router::{Call, Endpoint, Place, Router},
    time::rfc3339,
};
use serde::Serialize;
use session::{Session, data, forget, live, sessions, sweep};

/// The longest life of a session, in seconds: a year.
const LONGEST: u64 = 365 * 86_400;

/// The settings.
pub struct Sessions {
    /// In seconds.
    ttl: u64,
    sliding: bool,
    max_bytes: usize,
    secure: bool,
}

ostrakon_guest::export!(Sessions);

const ROUTER: Router<Sessions> = Router::new(&[
    Endpoint::post("/sessions", Place::Key(new_partition), Sessions::create),
    Endpoint::get("/sessions/{id}", Place::Key(by_path), Sessions::show),
    Endpoint::put("/sessions/{id}", Place::Key(by_path), Sessions::replace),
    Endpoint::delete("/sessions/{id}", Place::Key(by_path), Sessions::delete),
    Endpoint::post("/sessions/{id}/touch", Place::Key(by_path), Sessions::touch),
    Endpoint::get("/session", Place::Key(by_cookie), Sessions::show),
    Endpoint::put("/session", Place::Key(by_cookie), Sessions::replace),
    Endpoint::delete("/session", Place::Key(by_cookie), Sessions::delete),
    Endpoint::post("/session/touch", Place::Key(by_cookie), Sessions::touch),
]);

impl Guest for Sessions {
    fn describe(_: Settings) -> Description {
        Description::new("sessions", env!("CARGO_PKG_VERSION"))
    }

    fn new(settings: Settings) -> Result<Self, String> {
        let ttl = settings.parsed("ttl")?.unwrap_or(1800);
        if !(1..=LONGEST).contains(&ttl) {
            return Err(format!(
                "setting `ttl`: give 1 to {LONGEST} seconds, not {ttl}"
            ));
        }
        let sliding = match settings.text("expiry")?.as_deref() {
            None | Some("sliding") => true,
            Some("fixed") => false,
            Some(other) => {
                return Err(format!(
                    "setting `expiry`: give `sliding` or `fixed`, not `{other}`"
                ));
            }
        };
        Ok(Self {
            ttl,
            sliding,
            max_bytes: settings.parsed("max_bytes")?.unwrap_or(65_536),
            secure: settings.parsed("secure")?.unwrap_or(true),
        })
    }

    fn route(&self, head: &RequestHead) -> Route {
        ROUTER.route(head)
    }

    fn handle(&self, request: &Request) -> Result<Response> {
        ROUTER.handle(self, request)
    }
}

#[expect(clippy::unused_self, reason = "the router passes the guest")]
impl Sessions {
    fn create(&self, call: &Call<'_>) -> Result<Response> {
        #[derive(Serialize)]
        struct Created<'a> {
            id: &'a str,
            expires: String,
        }
        let cookie = call.query("cookie")?.is_some();
        if cookie {
            check_site(call)?;
        }
        sweep(call)?;
        let ttl = call
            .query("ttl")?
            .map_or(Ok(self.ttl), |ttl| seconds(&ttl))?;
        let partition = call.partition().unwrap_or_default();
        let id = [&*String::from_utf8_lossy(&partition), &call.random_id()].concat();
        let session = self.keep(call, &id, ttl, call.now() + Duration::from_secs(ttl))?;
        let body = Created {
            id: &id,
            expires: rfc3339(session.expires),
        };
        let response = Response::json(&body)
            .status(201)
            .header("location", ["/sessions/", &id].concat());
        let response = session.describe(call, response);
        Ok(if cookie {
            response.cookie(self.cookie(&id))
        } else {
            response
        })
    }

    fn show(&self, call: &Call<'_>) -> Result<Response> {
        let id = id(call);
        let session = live(call, &id)?.ok_or_else(|| gone(call))?;
        let data = call.store().get(data(&id)).unwrap_or_default();
        let response = Response::bytes(session.content_type.clone(), data)
            // The data of a session is never a page of this site.
            .header("x-content-type-options", "nosniff")
            .header("content-security-policy", "default-src 'none'; sandbox");
        Ok(session.describe(call, response))
    }

    fn replace(&self, call: &Call<'_>) -> Result<Response> {
        Self::change(call, |id, before| {
            let expires = self.extended(call, before);
            let session = self.keep(call, id, before.ttl, expires)?;
            Ok(session.describe(call, Response::new(204)))
        })
    }

    fn touch(&self, call: &Call<'_>) -> Result<Response> {
        Self::change(call, |id, session| {
            session.expires = self.extended(call, session);
            sessions(call).set(id.to_owned(), session)?;
            Ok(session.describe(call, Response::new(204)))
        })
    }

    fn delete(&self, call: &Call<'_>) -> Result<Response> {
        Self::change(call, |id, _| {
            forget(call, id)?;
            let response = Response::new(204);
            Ok(if is_by_path(call) {
                response
            } else {
                response.cookie(Cookie::removed(COOKIE))
            })
        })
    }

    /// Changes a live session if the request's `if-match` allows it.
    fn change(
        call: &Call<'_>,
        change: impl FnOnce(&str, &mut Session) -> Result<Response>,
    ) -> Result<Response> {
        if !is_by_path(call) {
            check_site(call)?;
        }
        sweep(call)?;
        let id = id(call);
        let Some(mut session) = live(call, &id)? else {
            // Not an error, which would bring back the sessions that the sweep has deleted.
            let mut response = Response::from(gone(call));
            response.discard = false;
            return Ok(response);
        };
        session.check(call)?;
        change(&id, &mut session)
    }

    /// Stores a session with the request's body as its data.
    fn keep(&self, call: &Call<'_>, id: &str, ttl: u64, expires: Duration) -> Result<Session> {
        if call.body().len() > self.max_bytes {
            let message = format!("a session has at most {} bytes", self.max_bytes);
            return Err(Error::new(413, "too_large", message));
        }
        let content_type = call.header("content-type").into_iter().next();
        let content_type = content_type.unwrap_or_else(|| b"application/octet-stream".to_vec());
        let content_type = String::from_utf8(content_type)
            .ok()
            .filter(|text| text.len() <= 255);
        let session = Session {
            expires,
            ttl,
            version: call.random_id(),
            content_type: content_type
                .ok_or_else(|| Error::bad_request("a content type has at most 255 characters"))?,
        };
        sessions(call).set(id.to_owned(), &session)?;
        call.store().set(data(id), call.body())?;
        Ok(session)
    }

    fn extended(&self, call: &Call<'_>, session: &Session) -> Duration {
        if self.sliding {
            // Never earlier, also if another shard's clock was ahead.
            session
                .expires
                .max(call.now() + Duration::from_secs(session.ttl))
        } else {
            session.expires
        }
    }

    fn cookie(&self, id: &str) -> Cookie {
        let cookie = Cookie::new(COOKIE, id);
        if self.secure { cookie.secure() } else { cookie }
    }
}

fn seconds(text: &str) -> Result<u64> {
    let seconds = text.parse().ok().filter(|ttl| (1..=LONGEST).contains(ttl));
    seconds
        .ok_or_else(|| Error::bad_request(format!("`ttl` is a number of seconds, 1 to {LONGEST}")))
}
