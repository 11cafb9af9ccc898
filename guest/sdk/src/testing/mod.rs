//! A shard in memory, to test a guest's logic natively, without Wasm.
//!
//! ```
//! # use ostrakon_guest::{Description, Guest, Request, RequestHead, Response, Result, Route, Settings};
//! # struct Greeter;
//! # impl Guest for Greeter {
//! #     fn describe(_: Settings) -> Description { Description::new("greeter", "1.0.0") }
//! #     fn new(_: Settings) -> Result<Self, String> { Ok(Self) }
//! #     fn route(&self, head: &RequestHead) -> Route { Route::write(head.path()) }
//! #     fn handle(&self, _: &Request) -> Result<Response> { Ok(Response::text("hello")) }
//! # }
//! use ostrakon_guest::testing::TestShard;
//!
//! let mut shard = TestShard::<Greeter>::new().start().unwrap();
//! assert_eq!(shard.get("/ann").text(), "hello");
//! ```
//!
//! It behaves like the host. It calls `route` and then `handle`, lets each export use only the imports that the contract
//! allows, and enforces the limits. It stores all writes of a request or, after a panic or a discarded response, none.
//! It enforces no deadlines, no bound on memory and handles, and none of HTTP's own bounds on a request's head.

mod call;
mod cluster;
pub(crate) mod imports;
mod reply;

use std::{
    collections::BTreeMap,
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use call::{Call, Export};
pub use cluster::TestCluster;
pub use reply::Reply;

use crate::{
    Access, Description, Generation, Guest, Migration, Part, Request, RequestHead, Response, Route,
    Settings, Shard, Target, exports, log::Level,
};

/// The time at which a shard starts, since 1970-01-01 UTC: 2026-01-01 00:00.
const START: Duration = Duration::from_hours(490_896);

/// The entries of a partition: values by their keys.
pub type Partition = BTreeMap<Vec<u8>, Vec<u8>>;

/// The bounds that the host sets, in bytes, with its defaults.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The most bytes of a partition's key: 1,024 by default.
    pub partition_key: usize,
    /// The most bytes of an entry's key: 1,024 by default.
    pub key: usize,
    /// The most bytes of a value: 9 MiB by default.
    pub value: usize,
    /// The most bytes of a partition's keys and values together: 16 MiB by default.
    pub partition: usize,
    /// The most bytes of a request's body: 8 MiB by default; more is answered with 413.
    pub body: usize,
    /// The most bytes of a reply's headers and body: 9 MiB by default.
    pub reply: usize,
    /// The most bytes that one call of an import hands over, either way: 18 MiB by default.
    pub call: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            partition_key: 1024,
            key: 1024,
            value: 9 << 20,
            partition: 16 << 20,
            body: 8 << 20,
            reply: 9 << 20,
            call: 18 << 20,
        }
    }
}

/// Everything that a shard has besides its guest.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) partitions: BTreeMap<Vec<u8>, Partition>,
    pub(crate) settings: BTreeMap<String, Vec<u8>>,
    pub(crate) secrets: BTreeMap<String, Vec<u8>>,
    pub(crate) limits: Limits,
    pub(crate) ordinal: u32,
    pub(crate) shards: u32,
    pub(crate) log: Vec<(Level, String)>,
    pub(crate) now: Duration,
    pub(crate) seed: u64,
    /// The number of the current request.
    pub(crate) request: u64,
    /// Whether its `route` asked for a reply before the write is durable.
    pub(crate) relaxed: bool,
}

/// A client's request.
#[derive(Clone, Copy)]
struct Asked<'a> {
    method: &'a str,
    path: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: &'a [u8],
}

impl Asked<'_> {
    fn head(&self) -> RequestHead {
        RequestHead::new(self.method, self.path)
    }
}

/// A shard in memory with a guest.
pub struct TestShard<G> {
    world: World,
    description: Description,
    guest: Option<G>,
}

/// A shard that has not started yet.
pub struct Builder<G> {
    world: World,
    schema: Option<u32>,
    guest: std::marker::PhantomData<G>,
}

impl<G> fmt::Debug for TestShard<G> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TestShard")
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}

