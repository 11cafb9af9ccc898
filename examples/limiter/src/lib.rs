//! A rate limiter: a token bucket for each client, behind nginx or asked directly. README.md has its requests.

mod bucket;

use std::collections::BTreeMap;

use bucket::{Bucket, Class};
use ostrakon_guest::{
    Access, Description, Error, Guest, Request, RequestHead, Response, Result, Route, Settings,
    router::{Call, Endpoint, Params, Place, Router},
};
use serde::Serialize;

/// The rates.
pub struct Limiter {
    classes: BTreeMap<String, Class>,
}

ostrakon_guest::export!(Limiter);

const ROUTER: Router<Limiter> = Router::new(&[
    Endpoint::new(
        "GET",
        "/take/{name}",
        Place::Key(named),
        Access::Write,
        Limiter::take,
    ),
    Endpoint::new(
        "GET",
        "/take",
        Place::Key(of_client),
        Access::Write,
        Limiter::take,
    ),
    Endpoint::post("/take/{name}", Place::Key(named), Limiter::take),
    Endpoint::post("/take", Place::Key(of_client), Limiter::take),
    Endpoint::get("/buckets/{name}", Place::Key(named), Limiter::show),
    Endpoint::get("/buckets", Place::Key(of_client), Limiter::show),
    Endpoint::delete("/buckets/{name}", Place::Key(named), Limiter::refill),
    Endpoint::delete("/buckets", Place::Key(of_client), Limiter::refill),
]);

impl Guest for Limiter {
    fn describe(_: Settings) -> Description {
        Description::new("limiter", env!("CARGO_PKG_VERSION"))
    }

    fn new(settings: Settings) -> Result<Self, String> {
        let Some(classes) = settings.json::<BTreeMap<String, Class>>("rates.json")? else {
            let class = Class {
                capacity: 20,
                refill_per_second: 10.0,
            };
            return Ok(Self {
                classes: BTreeMap::from([("default".to_owned(), class)]),
            });
        };
        for (name, class) in &classes {
            let wrong = |why: &str| format!("setting `rates.json`: class `{name}`: {why}");
            check_name(name).map_err(wrong)?;
            class.check().map_err(|why| wrong(&why))?;
        }
        if classes.is_empty() {
            return Err("setting `rates.json` has no class: add one, such as `default`".into());
        }
        Ok(Self { classes })
    }

    fn route(&self, head: &RequestHead) -> Route {
        ROUTER.route(head)
    }

    fn handle(&self, request: &Request) -> Result<Response> {
        let response = ROUTER.handle(self, request)?;
        Ok(response.header("cache-control", "no-store"))
    }
}

impl Limiter {
    fn take(&self, call: &Call<'_>) -> Result<Response> {
        let (name, class) = self.class(call)?;
        let cost = cost(call, class)?;
        let rejection = rejection(call)?;
        let stored: Option<Bucket> = call.store().get_json("bucket")?;
        let now = call.now().as_nanos();
        let was_ahead = stored.as_ref().is_some_and(|bucket| bucket.at > now);
        let mut bucket = class.filled(stored, now);
        let taken = bucket.take(cost);
        call.store().set_json("bucket", &bucket)?;
        let response = match taken {
            Ok(()) => Response::new(204),
            Err(missing) => {
                let wait = class.seconds_for(missing).to_string();
                let message = ["the rate limit is reached: retry after ", &wait, " s"].concat();
                let error = Error::new(rejection, "rate_limited", message);
                let mut response = Response::from(error.header("retry-after", wait));
                // A rejection stores nothing, unless the clock was set back: then time has to count from now on.
                response.discard = !was_ahead;
                response
            }
        };
        let window = class.seconds_to_fill(None);
        let policy = format!("\"{name}\";q={};w={window}", class.capacity);
        let (left, reset) = (bucket.tokens(), class.seconds_to_fill(Some(&bucket)));
        Ok(response
            .header("ratelimit-policy", policy)
            .header("ratelimit", format!("\"{name}\";r={left};t={reset}")))
    }

