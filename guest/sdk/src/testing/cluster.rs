//! Several shards in memory.

use std::{any::TypeId, collections::BTreeMap, fmt, mem, time::Duration};

use super::{Answer, Asked, Builder, Export, Partition, Reply, TestShard, World, within};
use crate::{
    Description, Generation, Guest, Migration, Part, Route, Settings, Shard, Target, log::Level,
};

/// How often a request is passed on from one shard to the next.
const MAX_HOPS: usize = 8;

/// Several shards in memory, to test what a guest does as one of them: where its partitions are, how the answers of
/// all shards are joined, and what happens while some shards have its new version and others the old one.
///
/// ```
/// # use ostrakon_guest::{Description, Guest, Part, Request, RequestHead, Response, Result, Route, Settings};
/// # struct Greeter;
/// # impl Guest for Greeter {
/// #     fn describe(_: Settings) -> Description { Description::new("greeter", "1.0.0") }
/// #     fn new(_: Settings) -> Result<Self, String> { Ok(Self) }
/// #     fn route(&self, head: &RequestHead) -> Route { Route::write(head.path()) }
/// #     fn handle(&self, request: &Request) -> Result<Response> {
/// #         let visits = request.store().get_json("visits")?.unwrap_or(0) + 1;
/// #         request.store().set_json("visits", &visits)?;
/// #         Ok(Response::text(visits.to_string()))
/// #     }
/// # }
/// use ostrakon_guest::testing::{TestCluster, TestShard};
///
/// let mut cluster = TestCluster::start(3, TestShard::<Greeter>::new).unwrap();
/// assert_eq!(cluster.get("/ann").text(), "1");
/// cluster.scale(5);
/// assert_eq!(cluster.ask(4).get("/ann").text(), "2");
/// ```
pub struct TestCluster {
    shards: Vec<Box<dyn Node>>,
    /// Starts one more shard.
    add: Box<dyn Fn() -> Result<Box<dyn Node>, String>>,
    request: u64,
}

/// A shard of a cluster, whatever its guest.
trait Node {
    fn world(&mut self) -> &mut World;
    fn description(&self) -> &Description;
    /// Whether two shards have the same guest with the same settings.
    fn generation(&self) -> (TypeId, &BTreeMap<String, Vec<u8>>);
    fn owner(&mut self, partition: &[u8], shards: u32) -> u32;
    fn routed(&mut self, asked: Asked<'_>) -> Option<Route>;
    fn run(&mut self, asked: Asked<'_>, route: Route) -> Answer;
    fn gathered(
        &mut self,
        asked: Asked<'_>,
        parts: Vec<Part>,
        generations: BTreeMap<u32, Generation>,
    ) -> Reply;
    /// Brings partitions that arrive from a shard with an older schema to the schema of this one.
    fn migrated(
        &mut self,
        from: u32,
        partitions: BTreeMap<Vec<u8>, Partition>,
    ) -> Result<BTreeMap<Vec<u8>, Partition>, String>;
}

impl<G: Guest> Node for TestShard<G> {
    fn world(&mut self) -> &mut World {
        &mut self.world
    }

    fn description(&self) -> &Description {
        &self.description
    }

    fn generation(&self) -> (TypeId, &BTreeMap<String, Vec<u8>>) {
        (TypeId::of::<G>(), &self.world.settings)
    }

    fn owner(&mut self, partition: &[u8], shards: u32) -> u32 {
        Self::owner(self, partition, shards)
    }

    fn routed(&mut self, asked: Asked<'_>) -> Option<Route> {
        Self::routed(self, asked)
    }

    fn run(&mut self, asked: Asked<'_>, route: Route) -> Answer {
        Self::run(self, asked, route)
    }

    fn gathered(
        &mut self,
        asked: Asked<'_>,
        parts: Vec<Part>,
        generations: BTreeMap<u32, Generation>,
    ) -> Reply {
        Self::gathered(self, asked, parts, generations)
    }

    fn migrated(
        &mut self,
        from: u32,
        partitions: BTreeMap<Vec<u8>, Partition>,
    ) -> Result<BTreeMap<Vec<u8>, Partition>, String> {
        if from >= self.description.schema {
            return Ok(partitions);
        }
        let keys = partitions.keys().cloned().collect();
        let mine = mem::replace(&mut self.world.partitions, partitions);
        let migrated = within(
            &mut self.world,
            Export::Migrate { partitions: keys },
            || {
                let guest = G::new(Settings(()))?;
                guest.migrate(from, &Migration(Shard(())))
            },
        );
        let arrived = mem::replace(&mut self.world.partitions, mine);
        migrated.ok_or("migrate panicked")??;
        Ok(arrived)
    }
}

impl fmt::Debug for TestCluster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards = self.shards.iter().map(|shard| shard.description());
        formatter.debug_list().entries(shards).finish()
    }
}

