//! A guest that misbehaves in every way on request, and behaves well otherwise.
//!
//! | request | response |
//! | --- | --- |
//! | `/get/<k>`, `/set/<k>/<v>` | returns the value of the partition `k`; stores it |
//! | `/get-many/<k>`, `/set-many/<k>/<v>` | the partition's values, with commas; stores the value in 8 entries of it |
//! | `/shards` | the number of shards; `at=everywhere` joins the numbers of all shards and of `gather` |
//! | `/label` | the setting `label` |
//! | `/who/<k>` | the setting `label`, of the partition `k`; `access=write` stores it there, too |
//! | `/code` | the setting `label`, and a mark in the code that a test can change |
//! | `/routed/<k>` | as `/sequence/<k>`, with the setting `label`, in the partition `<label>-<k>` |
//! | `/sequence/<k>` | stores the setting `sequence` in the partition `k`; returns the former value, or nothing |
//! | `/<misdeed>` | does the misdeed: see `misdeed` |
//!
//! A misdeed is done in `handle` of a `read` of the partition `hostile`, unless the query says otherwise:
//! `access=write`; `at=here`, `at=everywhere` (in `handle`); `at=route`, `at=owner`, `at=gather` (in these exports);
//! `partition=<k>`.
//!
//! The setting `misbehave` is a comma-separated list of `<misdeed>-in-<export>`, for requests and exports without a
//! query, of `schema=<n>`, `sharding=<n>` and `name=<text>`, which change the result of `describe`, and of
//! `needs=<secret>` and `migrate-needs=<secret>`, without which `check` and `migrate` fail, `trap-on-shard=<n>`, by
//! which `handle` traps in that shard, `trap-on=<k>` and `migrate-trap-on=<k>`, by which `handle` and `migrate` trap in
//! the partition `k`, `trap-each=<n>`, by which each n-th `/get`, `/set` or `/who` of an instance traps,
//! `trap-on-who=<label>`, by which `/who` traps where that label is stored, `status=<n>`, its status, `turns=<n>`, by which these three take longer, and `differ=<what>`, by which `/get/<k>`, or
//! with `writes` `/set/<k>/<v>`, differs from that of other generations in `route`, `status`, `header`, `body` or
//! `writes`, or with `state` from each other answer. The misdeeds `error` (in `check` and `migrate`) and `out-of-range` (in `owner`)
//! exist only in these exports.

mod misdeed;

use std::sync::atomic::{AtomicU64, Ordering};

use ostrakon_guest::{
    Description, Guest, Migration, Part, Request, RequestHead, Response, Result, Route, Secret,
    Settings,
};

pub struct Hostile {
    settings: Settings,
}

ostrakon_guest::export!(Hostile);

/// The prefix of keys that make `owner` do the misdeed after the prefix.
const OWNER: &str = "in-owner:";

/// A mark that tests change in the component's bytes, to tell apart code that is otherwise the same.
static CODE: [u8; 16] = *b"this is code one";

/// How many answers this instance has given that differ from the one before.
static ANSWERS: AtomicU64 = AtomicU64::new(0);

impl Guest for Hostile {
    fn describe(settings: Settings) -> Description {
        planned(settings, "describe");
        let number = |name| {
            assigned(settings, name)
                .map_or(1, |number| number.parse().expect("the setting is a number"))
        };
        let name = assigned(settings, "name=").unwrap_or_else(|| "hostile".to_owned());
        Description::new(&name, "1.0.0")
            .with_schema(number("schema="))
            .with_sharding(number("sharding="))
    }

    fn new(settings: Settings) -> Result<Self, String> {
        Ok(Self { settings })
    }

    fn check(&self) -> Result<(), String> {
        planned(self.settings, "check");
        self.needs("needs=")?;
        self.planned_error("check")
    }

    fn owner(&self, partition: &[u8], shards: u32) -> u32 {
        planned(self.settings, "owner");
        let misdeed = std::str::from_utf8(partition)
            .ok()
            .and_then(|key| key.strip_prefix(OWNER));
        if misdeed == Some("out-of-range")
            || asked(self.settings)
                .iter()
                .any(|item| item == "out-of-range-in-owner")
        {
            return shards;
        }
        if let Some(misdeed) = misdeed {
            misdeed::commit(misdeed, None);
        }
        ostrakon_guest::sharding::jump(partition, shards)
    }