impl<G: Guest> TestShard<G> {
    /// A shard that is not started: the only shard, without data, settings and secrets, with the host's default limits.
    #[expect(
        clippy::new_ret_no_self,
        reason = "settings are given before the shard starts"
    )]
    pub fn new() -> Builder<G> {
        Builder {
            world: World {
                shards: 1,
                now: START,
                ..World::default()
            },
            schema: None,
            guest: std::marker::PhantomData,
        }
    }

    /// The description that the guest gave when the shard started.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The shard that owns a partition, by the guest's `owner`.
    ///
    /// # Panics
    /// If the guest panics, or returns a shard that does not exist.
    pub fn owner(&mut self, partition: impl AsRef<[u8]>, shards: u32) -> u32 {
        let owner = self
            .call(Export::Owner, |guest| {
                guest.owner(partition.as_ref(), shards)
            })
            .expect("owner panicked");
        assert!(owner < shards, "owner gave {owner} of {shards} shards");
        owner
    }

    /// The guest's route for a request without headers.
    ///
    /// # Panics
    /// If the guest panics.
    pub fn route(&mut self, method: &str, path_with_query: &str) -> Route {
        self.route_with(method, path_with_query, &[])
    }

    /// The guest's route for a request.
    ///
    /// # Panics
    /// If the guest panics.
    pub fn route_with(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Route {
        self.world.request += 1;
        let body = b"";
        let asked = Asked {
            method,
            path,
            headers,
            body,
        };
        self.routed(asked).expect("route panicked")
    }

    /// Whether the last request or [`route`](Self::route) asked for a reply before the write is durable.
    pub fn is_relaxed(&self) -> bool {
        self.world.relaxed
    }

    /// The time that the guest sees, since 1970-01-01 UTC.
    pub fn now(&self) -> Duration {
        self.world.now
    }

    /// Lets time pass. It stands still otherwise.
    pub fn advance(&mut self, by: Duration) {
        self.world.now += by;
    }

    /// The reply to a request without a body or headers.
    pub fn get(&mut self, path_with_query: &str) -> Reply {
        self.send("GET", path_with_query, &[], "")
    }

    /// The reply to a POST without headers.
    pub fn post(&mut self, path_with_query: &str, body: impl AsRef<[u8]>) -> Reply {
        self.send("POST", path_with_query, &[], body)
    }

    /// The reply to a PUT without headers.
    pub fn put(&mut self, path_with_query: &str, body: impl AsRef<[u8]>) -> Reply {
        self.send("PUT", path_with_query, &[], body)
    }

    /// The reply to a DELETE without headers.
    pub fn delete(&mut self, path_with_query: &str) -> Reply {
        self.send("DELETE", path_with_query, &[], "")
    }

    /// The reply to any request. If the guest panics, the reply is a 500 and the instance is dropped, as in the host.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Reply {
        let body = body.as_ref();
        let asked = Asked {
            method,
            path,
            headers,
            body,
        };
        let parts = match self.answer(asked) {
            Answer::Reply(reply) => return reply,
            Answer::Part(part) => vec![part],
        };
        let generations = self.all_same(&parts);
        self.gathered(asked, parts, generations)
    }

    /// This shard's part of the response to a request that is routed everywhere.
    ///
    /// # Panics
    /// If the request is routed elsewhere, or the guest fails.
    pub fn part(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Part {
        let body = b"";
        match self.answer(Asked {
            method,
            path,
            headers,
            body,
        }) {
            Answer::Part(part) => part,
            Answer::Reply(reply) => panic!("the request is not routed everywhere: {reply:?}"),
        }
    }

    /// The reply that the guest's `gather` makes from the parts of several shards of this generation.
    pub fn gather(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        parts: Vec<Part>,
    ) -> Reply {
        let (generations, body) = (self.all_same(&parts), b"");
        self.gathered(
            Asked {
                method,
                path,
                headers,
                body,
            },
            parts,
            generations,
        )
    }

    /// The entries of a partition, if it exists.
    pub fn partition(&self, partition: impl AsRef<[u8]>) -> Option<&Partition> {
        self.world.partitions.get(partition.as_ref())
    }

    /// The lines that the guest has written to the log.
    pub fn log(&self) -> &[(Level, String)] {
        &self.world.log
    }

    /// Sets or replaces a secret, like a rotation of the Secret.
    pub fn rotate(&mut self, name: &str, secret: impl Into<Vec<u8>>) {
        self.world.secrets.insert(name.into(), secret.into());
    }

    /// Stops the shard. Its data, secrets and settings stay for the next start, with this guest or another one.
    pub fn swap<H: Guest>(self) -> Builder<H> {
        Builder {
            world: self.world,
            schema: Some(self.description.schema),
            guest: std::marker::PhantomData,
        }
    }

    fn answer(&mut self, asked: Asked<'_>) -> Answer {
        if asked.body.len() > self.world.limits.body {
            return Answer::Reply(Reply::status(413));
        }
        self.world.request += 1;
        match self.routed(asked) {
            Some(route) => self.run(asked, route),
            None => Answer::Reply(Reply::failed()),
        }
    }

    fn routed(&mut self, asked: Asked<'_>) -> Option<Route> {
        let headers = call::headers(asked.headers);
        let head = asked.head();
        self.world.relaxed = false;
        self.call(Export::Route { headers }, |guest| guest.route(&head))
    }

    fn run(&mut self, asked: Asked<'_>, Route { target, access }: Route) -> Answer {
        let everywhere = target == Target::Everywhere;
        let headers = call::headers(asked.headers);
        let export = match target {
            Target::Partition(key)
                if key.is_empty() || key.len() > self.world.limits.partition_key =>
            {
                return Answer::Reply(Reply::status(400));
            }
            Target::Partition(partition) => Export::Partition {
                partition,
                write: access == Access::Write,
                headers,
            },
            Target::Here | Target::Everywhere => Export::Shard { headers },
        };
        let request = Request::new(asked.head(), asked.body.to_vec());
        let before = self.world.partitions.clone();
        let response = self.call(export, |guest| exports::reply(guest.handle(&request)));
        let discard = response.as_ref().is_none_or(|response| response.discard);
        let shard = self.world.ordinal;
        match response {
            Some(response) if everywhere => {
                let Response {
                    status,
                    headers,
                    body,
                    ..
                } = &response;
                if reply::allowed(*status, headers, body, &self.world.limits) {
                    Answer::Part(Part { shard, response })
                } else {
                    Answer::Reply(Reply::failed())
                }
            }
            response => {
                let reply = self.checked(response, asked);
                if discard || reply.failed {
                    self.world.partitions = before;
                }
                Answer::Reply(reply)
            }
        }
    }

    fn gathered(
        &mut self,
        asked: Asked<'_>,
        parts: Vec<Part>,
        generations: BTreeMap<u32, Generation>,
    ) -> Reply {
        let request = Request::new(asked.head(), Vec::new());
        let export = Export::Gather {
            headers: call::headers(asked.headers),
            generations,
        };
        let response = self.call(export, |guest| {
            exports::reply(guest.gather(&request, parts))
        });
        self.checked(response, asked)
    }

    fn checked(&self, response: Option<Response>, asked: Asked<'_>) -> Reply {
        Reply::checked(response, asked.method, &self.world.limits)
    }

    /// The generations of parts that are all of this one.
    fn all_same(&self, parts: &[Part]) -> BTreeMap<u32, Generation> {
        let mine = Generation {
            same: true,
            description: self.description.clone(),
        };
        let of_each = parts.iter().map(|part| (part.shard, mine.clone()));
        of_each.collect()
    }

    /// Calls an export with the imports that it may use, in a new instance if the last one was dropped. Returns `None` if
    /// the guest panicked.
    fn call<T>(&mut self, export: Export, call: impl FnOnce(&G) -> T) -> Option<T> {
        if self.guest.is_none() {
            self.guest =
                Some(within(&mut self.world, Export::Start, || G::new(Settings(())))?.ok()?);
        }
        let guest = self.guest.as_ref()?;
        let result = within(&mut self.world, export, || call(guest));
        if result.is_none() {
            self.guest = None;
        }
        result
    }
}

