//! A guest that uses all of the contract and of the SDK. The same requests go to it in memory and on running hosts, and
//! the responses have to be the same: see [`script()`].

#![expect(
    clippy::needless_pass_by_value,
    clippy::unused_self,
    clippy::unnecessary_wraps,
    reason = "all endpoints have one signature"
)]

mod script;

use std::time::Duration;

use ostrakon_guest::{
    Cookie, Description, Error, Guest, Part, Request, RequestHead, Response, Result, Route, Secret,
    Settings, html,
    router::{Call, Endpoint, Params, Place, Router},
    time,
};
use serde_json::{Value, json};

pub use script::{Step, script};

pub struct Probe {
    settings: Settings,
}

ostrakon_guest::export!(Probe);

const KEY: Place = Place::Partition("key");

const ROUTER: Router<Probe> = Router::new(&[
    Endpoint::get("/", Place::Here, Probe::here),
    Endpoint::get("/p/{key}", KEY, |_, call| Ok(Response::json(&facts(call)))),
    Endpoint::post("/p/{key}", KEY, |_, call| Ok(Response::json(&facts(call)))),
    Endpoint::put("/p/{key}/{entry}", KEY, Probe::put),
    Endpoint::get("/p/{key}/{entry}", KEY, Probe::get),
    Endpoint::delete("/p/{key}/{entry}", KEY, Probe::delete),
    Endpoint::get("/scan/{key}", KEY, Probe::scan),
    Endpoint::get("/write-in-a-read/{key}", KEY, |_, call| {
        call.store().set("a", "b")?;
        Ok(Response::new(204))
    }),
    Endpoint::post("/many/{key}", KEY, Probe::many),
    Endpoint::post("/limits/{key}", KEY, Probe::limits),
    Endpoint::post("/discard/{key}", KEY, |_, call| {
        call.store().set("discarded", "1")?;
        Ok(Response::text("not kept").status(202).discard())
    }),
    Endpoint::post("/fail/{key}", KEY, |_, call| {
        call.store().set("failed", "1")?;
        Err(Error::new(418, "teapot", "short and stout").header("x-spout", "yes"))
    }),
    Endpoint::post("/trap/{key}", KEY, |_, call| {
        call.store().set("trapped", "1")?;
        panic!("as asked")
    }),
    Endpoint::post("/collections/{key}", KEY, Probe::collections),
    Endpoint::post("/form/{key}", KEY, Probe::form),
    Endpoint::post("/multipart/{key}", KEY, Probe::multipart),
    Endpoint::get("/respond/{key}", KEY, Probe::respond),
    Endpoint::get("/misuse/{key}", KEY, |_, call| {
        Ok(Response::json(&call.shard().partitions().count()))
    }),
    Endpoint::get("/misuse-here", Place::Here, |_, call| {
        Ok(Response::json(&call.store().get("a")))
    }),
    Endpoint::post(
        "/ids",
        Place::Key(|head, _| Ok(head.random_id().into())),
        Probe::made,
    ),
    Endpoint::get("/mine", Place::Key(by_cookie), |_, call| {
        Ok(Response::json(&facts(call)))
    }),
    Endpoint::get("/by-header", Place::Key(by_header), |_, call| {
        Ok(Response::json(&facts(call)))
    }),
    Endpoint::get("/no-key", Place::Key(|_, _| Ok(Vec::new())), Probe::here),
    Endpoint::get(
        "/long-key",
        Place::Key(|_, _| Ok(vec![b'k'; 1025])),
        Probe::here,
    ),
    Endpoint::get("/all", Place::Everywhere, Probe::part).joined(Probe::join),
    Endpoint::get("/all/misused", Place::Everywhere, Probe::part)
        .joined(|_, call, _| Ok(Response::json(&call.store().get("a")))),
    Endpoint::get("/all/unreadable", Place::Everywhere, |_, _| {
        Ok(Response::text("no JSON"))
    })
    .joined(|_, _, parts| {
        Ok(Response::json(
            &parts.iter().map(Part::json).collect::<Result<Vec<u64>>>()?,
        ))
    }),
    Endpoint::get("/all/wrong", Place::Everywhere, |_, _| {
        Ok(Response::text("1").header("content-length", "1"))
    })
    .joined(|_, _, parts| Ok(Response::json(&parts.len()))),
    Endpoint::get("/all/absent", Place::Everywhere, |_, _| {
        Ok(Response::new(404))
    })
    .joined(|_, _, parts| {
        Ok(Response::json(
            &parts.iter().map(Part::json).collect::<Result<Vec<u64>>>()?,
        ))
    }),
]);

fn by_cookie(head: &RequestHead, _: &Params) -> Result<Vec<u8>> {
    let cookie = head.cookie("who");
    Ok(cookie
        .ok_or_else(|| Error::bad_request("no cookie says who"))?
        .into())
}