    fn route(&self, head: &RequestHead) -> Route {
        planned(self.settings, "route");
        let segments = head.segments().unwrap_or_default();
        let names: Vec<&str> = segments.iter().map(String::as_str).collect();
        let query = |name| head.query(name).ok().flatten();
        let write = query("access").as_deref() == Some("write");
        match (&names[..], query("at").as_deref()) {
            (["get", key], _) if self.differs_in("route") => Route::read(format!("other-{key}")),
            (["who", key], _) if write => Route::write(*key),
            (["get" | "get-many" | "who", key], _) => Route::read(*key),
            (["set" | "set-many", key, _] | ["sequence", key], _) => {
                if query("relaxed").is_some() {
                    head.relax();
                }
                Route::write(*key)
            }
            (["routed", key], _) => {
                let label = text(self.settings.get("label"));
                Route::write(format!("{label}-{key}"))
            }
            (["label" | "code"], _) | (_, Some("here")) => Route::here(),
            ([misdeed], Some("route")) => {
                misdeed::commit(misdeed, None);
                Route::here()
            }
            ([misdeed], Some("owner")) => Route::read([OWNER, misdeed].concat()),
            (_, Some("everywhere" | "gather")) => Route::everywhere(),
            _ => {
                let partition = query("partition").unwrap_or_else(|| "hostile".to_owned());
                if write {
                    Route::write(partition)
                } else {
                    Route::read(partition)
                }
            }
        }
    }

    fn handle(&self, request: &Request) -> Result<Response> {
        planned(self.settings, "handle");
        if assigned(self.settings, "trap-on-shard=") == Some(request.ordinal().to_string()) {
            misdeed::commit("trap", None);
        }
        let segments = request.segments()?;
        let names: Vec<&str> = segments.iter().map(String::as_str).collect();
        let store = request.store();
        if let ["get" | "set" | "who", key, ..] = names[..] {
            self.trap_each();
            if assigned(self.settings, "trap-on=").as_deref() == Some(key) {
                misdeed::commit("trap", None);
            }
            self.take_longer();
        }
        match names[..] {
            ["get", _] => Ok(self.differing(Response::text(text(store.get("value"))))),
            ["set", _, value] => {
                store.set("value", value)?;
                if self.differs_in("writes") {
                    store.set("another", value)?;
                }
                Ok(Response::text(value))
            }
            ["who", _] => {
                let before = store.get("who").map(|who| text(Some(who)));
                if before.is_some() && assigned(self.settings, "trap-on-who=") == before {
                    misdeed::commit("trap", None);
                }
                let label = text(self.settings.get("label"));
                if request.query("access")?.is_some() {
                    store.set("who", &label)?;
                }
                let status = assigned(self.settings, "status=");
                let status = status.map_or(200, |status| status.parse().expect("a status"));
                Ok(Response::text(label).status(status))
            }
            ["get-many", _] => {
                let values = store.scan().map(|entry| entry.value);
                Ok(Response::text(text(Some(
                    values.collect::<Vec<_>>().join(&b','),
                ))))
            }
            ["set-many", _, value] => {
                (0..8u8).try_for_each(|part| store.set([b'p', part], value))?;
                Ok(Response::text(value))
            }
            ["shards"] => Ok(Response::text(request.shards().to_string())),
            ["label"] => Ok(Response::text(text(self.settings.get("label")))),
            ["code"] => {
                let code = String::from_utf8_lossy(std::hint::black_box(&CODE));
                let label = text(self.settings.get("label"));
                Ok(Response::text(format!("{label} {code}")))
            }
            ["routed", _] => {
                let before = store.get("label");
                store.set("label", text(self.settings.get("label")))?;
                Ok(Response::text(text(before)))
            }
            ["sequence", _] => {
                let before = store.get("sequence");
                store.set("sequence", text(self.settings.get("sequence")))?;
                Ok(Response::text(text(before)))
            }
            [misdeed] if request.query("at")?.as_deref() != Some("gather") => {
                Ok(misdeed::commit(misdeed, Some(request)))
            }
            _ => Ok(Response::text("behaved")),
        }
    }

