//! A session store: ids that the server makes, and expiry. README.md has its requests.

use std::time::Duration;

use ostrakon_guest::{
    Cookie, Description, Error, Guest, Request, RequestHead, Response, Result, Route, Settings,
    collections::Indexed,
    router::{Call, Endpoint, Params, Place, Router},
    time::rfc3339,
};
use serde::{Deserialize, Serialize};

/// The name of the cookie.
const COOKIE: &str = "session";

/// How many digits of an id name its partition: there are 4,096 of them. A session whose client never comes back is
/// deleted by the next write to any session of its partition.
const PARTITION: usize = 3;
/// The digits of an id: those of the partition, and 128 random bits.
const ID: usize = PARTITION + 32;

/// How many expired sessions one write deletes at most.
const SWEEP: usize = 100;

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

/// A stored session. Its data is an entry of its own, so that a touch does not rewrite it.
#[derive(Serialize, Deserialize)]
struct Session {
    expires: Duration,
    /// In seconds.
    ttl: u64,
    /// Random, so that no two sessions have the same, and new with each change.
    version: String,
    content_type: String,
}

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

impl Session {
    /// Adds what a client needs to know about a session. No cache may keep it.
    fn describe(&self, call: &Call<'_>, response: Response) -> Response {
        let left = self
            .expires
            .saturating_sub(call.now())
            .as_secs()
            .to_string();
        response
            .header("etag", ["\"", &self.version, "\""].concat())
            .header("session-ttl", left)
            .header("cache-control", "no-store")
    }

    /// RFC 9110, section 13.1.1.
    fn check(&self, call: &Call<'_>) -> Result<()> {
        let wanted = call.header("if-match");
        let tag = ["\"", &self.version, "\""].concat();
        let mut tags = wanted
            .iter()
            .flat_map(|line| line.split(|byte| *byte == b','));
        let fits =
            |wanted: &[u8]| matches!(wanted.trim_ascii(), t if t == b"*" || t == tag.as_bytes());
        if wanted.is_empty() || tags.any(fits) {
            return Ok(());
        }
        let message =
            "the session has changed: read it again, and repeat the change on what you read";
        Err(Error::new(412, "precondition_failed", message))
    }
}

fn sessions(call: &Call<'_>) -> Indexed<String, Session, Duration> {
    call.store()
        .indexed("sessions", |_, session: &Session| vec![session.expires])
}

fn data(id: &str) -> String {
    ["data/", id].concat()
}

fn live(call: &Call<'_>, id: &str) -> Result<Option<Session>> {
    let session = sessions(call).get(id.to_owned())?;
    Ok(session.filter(|session| call.now() < session.expires))
}

fn forget(call: &Call<'_>, id: &str) -> Result<()> {
    sessions(call).remove(id.to_owned())?;
    call.store().delete(data(id))?;
    Ok(())
}

/// Deletes expired sessions of this partition.
fn sweep(call: &Call<'_>) -> Result<()> {
    let expired = sessions(call)
        .index()
        .until(call.now() + Duration::from_nanos(1));
    for expired in expired.take(SWEEP).collect::<Result<Vec<_>>>()? {
        forget(call, &expired.1)?;
    }
    Ok(())
}

fn gone(head: &RequestHead) -> Error {
    let message = "there is no such session, or it has expired: make one with POST /sessions";
    match head.query("missing") {
        // What nginx's `auth_request` passes on.
        Ok(Some(status)) if status == "401" => Error::new(401, "no_session", message),
        _ => Error::not_found(message),
    }
}

fn seconds(text: &str) -> Result<u64> {
    let seconds = text.parse().ok().filter(|ttl| (1..=LONGEST).contains(ttl));
    seconds
        .ok_or_else(|| Error::bad_request(format!("`ttl` is a number of seconds, 1 to {LONGEST}")))
}

/// Any partition. `handle` makes the rest of the id: an id of `route` alone would be a partition alone, and nobody would
/// write to it again to delete it.
#[expect(clippy::unnecessary_wraps, reason = "the router's functions may fail")]
fn new_partition(head: &RequestHead, _: &Params) -> Result<Vec<u8>> {
    Ok(head.random_id()[..PARTITION].into())
}

fn by_path(head: &RequestHead, params: &Params) -> Result<Vec<u8>> {
    partition_of(head, params.param("id"))
}

fn by_cookie(head: &RequestHead, _: &Params) -> Result<Vec<u8>> {
    partition_of(head, &head.cookie(COOKIE).unwrap_or_default())
}

fn partition_of(head: &RequestHead, id: &str) -> Result<Vec<u8>> {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if id.len() == ID && id.bytes().all(digit) {
        Ok(id[..PARTITION].into())
    } else {
        Err(gone(head))
    }
}

fn id(call: &Call<'_>) -> String {
    if is_by_path(call) {
        call.param("id").to_owned()
    } else {
        call.cookie(COOKIE).unwrap_or_default()
    }
}

fn is_by_path(call: &Call<'_>) -> bool {
    call.path().starts_with("/sessions/")
}

/// Refuses a request that a page of another site made a browser send with its cookies.
fn check_site(call: &Call<'_>) -> Result<()> {
    let first = |name| call.header(name).into_iter().next();
    let is_own = match (first("sec-fetch-site"), first("origin"), first("host")) {
        (Some(site), _, _) => site == b"same-origin" || site == b"none",
        (None, Some(origin), Some(host)) => origin.ends_with(&[b"://", &*host].concat()),
        (None, origin, _) => origin.is_none(),
    };
    if is_own {
        return Ok(());
    }
    Err(Error::new(
        403,
        "other_site",
        "this request was made by a page of another site",
    ))
}