    fn show(&self, call: &Call<'_>) -> Result<Response> {
        #[derive(Serialize)]
        struct Shown<'a> {
            class: &'a str,
            tokens: u128,
            capacity: u64,
            refill_per_second: f64,
            /// In how many seconds it is full.
            full_in: u128,
        }
        let (name, class) = self.class(call)?;
        let bucket = class.filled(call.store().get_json("bucket")?, call.now().as_nanos());
        Ok(Response::json(&Shown {
            class: &name,
            tokens: bucket.tokens(),
            capacity: class.capacity,
            refill_per_second: class.refill_per_second,
            full_in: class.seconds_to_fill(Some(&bucket)),
        }))
    }

    /// A bucket without an entry is full.
    fn refill(&self, call: &Call<'_>) -> Result<Response> {
        self.class(call)?;
        call.store().delete("bucket")?;
        Ok(Response::new(204))
    }

    fn class(&self, call: &Call<'_>) -> Result<(String, &Class)> {
        let name = class_name(call)?;
        let Some(class) = self.classes.get(&name) else {
            let known: Vec<_> = self.classes.keys().map(String::as_str).collect();
            return Err(Error::bad_request(format!(
                "there is no such class: use one of {}",
                known.join(", ")
            )));
        };
        Ok((name, class))
    }
}

/// The bucket's key: the class, how the client is named, and its name. So no client can name another one's bucket.
fn key(head: &RequestHead, how: &str, name: &str) -> Result<Vec<u8>> {
    Ok([&class_name(head)?, how, name].join("/").into())
}

fn named(head: &RequestHead, params: &Params) -> Result<Vec<u8>> {
    key(head, "name", params.param("name"))
}

/// The bucket of the client with this cookie or header; by default of its address, as nginx sends it.
fn of_client(head: &RequestHead, _: &Params) -> Result<Vec<u8>> {
    let (how, name) = if let Some(cookie) = head.query("cookie")? {
        (["cookie ", &cookie].concat(), head.cookie(&cookie))
    } else {
        let header = head.query("header")?;
        let header = header
            .as_deref()
            .unwrap_or("x-real-ip")
            .to_ascii_lowercase();
        let value = head.header(&header).into_iter().next();
        let value = value.and_then(|value| String::from_utf8(value).ok());
        (["header ", &header].concat(), value)
    };
    match name {
        Some(name) if !name.is_empty() => key(head, &how, &name),
        _ => Err(Error::bad_request(
            [
                "the request has no ",
                &how,
                ": send it, or name the bucket in the path",
            ]
            .concat(),
        )),
    }
}

fn class_name(head: &RequestHead) -> Result<String> {
    let name = head.query("class")?.unwrap_or_else(|| "default".to_owned());
    check_name(&name).map_err(Error::bad_request)?;
    Ok(name)
}

/// A class's name is also a part of keys and of response headers.
fn check_name(name: &str) -> Result<(), &'static str> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=64).contains(&name.len()) && name.bytes().all(plain) {
        Ok(())
    } else {
        Err("a class's name has 1 to 64 of a-z, 0-9 and -")
    }
}

fn cost(call: &Call<'_>, class: &Class) -> Result<u64> {
    let Some(text) = call.query("cost")? else {
        return Ok(1);
    };
    match text.parse() {
        Ok(cost) if (1..=class.capacity).contains(&cost) => Ok(cost),
        _ => Err(Error::bad_request(format!(
            "`cost` has to be from 1 to {}, the capacity of the class",
            class.capacity
        ))),
    }
}

/// The status of a rejection. nginx's `auth_request` takes 429 for a failure, and 403 for a rejection.
fn rejection(call: &Call<'_>) -> Result<u16> {
    match call.query("reject")?.as_deref() {
        None | Some("429") => Ok(429),
        Some("403") => Ok(403),
        Some(_) => Err(Error::bad_request("`reject` is 429 or 403")),
    }
}