enum Answer {
    Reply(Reply),
    Part(Part),
}

/// Calls a guest with a shard's imports. Returns `None` if the guest panicked.
fn within<T>(world: &mut World, export: Export, call: impl FnOnce() -> T) -> Option<T> {
    call::enter(Call {
        world: mem::take(world),
        export,
        given: 0,
    });
    let result = catch_unwind(AssertUnwindSafe(call));
    *world = call::leave().world;
    result.ok()
}

impl<G: Guest> Builder<G> {
    /// Sets the content of a key in the ConfigMap.
    #[must_use]
    pub fn setting(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.world.settings.insert(name.into(), content.into());
        self
    }

    /// Sets the content of a key in the Secret.
    #[must_use]
    pub fn secret(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.world.secrets.insert(name.into(), content.into());
        self
    }

    /// Makes this shard number `ordinal`, counted from 0, of `shards` shards.
    #[must_use]
    pub fn ordinal(mut self, ordinal: u32, shards: u32) -> Self {
        (self.world.ordinal, self.world.shards) = (ordinal, shards);
        self
    }

    /// Sets the time at which the shard starts, since 1970-01-01 UTC: by default the begin of 2026.
    #[must_use]
    pub fn now(mut self, now: Duration) -> Self {
        self.world.now = now;
        self
    }

    /// Sets what random bytes are made of: the same seed and requests give the same bytes.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.world.seed = seed;
        self
    }

    /// Sets other limits than the host's defaults.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.world.limits = limits;
        self
    }

    /// Starts the shard as the host does: `describe`, `check`, and `migrate` if the data's schema is older.
    ///
    /// # Errors
    /// The reason for which the guest is refused.
    pub fn start(self) -> Result<TestShard<G>, String> {
        let mut world = self.world;
        let settings = Settings(());
        let description = within(&mut world, Export::Describe, || G::describe(settings))
            .ok_or("describe panicked")?;
        let schema = self.schema.unwrap_or(description.schema);
        let guest =
            within(&mut world, Export::Start, || G::new(settings)).ok_or("new panicked")??;
        within(&mut world, Export::Check, || guest.check()).ok_or("check panicked")??;
        if schema > description.schema {
            return Err(format!(
                "the data has schema {schema}, the guest {}",
                description.schema
            ));
        }
        if schema < description.schema {
            let partitions = world.partitions.keys().cloned().collect();
            within(&mut world, Export::Migrate { partitions }, || {
                guest.migrate(schema, &Migration(Shard(())))
            })
            .ok_or("migrate panicked")??;
        }
        Ok(TestShard {
            world,
            description,
            guest: Some(guest),
        })
    }
}
