//! A rate limiter: a token bucket for each client, behind nginx or asked directly. README.md has its requests.

use std::{collections::BTreeMap, ops::RangeInclusive};

use ostrakon_guest::{
    Access, Description, Error, Guest, Request, RequestHead, Response, Result, Route, Settings,
    router::{Call, Endpoint, Params, Place, Router},
};
use serde::{Deserialize, Serialize};

/// A token in the unit of [`Bucket::amount`]: a nanosecond times a billionth of a token per second. In this unit no
/// refill is ever rounded, whatever the rate.
const TOKEN: u128 = NANO * NANO;
const NANO: u128 = 1_000_000_000;

/// The most tokens of a bucket.
const MOST: u64 = 1_000_000;
/// The tokens of a second: at least one in 12 days.
const RATES: RangeInclusive<f64> = 0.000_001..=1_000_000.0;

pub struct Limiter {
    classes: BTreeMap<String, Class>,
}

ostrakon_guest::export!(Limiter);

/// A class of buckets, as `rates.json` has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Class {
    /// In tokens.
    capacity: u64,
    refill_per_second: f64,
}

/// A bucket at a time. One that is not stored is full.
#[derive(Serialize, Deserialize)]
struct Bucket {
    amount: u128,
    /// In nanoseconds since 1970.
    at: u128,
    /// Of the class when the bucket was stored, in tokens.
    capacity: u64,
}

impl Class {
    /// A bucket as it is now. After a change of its capacity, a bucket that was half full is still half full.
    fn filled(&self, stored: Option<Bucket>, now: u128) -> Bucket {
        let full = u128::from(self.capacity) * TOKEN;
        let amount = stored.map_or(full, |before| {
            let kept =
                before.amount * u128::from(self.capacity) / u128::from(before.capacity.max(1));
            // Nothing flows in while time stands still, or after the clock was set back.
            let elapsed = now.saturating_sub(before.at);
            full.min(kept + elapsed * self.flow())
        });
        Bucket {
            amount,
            at: now,
            capacity: self.capacity,
        }
    }

    /// What flows in per nanosecond.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the rate is checked, and rounded to a billionth"
    )]
    fn flow(&self) -> u128 {
        (self.refill_per_second * 1e9).round() as u128
    }

    /// The seconds, rounded up, in which an amount flows in.
    fn seconds_for(&self, amount: u128) -> u128 {
        amount.div_ceil(self.flow() * NANO)
    }

    fn check(&self) -> Result<(), String> {
        let Self {
            capacity,
            refill_per_second: rate,
        } = self;
        if !(1..=MOST).contains(capacity) {
            return Err(format!("`capacity` is {capacity}: give 1 to {MOST} tokens"));
        }
        if !RATES.contains(rate) {
            return Err(format!(
                "`refill_per_second` is {rate}: give {} to {} tokens",
                RATES.start(),
                RATES.end()
            ));
        }
        Ok(())
    }
}

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
        let (mut bucket, was_ahead) = bucket(call, class)?;
        let wanted = u128::from(cost) * TOKEN;
        let taken = bucket.amount.checked_sub(wanted);
        bucket.amount = taken.unwrap_or(bucket.amount);
        call.store().set_json("bucket", &bucket)?;
        let response = if taken.is_some() {
            Response::new(204)
        } else {
            let wait = class.seconds_for(wanted - bucket.amount).to_string();
            let message = ["the rate limit is reached: retry after ", &wait, " s"].concat();
            let error = Error::new(rejection, "rate_limited", message).header("retry-after", wait);
            let mut response = Response::from(error);
            // A rejection stores nothing, unless the clock was set back: then time has to count from now on.
            response.discard = !was_ahead;
            response
        };
        let (left, reset) = bucket.left(class);
        let window = class.seconds_for(u128::from(class.capacity) * TOKEN);
        let policy = format!("\"{name}\";q={};w={window}", class.capacity);
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
        let (tokens, full_in) = bucket(call, class)?.0.left(class);
        Ok(Response::json(&Shown {
            class: &name,
            tokens,
            capacity: class.capacity,
            refill_per_second: class.refill_per_second,
            full_in,
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

impl Bucket {
    /// The whole tokens that are left, and the seconds until it is full.
    fn left(&self, class: &Class) -> (u128, u128) {
        let full = u128::from(class.capacity) * TOKEN;
        (self.amount / TOKEN, class.seconds_for(full - self.amount))
    }
}

/// The request's bucket as it is now, and whether it was stored at a later time than now.
fn bucket(call: &Call<'_>, class: &Class) -> Result<(Bucket, bool)> {
    let stored: Option<Bucket> = call.store().get_json("bucket")?;
    let now = call.now().as_nanos();
    let was_ahead = stored.as_ref().is_some_and(|bucket| bucket.at > now);
    Ok((class.filled(stored, now), was_ahead))
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