    fn gather(&self, request: &Request, parts: Vec<Part>) -> Result<Response> {
        planned(self.settings, "gather");
        match &request.segments()?[..] {
            [shards] if shards == "shards" => {
                let said = parts.into_iter().map(|part| text(Some(part.response.body)));
                let said = said.chain([request.shards().to_string()]);
                Ok(Response::text(said.collect::<Vec<_>>().join(",")))
            }
            [misdeed] if request.query("at")?.as_deref() == Some("gather") => {
                Ok(misdeed::commit(misdeed, Some(request)))
            }
            _ => Ok(Response::text("behaved")),
        }
    }

    /// Marks each value with a `~`, and only then misbehaves: in that case none of the marks may be stored.
    fn migrate(&self, _from: u32, shard: &Migration) -> Result<(), String> {
        let traps_on = assigned(self.settings, "migrate-trap-on=");
        for mut entry in shard.scan() {
            if traps_on
                .as_ref()
                .is_some_and(|key| key.as_bytes() == entry.partition)
            {
                misdeed::commit("trap", None);
            }
            entry.value.push(b'~');
            shard.set_many(&[entry])?;
        }
        planned(self.settings, "migrate");
        self.needs("migrate-needs=")?;
        self.planned_error("migrate")
    }
}

impl Hostile {
    /// Fails without the secret that this item of the setting names.
    fn needs(&self, item: &str) -> Result<(), String> {
        match assigned(self.settings, item) {
            Some(name) if Secret::named(&name).is_none() => Err(format!("the Secret lacks {name}")),
            _ => Ok(()),
        }
    }

    fn differs_in(&self, what: &str) -> bool {
        assigned(self.settings, "differ=").as_deref() == Some(what)
    }

    fn differing(&self, mut response: Response) -> Response {
        if self.differs_in("status") {
            response = response.status(404);
        }
        if self.differs_in("header") {
            response = response.header("x-other", "yes");
        }
        if self.differs_in("body") {
            response.body.push(b'!');
        }
        if self.differs_in("state") {
            let answers = ANSWERS.fetch_add(1, Ordering::Relaxed);
            let label = text(self.settings.get("label"));
            response
                .body
                .extend(format!("{label}-{answers}").into_bytes());
        }
        response
    }

    fn trap_each(&self) {
        let Some(each) = assigned(self.settings, "trap-each=") else {
            return;
        };
        let each: u64 = each.parse().expect("the setting is a number");
        let answers = ANSWERS.fetch_add(1, Ordering::Relaxed) + 1;
        if answers.is_multiple_of(each) {
            misdeed::commit("trap", None);
        }
    }

    fn take_longer(&self) {
        let turns = assigned(self.settings, "turns=");
        let turns = turns.map_or(0, |turns| turns.parse().expect("the setting is a number"));
        for turn in 0..turns {
            std::hint::black_box(turn);
        }
    }

    fn planned_error(&self, export: &str) -> Result<(), String> {
        let error = ["error-in-", export].concat();
        if asked(self.settings).contains(&error) {
            Err("an error was asked for".to_owned())
        } else {
            Ok(())
        }
    }
}

/// Does what the settings ask for in an export.
fn planned(settings: Settings, export: &str) {
    let suffix = ["-in-", export].concat();
    for misdeed in asked(settings)
        .iter()
        .filter_map(|item| item.strip_suffix(&suffix))
    {
        if !["error", "out-of-range"].contains(&misdeed) {
            misdeed::commit(misdeed, None);
        }
    }
}

/// The items of the setting `misbehave`.
fn asked(settings: Settings) -> Vec<String> {
    text(settings.get("misbehave"))
        .trim()
        .split(',')
        .map(str::to_owned)
        .collect()
}

fn assigned(settings: Settings, name: &str) -> Option<String> {
    asked(settings)
        .iter()
        .find_map(|item| item.strip_prefix(name))
        .map(str::to_owned)
}

fn text(content: Option<Vec<u8>>) -> String {
    String::from_utf8_lossy(&content.unwrap_or_default()).into_owned()
}