fn by_header(head: &RequestHead, _: &Params) -> Result<Vec<u8>> {
    let tenant = head.header("X-Tenant").into_iter().next();
    tenant.ok_or_else(|| Error::bad_request("no header says whose"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// All that a request is told and that is the same in each run.
fn facts(call: &Call<'_>) -> Value {
    let (now, again) = (call.now(), call.now());
    let (random, next): ([u8; 20], [u8; 20]) = (call.random(), call.random());
    json!({
        "method": call.method(),
        "path": call.path(),
        "partition": call.partition().map(|partition| text(&partition)),
        "query": call.query("q").ok().flatten(),
        "headers": call.header("X-Some").iter().map(|value| text(value)).collect::<Vec<_>>(),
        "all": call.headers().iter().filter(|header| header.name.starts_with("x-")).count(),
        "cookie": call.cookie("who"),
        "body": call.body().len(),
        "ordinal is below": call.ordinal() < call.shards(),
        "shards": call.shards(),
        "time stands still": now == again,
        "this century": now > Duration::from_secs(1_700_000_000) && now < Duration::from_secs(4_000_000_000),
        "random differs": random != next && random != [0; 20],
    })
}

impl Probe {
    fn here(&self, call: &Call<'_>) -> Result<Response> {
        let settings: Vec<_> = self.settings.names();
        Ok(Response::json(&json!({
            "settings": settings,
            "number": self.settings.parsed::<u32>("number"),
            "json": self.settings.json::<Value>("json"),
            "not a number": self.settings.parsed::<u32>("json").is_err(),
            "secret": Secret::named("some").map(|secret| text(&secret.reveal())),
            "no secret": Secret::named("none").is_none(),
            "of the host": Secret::named("peer-token").is_none(),
            "partition": call.partition(),
            "partitions": call.shard().partitions().count() < 1000,
        })))
    }

    fn put(&self, call: &Call<'_>) -> Result<Response> {
        let new = call.store().get(call.param("entry")).is_none();
        call.store().set(call.param("entry"), call.body())?;
        Ok(Response::new(if new { 201 } else { 204 }))
    }

    fn get(&self, call: &Call<'_>) -> Result<Response> {
        let value = call.store().get(call.param("entry"));
        let value = value.ok_or_else(|| Error::not_found("there is no such entry"))?;
        Ok(Response::bytes("application/octet-stream", value))
    }

    fn delete(&self, call: &Call<'_>) -> Result<Response> {
        Ok(Response::json(&call.store().delete(call.param("entry"))?))
    }

    fn scan(&self, call: &Call<'_>) -> Result<Response> {
        let mut scan = call.store().scan().page_size(2);
        if let Some(prefix) = call.query("prefix")? {
            scan = scan.prefix(prefix);
        }
        if let Some(from) = call.query("from")? {
            scan = scan.from(from);
        }
        if let Some(until) = call.query("until")? {
            scan = scan.until(until);
        }
        if call.query("reverse")?.is_some() {
            scan = scan.reverse();
        }
        let keys: Vec<_> = scan.map(|entry| text(&entry.key)).collect();
        Ok(Response::json(&keys))
    }

    fn many(&self, call: &Call<'_>) -> Result<Response> {
        let store = call.store();
        store.set_many([("m1", "1"), ("m2", "22"), ("m3", "333")])?;
        let deleted = store.delete_many(["m2", "m9"])?;
        let found = store.get_many(["m1", "m2", "m3"]);
        let lengths: Vec<_> = found
            .iter()
            .map(|value| value.as_ref().map(Vec::len))
            .collect();
        Ok(Response::json(
            &json!({ "deleted": deleted, "lengths": lengths }),
        ))
    }

    /// Which writes are refused, and why; the request goes on after each.
    fn limits(&self, call: &Call<'_>) -> Result<Response> {
        let store = call.store();
        let large = vec![b'v'; 9 << 20];
        let refusals = [
            store.set("", "a").err(),
            store.set("k".repeat(1025), "a").err(),
            store.set("k".repeat(1024), "a").err(),
            store.set("large", [&large[..], b"v"].concat()).err(),
            store.set("large", &large).err(),
            store.set("larger", &large).err(),
            store
                .set_many([("fits", b"1".to_vec()), ("larger", large)])
                .err(),
        ];
        let refusals =
            refusals.map(|refusal| refusal.map(|refusal| Error::from(refusal).to_string()));
        store.delete_many(["k".repeat(1024), "large".to_owned()])?;
        Ok(Response::json(
            &json!({ "refusals": refusals, "fits": store.get("fits").is_some() }),
        ))
    }

    fn collections(&self, call: &Call<'_>) -> Result<Response> {
        let map = call.store().map::<u64, String>("numbers");
        for number in [256_u64, 1, 255] {
            map.set(number, &number.to_string())?;
        }
        let removed = (map.remove(255_u64)?, map.remove(255_u64)?);
        let numbers = map.iter().collect::<Result<Vec<_>>>()?;
        let backwards = map
            .iter()
            .from(2_u64)
            .reverse()
            .collect::<Result<Vec<_>>>()?;
        let dishes = call
            .store()
            .indexed::<String, Vec<String>, String>("dishes", |_, tags| tags.clone());
        let tags = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>();
        dishes.set("soup", &tags(&["warm", "cheap"]))?;
        dishes.set("salad", &tags(&["cold", "cheap"]))?;
        dishes.set("soup", &tags(&["warm", "good"]))?;
        let cheap = dishes.index().only("cheap").collect::<Result<Vec<_>>>()?;
        dishes.remove("salad")?;
        let all = dishes.index().collect::<Result<Vec<_>>>()?;
        Ok(Response::json(&json!({
            "removed": removed, "numbers": numbers, "backwards": backwards, "cheap": cheap, "all": all,
            "entries": call.store().scan().count(),
        })))
    }

    fn form(&self, call: &Call<'_>) -> Result<Response> {
        let form = call.form()?;
        let options: Vec<_> = form.all("option").collect();
        let number: Option<u32> = form.parsed("number")?;
        Ok(Response::json(
            &json!({ "name": form.required("name")?, "options": options, "number": number }),
        ))
    }

    fn multipart(&self, call: &Call<'_>) -> Result<Response> {
        let fields = call.multipart()?;
        let fields = fields.iter().map(|field| {
            json!([
                field.name,
                field.file_name,
                field.content_type,
                field.body.len()
            ])
        });
        Ok(Response::json(&fields.collect::<Vec<_>>()))
    }

    fn respond(&self, call: &Call<'_>) -> Result<Response> {
        let with = call.query("with")?;
        Ok(match with.as_deref() {
            Some("page") => Response::html(html::escape("<b>&\"'")).versioned(call, "v1"),
            Some("cookie") => {
                Response::new(204).cookie(Cookie::new("who", "ann").max_age(Duration::from_mins(1)))
            }
            Some("elsewhere") => Response::see_other("/p/there"),
            Some("time") => Response::text(time::rfc3339(Duration::from_hours(490_896))),
            Some("several") => Response::new(200).header("x-a", "1").header("x-a", "2"),
            Some("reserved") => Response::new(200).header("connection", "close"),
            Some("bad-name") => Response::new(200).header("x y", "1"),
            Some("bad-value") => Response::new(200).header("x-a", "1\r\nx-b: 2"),
            Some("bad-status") => Response::new(199),
            Some("large-headers") => (0..40).fold(Response::new(200), |response, _| {
                response.header("x-b", vec![b'b'; 1000])
            }),
            Some("many-headers") => (0..1000).fold(Response::new(200), |response, _| {
                response.header("x-b", "b")
            }),
            Some("no-content") => Response::text("none").status(204),
            Some("reset") => Response::text("none").status(205),
            Some("unchanged") => Response::text("none").status(304),
            Some("too-much") => Response::bytes("text/plain", vec![b'x'; (9 << 20) + 1]),
            _ => Response::new(418),
        })
    }

    /// The partition's key was made by `route`.
    fn made(&self, call: &Call<'_>) -> Result<Response> {
        let id = text(&call.partition().unwrap_or_default());
        call.store().set("made", "1")?;
        Ok(Response::json(&json!({
            "digits": id.len(),
            "hexadecimal": id.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "handle has bytes of its own": id != call.random_id(),
        })))
    }

    fn part(&self, call: &Call<'_>) -> Result<Response> {
        let keys = call.shard().partitions().map(|key| text(&key));
        Ok(Response::json(
            &keys
                .filter(|key| key.starts_with("all-"))
                .collect::<Vec<_>>(),
        ))
    }

    fn join(&self, call: &Call<'_>, parts: Vec<Part>) -> Result<Response> {
        let mut keys = Vec::new();
        for part in &parts {
            keys.extend(part.json::<Vec<String>>()?);
        }
        keys.sort_unstable();
        let same = parts.iter().all(|part| {
            part.generation()
                .is_some_and(|generation| generation.same && generation.description.name == "probe")
        });
        Ok(Response::json(&json!({
            "parts": parts.len(), "keys": keys, "same": same, "shards": call.shards(), "head": call.query("q")?,
            "random differs": call.random::<8>() != call.random::<8>(), "time stands still": call.now() == call.now(),
        })))
    }
}

impl Guest for Probe {
    fn describe(_: Settings) -> Description {
        Description::new("probe", "1.0.0")
    }

    fn new(settings: Settings) -> Result<Self, String> {
        Ok(Self { settings })
    }

    /// Fails without the secret that the setting `needs` names.
    fn check(&self) -> Result<(), String> {
        match self.settings.get("needs") {
            Some(name) if Secret::named(&String::from_utf8_lossy(&name)).is_none() => {
                Err("a secret is missing".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn route(&self, head: &RequestHead) -> Route {
        ROUTER.route(head)
    }

    fn handle(&self, request: &Request) -> Result<Response> {
        ROUTER.handle(self, request)
    }

    fn gather(&self, request: &Request, parts: Vec<Part>) -> Result<Response> {
        ROUTER.gather(self, request, parts)
    }
}