impl TestCluster {
    /// Starts this many shards, each as the builder says.
    ///
    /// # Errors
    /// The reason for which the guest is refused.
    ///
    /// # Panics
    /// If there are to be no shards.
    pub fn start<G: Guest>(
        shards: u32,
        shard: impl Fn() -> Builder<G> + 'static,
    ) -> Result<Self, String> {
        assert!(shards > 0, "a cluster has at least one shard");
        let mut cluster = Self {
            shards: Vec::new(),
            add: Box::new(move || Ok(Box::new(shard().start()?))),
            request: 0,
        };
        for _ in 0..shards {
            cluster.shards.push((cluster.add)()?);
        }
        cluster.number();
        Ok(cluster)
    }

    /// The shards to ask: a client may ask any of them.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn ask(&mut self, shard: u32) -> Client<'_> {
        assert!(shard < self.count(), "there are {} shards", self.count());
        Client {
            cluster: self,
            shard,
        }
    }

    /// The reply to a request without a body or headers, from shard 0.
    pub fn get(&mut self, path_with_query: &str) -> Reply {
        self.ask(0).get(path_with_query)
    }

    /// Replaces the guest of one shard, as a swap does. Partitions stay where they are.
    ///
    /// # Errors
    /// The reason for which the new guest is refused. The shard keeps the former one.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn swap<G: Guest>(
        &mut self,
        shard: u32,
        next: impl Fn() -> Builder<G> + 'static,
    ) -> Result<(), String> {
        let node = &mut self.shards[shard as usize];
        let schema = node.description().schema;
        let Builder { world, .. } = next();
        let before = node.world();
        let world = World {
            partitions: before.partitions.clone(),
            log: before.log.clone(),
            ordinal: before.ordinal,
            shards: before.shards,
            now: before.now,
            ..world
        };
        let guest = std::marker::PhantomData::<G>;
        let schema = Some(schema);
        *node = Box::new(
            Builder {
                world,
                schema,
                guest,
            }
            .start()?,
        );
        self.add = Box::new(move || Ok(Box::new(next().start()?)));
        Ok(())
    }

    /// Changes the number of shards: starts new ones with the guest of the last [swap](Self::swap), and moves each
    /// partition to its owner.
    ///
    /// # Panics
    /// If there are to be no shards, a new shard does not start, or a partition that moves cannot be migrated.
    pub fn scale(&mut self, shards: u32) {
        assert!(shards > 0, "a cluster has at least one shard");
        while self.count() < shards {
            let mut added = (self.add)().expect("the new shard starts");
            added.world().now = self.shards[0].world().now;
            self.shards.push(added);
        }
        self.place(shards);
        self.shards.truncate(shards as usize);
        self.number();
    }

    /// Moves each partition to the shard that owns it by that shard's `owner`: after a swap to a guest that places
    /// partitions in another way.
    ///
    /// # Panics
    /// If a partition that moves cannot be migrated.
    pub fn rebalance(&mut self) {
        self.place(self.count());
    }

    /// The shard that has a partition, and its entries.
    pub fn partition(&mut self, key: impl AsRef<[u8]>) -> Option<(u32, Partition)> {
        self.shards.iter_mut().find_map(|shard| {
            let world = shard.world();
            let partition = world.partitions.get(key.as_ref())?.clone();
            Some((world.ordinal, partition))
        })
    }

    /// Lets time pass on all shards. It stands still otherwise.
    pub fn advance(&mut self, by: Duration) {
        for shard in &mut self.shards {
            shard.world().now += by;
        }
    }

    /// The lines that the guest of a shard has written to the log.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn log(&mut self, shard: u32) -> &[(Level, String)] {
        &self.shards[shard as usize].world().log
    }

    fn count(&self) -> u32 {
        u32::try_from(self.shards.len()).expect("there are fewer than 2^32 shards")
    }

    /// Tells the shards their ordinals, and how many there are.
    fn number(&mut self) {
        let count = self.count();
        for (ordinal, shard) in (0..).zip(&mut self.shards) {
            let world = shard.world();
            (world.ordinal, world.shards) = (ordinal, count);
        }
    }

    fn place(&mut self, shards: u32) {
        for from in 0..self.shards.len() {
            let schema = self.shards[from].description().schema;
            let partitions = mem::take(&mut self.shards[from].world().partitions);
            for (key, partition) in partitions {
                let to = self.shards[from].owner(&key, shards) as usize;
                let arriving = BTreeMap::from([(key, partition)]);
                let arrived = if to == from {
                    Ok(arriving)
                } else {
                    self.shards[to].migrated(schema, arriving)
                };
                let arrived = arrived.expect("partitions that arrive can be migrated");
                self.shards[to].world().partitions.extend(arrived);
            }
        }
    }

    fn send(&mut self, shard: u32, asked: Asked<'_>) -> Reply {
        let asks = self.shards[shard as usize].world();
        if asked.body.len() > asks.limits.body {
            return Reply::status(413);
        }
        self.request += 1;
        for shard in &mut self.shards {
            shard.world().request = self.request;
        }
        let shards = self.count();
        let mut at = shard as usize;
        for _ in 0..MAX_HOPS {
            let Some(route) = self.shards[at].routed(asked) else {
                return Reply::failed();
            };
            let to = match &route.target {
                Target::Here => at,
                Target::Everywhere => return self.everywhere(at, asked, &route),
                Target::Partition(key) if key.is_empty() => at,
                Target::Partition(key) => self.shards[at].owner(key, shards) as usize,
            };
            if to == at {
                return match self.shards[at].run(asked, route) {
                    Answer::Reply(reply) => reply,
                    Answer::Part(_) => unreachable!("only a request to all shards has parts"),
                };
            }
            at = to;
        }
        panic!("the shards pass the request on to each other: their guests name different owners");
    }

    fn everywhere(&mut self, at: usize, asked: Asked<'_>, route: &Route) -> Reply {
        let (guest, settings) = self.shards[at].generation();
        let mine = (guest, settings.clone());
        let (mut parts, mut generations) = (Vec::new(), BTreeMap::new());
        for (ordinal, shard) in (0..).zip(&mut self.shards) {
            match shard.run(asked, route.clone()) {
                Answer::Part(part) => parts.push(part),
                // As in the host: a guest that fails on one shard fails the request.
                Answer::Reply(reply) => return reply,
            }
            let description = shard.description().clone();
            let (guest, settings) = shard.generation();
            let same = guest == mine.0 && *settings == mine.1;
            generations.insert(ordinal, Generation { same, description });
        }
        self.shards[at].gathered(asked, parts, generations)
    }
}

/// A client of one of the shards.
#[derive(Debug)]
pub struct Client<'a> {
    cluster: &'a mut TestCluster,
    shard: u32,
}

impl Client<'_> {
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

    /// The reply to any request. The shard passes it on to the owner of its partition, or asks all shards, as its route
    /// says.
    ///
    /// # Panics
    /// If the shards' guests name different owners, so that the request never arrives.
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
        self.cluster.send(self.shard, asked)
    }
}
