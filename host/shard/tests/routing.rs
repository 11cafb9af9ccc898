//! Clients that are redirected between shards at moments that are hard to reach with processes:
//! while a partition is in flight, and before a shard has heard of the newest topology. The
//! services, writers and guests are real; the messages between them are calls.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use ostrakon_base::digest::Digest;
use ostrakon_contract::client::Client;
use ostrakon_contract::contract::{Kept, Reply, Request};
use ostrakon_engine::{Compiler, Engine, Environment, Guest, Identity, Limits, Purpose};
use ostrakon_observe::metrics::Metrics;
use ostrakon_observe::trace::Trace;
use ostrakon_protocol::Received;
use ostrakon_protocol::{
    Authority, ClusterId, Epoch, HandOff, Incarnation, Ordinal, Placement, Plan,
};
use ostrakon_settings::settings::Settings;
use ostrakon_shard::service::{
    Answer, Boxed, Forwarded, Gate, NoPart, Others, Part, Refused, Service,
};
use ostrakon_shard::writer::{Change, Changed, Owners, Promotion, Writer};
use ostrakon_store::{Options, Store};
use ostrakon_volumes::secrets::Secrets;
use tokio::time::Instant;

/// More hops than a client ever needs here.
const MAX_HOPS: usize = 4;

fn component() -> Vec<u8> {
    let directory = std::env::var_os("OSTRAKON_TEST_GUESTS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests"),
        PathBuf::from,
    );
    std::fs::read(directory.join("kv.wasm")).expect("run the tests with `cargo xtask test`")
}

async fn kv(routing: &str) -> Arc<Guest> {
    let (engine, component) = (Engine::new().unwrap(), component());
    let digest = Digest::of(&component);
    let limits = Limits::of(&Settings::default());
    let component = component.into();
    let compiler = Compiler::here();
    let compiling = compiler.compile(&engine, None, digest, &component, Purpose::Serve, limits);
    let compiled = compiling.await.unwrap();
    let settings =
        format!("[cluster]\nrouting = '{routing}'\npublic_url = 'http://shard-{{}}.test'");
    let environment = Environment {
        settings: Arc::new(Settings::parse(&settings).unwrap()),
        identity: Identity {
            ordinal: 0,
            shards: 1,
        },
        files: Arc::new(BTreeMap::from([("sharding".into(), Bytes::from("jump"))])),
        secrets: Secrets::default(),
        metrics: Arc::new(Metrics::new("test")),
    };
    let linked = compiled.link(&engine).unwrap();
    let guest = Guest::check(&linked, environment, "kv".into()).await;
    Arc::new(guest.unwrap())
}

struct Shards {
    net: Net,
    guest: Arc<Guest>,
    services: Vec<Service>,
    _running: Vec<(JoinHandle<()>, tempfile::TempDir)>,
}

/// The state that the shards share.
#[derive(Clone, Debug)]
struct Net(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    writers: Vec<Writer>,
    guest: Arc<Guest>,
    services: OnceLock<Vec<Service>>,
    /// Pairs of shards: the first was told the plan of the second.
    told: Mutex<Vec<(u32, u32)>>,
}

/// The other shards, as one shard calls them.
#[derive(Debug)]
struct From {
    me: u32,
    net: Net,
    gate: Gate,
}

impl Net {
    async fn learn(&self, shard: u32, plan: &Plan) {
        let owners = Owners {
            from: Arc::clone(&self.0.guest),
            to: Arc::clone(&self.0.guest),
        };
        let learn = Change::Learn(plan.clone(), owners);
        self.0.writers[shard as usize].change(learn).await.unwrap();
    }

    fn plan(&self, shard: u32) -> Plan {
        let view = self.0.writers[shard as usize].views().get().unwrap();
        view.membership
            .as_ref()
            .unwrap()
            .shard
            .plan()
            .unwrap()
            .clone()
    }
}

impl Others for From {
    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn forward<'a>(
        &'a self,
        at: Ordinal,
        request: &'a Arc<Request>,
        told: Option<HandOff>,
        until: Instant,
    ) -> Boxed<'a, Forwarded> {
        Box::pin(async move {
            self.net.learn(at.0, &self.net.plan(self.me)).await;
            let services = self.net.0.services.get().unwrap();
            match services[at.0 as usize]
                .answer_here(request, told.as_ref(), until - Instant::now())
                .await
            {
                Ok(answer) => Forwarded::Answered {
                    generation: answer.generation,
                    reply: answer.reply.unwrap(),
                },
                Err(Authority::Elsewhere { at: next, hand_off }) => {
                    self.net.learn(self.me, &self.net.plan(at.0)).await;
                    Forwarded::Elsewhere { at: next, hand_off }
                }
                Err(other) => Forwarded::NotTaken(format!("{other:?}")),
            }
        })
    }

    fn tell(&self, at: Ordinal, _: Instant) -> Boxed<'_, Result<Epoch, String>> {
        Box::pin(async move {
            let plan = self.net.plan(self.me);
            self.net.learn(at.0, &plan).await;
            self.net.0.told.lock().unwrap().push((self.me, at.0));
            Ok(plan.epoch)
        })
    }

    fn hold(&self, _: Ordinal, _: Instant) -> Boxed<'_, Result<(), String>> {
        unreachable!("nothing is asked of all shards here")
    }

    fn part<'a>(
        &'a self,
        _: Ordinal,
        _: &'a Arc<Request>,
        _: Instant,
    ) -> Boxed<'a, Result<Part, NoPart>> {
        unreachable!("nothing is asked of all shards here")
    }
}

impl Shards {
    async fn start(count: u32, routing: &str) -> Self {
        let guest = kv(routing).await;
        let (mut writers, mut running) = (Vec::new(), Vec::new());
        for ordinal in 0..count {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open(Options::new(directory.path(), 1 << 20)).unwrap();
            let runtime = tokio::runtime::Handle::current();
            let metrics = Arc::new(Metrics::new("test"));
            let membership = Some(Ordinal(ordinal));
            let (writer, thread) = Writer::start(store, membership, runtime, metrics).unwrap();
            let digest = Digest::of(b"kv");
            let promotion = Promotion {
                guest: Arc::clone(&guest),
                digest,
                component: digest,
                release: None,
                held: None,
            };
            writer.promote(promotion).await.unwrap();
            let start = Change::Start(Incarnation::default());
            writer.change(start).await.unwrap();
            writers.push(writer);
            running.push((thread, directory));
        }
        let net = Net(Arc::new(Shared {
            writers,
            guest: Arc::clone(&guest),
            services: OnceLock::new(),
            told: Mutex::default(),
        }));
        let service = |me: u32| {
            let writer = net.0.writers[me as usize].clone();
            let others = From {
                me,
                net: net.clone(),
                gate: Gate::default(),
            };
            let metrics = Arc::new(Metrics::new("test"));
            Service::new(me, writer, metrics, Some(Arc::new(others)))
        };
        let services: Vec<_> = (0..count).map(service).collect();
        net.0.services.set(services.clone()).unwrap();
        Self {
            net,
            guest,
            services,
            _running: running,
        }
    }

    async fn learn(&self, shards: impl IntoIterator<Item = u32>, plan: &Plan) {
        for shard in shards {
            self.net.learn(shard, plan).await;
        }
    }

    /// A key with these owners among two and among three shards.
    async fn key(&self, among_two: u32, among_three: u32) -> String {
        for number in 0.. {
            let key = format!("key-{number}");
            let owners = (
                self.guest.owner(key.as_bytes(), 2).await.unwrap(),
                self.guest.owner(key.as_bytes(), 3).await.unwrap(),
            );
            if owners == (among_two, among_three) {
                return key;
            }
        }
        unreachable!("there are keys without end")
    }

    /// Asks one shard, once.
    async fn ask(&self, shard: u32, path: &str) -> Answer {
        let request = Request {
            method: http::Method::GET,
            path: path.to_owned(),
            headers: http::HeaderMap::new(),
            body: Bytes::new(),
            trace: Trace::default(),
            kept: Kept::default(),
            client: Client::default(),
        };
        self.services[shard as usize]
            .answer(Arc::new(request))
            .await
    }

    /// Asks as a client that follows redirects. Returns the reply and the shards asked.
    async fn follow(&self, first: u32, path: &str) -> (Vec<u32>, Reply) {
        let mut asked = vec![first];
        loop {
            let shard = *asked.last().expect("it begins with one");
            let answer = self.ask(shard, path).await;
            let refused = match answer.reply {
                Ok(reply) => return (asked, reply),
                Err(refused) => refused,
            };
            let location = match &refused {
                Refused::Redirected { location }
                | Refused::Misplaced {
                    location: Some(location),
                } => location,
                other => panic!("{path} at {shard}: {other}"),
            };
            let expected = format!("http://shard-{}.test{path}", answer.shard);
            assert_eq!(location.to_str().unwrap(), expected);
            asked.push(answer.shard);
            assert!(
                asked.len() <= MAX_HOPS,
                "{path} was forwarded too often: {asked:?}"
            );
        }
    }

    /// Delivers a shard's batches, without their acknowledgement.
    async fn deliver(&self, from: u32, to: u32) {
        let view = self.net.0.writers[from as usize].views().get().unwrap();
        let membership = view.membership.as_ref().unwrap();
        let (_, kept) = membership
            .shard
            .outboxes()
            .find(|(at, _)| at.0 == to)
            .expect("there is a batch");
        for range in kept {
            let partitions = membership
                .contents(&view.snapshot, Ordinal(to), range)
                .await;
            let receive = Change::Receive {
                batch: membership.shard.envelope(Ordinal(to), range, from.into()),
                schema: 1,
                partitions: partitions.unwrap(),
            };
            let received = self.net.0.writers[to as usize].change(receive).await;
            assert_eq!(received.unwrap(), Changed::Received(Received::Apply));
        }
    }
}

fn placement(shards: u32) -> Placement {
    Placement {
        shards,
        owner: Digest::of(b"kv"),
        sharding: 1,
    }
}

fn plan(epoch: u64, from: u32, to: u32) -> Plan {
    Plan {
        cluster: ClusterId(1),
        epoch: Epoch(epoch),
        from: placement(from),
        to: placement(to),
    }
}

fn text(reply: &Reply) -> &str {
    std::str::from_utf8(&reply.body).unwrap()
}

/// A shard that has joined again and has not heard of the newest topology knows only its last one,
/// which would send clients back.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_not_sent_to_a_shard_that_would_send_it_back() {
    for routing in ["redirect", "local"] {
        let shards = Shards::start(3, routing).await;
        shards.learn(2..3, &plan(1, 2, 2)).await;
        shards.learn(0..2, &plan(3, 3, 3)).await;
        let key = shards.key(0, 2).await;
        let save = format!("/save/{key}/word");
        let (asked, saved) = shards.follow(0, &save).await;
        assert_eq!((asked, text(&saved)), (vec![0, 2], "word"), "{routing}");
        let (asked, _) = shards.follow(0, &save).await;
        assert_eq!(asked, [0, 2]);
        let told = shards.net.0.told.lock().unwrap().clone();
        assert_eq!(told, [(0, 2)], "the redirect must be remembered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_on_its_way_is_waited_for_and_nobody_is_sent_about() {
    let shards = Arc::new(Shards::start(3, "redirect").await);
    shards.learn(0..3, &plan(1, 2, 2)).await;
    let (moving, staying) = (shards.key(0, 2).await, shards.key(1, 1).await);
    for key in [&moving, &staying] {
        shards.follow(0, &format!("/save/{key}/before")).await;
    }
    shards.learn(0..3, &plan(2, 2, 3)).await;
    let load = format!("/load/{moving}");
    // The source still has the partition, and all shards know that.
    for first in 0..3 {
        let (asked, loaded) = shards.follow(first, &load).await;
        assert_eq!((asked, text(&loaded)), (vec![first], "before"));
    }
    // A partition that does not move is redirected as usual.
    let (asked, loaded) = shards.follow(2, &format!("/load/{staying}")).await;
    assert_eq!((asked, text(&loaded)), (vec![2, 1], "before"));

    // The source has handed the partition off, and the receiver does not have it yet.
    let writer = &shards.net.0.writers[0];
    writer.change(Change::Step).await.unwrap();
    let waiting: Vec<_> = (0..3)
        .map(|first| {
            let (shards, load) = (Arc::clone(&shards), load.clone());
            tokio::spawn(async move { shards.follow(first, &load).await })
        })
        .collect();
    // There must be no answer, so there is no event to wait for.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
    shards.deliver(0, 2).await;
    for (first, waiting) in (0..3).zip(waiting) {
        let (asked, loaded) = waiting.await.unwrap();
        assert_eq!((asked, text(&loaded)), (vec![first], "before"));
    }
    let (asked, _) = shards.follow(1, &format!("/save/{moving}/after")).await;
    assert_eq!(asked, [1]);
    let (asked, loaded) = shards.follow(0, &load).await;
    assert_eq!((asked, text(&loaded)), (vec![0], "after"));
}

/// A client that shards by itself uses the number of shards from before or after the change. Both
/// are right while the partition moves.
#[tokio::test(flavor = "multi_thread")]
async fn local_is_right_at_both_ends_of_a_move_and_finds_nothing_elsewhere() {
    let shards = Shards::start(3, "local").await;
    shards.learn(0..3, &plan(1, 2, 2)).await;
    let key = shards.key(0, 2).await;
    let (load, save) = (format!("/load/{key}"), format!("/save/{key}/before"));
    let (asked, _) = shards.follow(1, &save).await;
    assert_eq!(asked, [1, 0], "a misplaced write is refused");
    let nothing = "_key_not_found_";
    for (shard, word) in [(0, "before"), (1, nothing), (2, nothing)] {
        let (asked, loaded) = shards.follow(shard, &load).await;
        assert_eq!((asked, text(&loaded)), (vec![shard], word));
    }
    shards.learn(0..3, &plan(2, 2, 3)).await;
    for word in ["before", "after"] {
        for (shard, word) in [(0, word), (1, nothing), (2, word)] {
            let (asked, loaded) = shards.follow(shard, &load).await;
            assert_eq!((asked, text(&loaded)), (vec![shard], word));
        }
        if word == "before" {
            // The source keeps a copy until it knows that the batch is stored.
            shards.net.0.writers[0].change(Change::Step).await.unwrap();
            shards.deliver(0, 2).await;
            let (asked, _) = shards.follow(1, &format!("/save/{key}/after")).await;
            assert_eq!(asked, [1, 2]);
        }
    }
    for (source, change) in [
        (
            0,
            Change::Acknowledged {
                by: Ordinal(2),
                number: 1,
                step_within: None,
            },
        ),
        (1, Change::Step),
    ] {
        let changed = shards.net.0.writers[source].change(change).await;
        changed.unwrap();
    }
    shards.learn(0..3, &plan(3, 3, 3)).await;
    for (shard, word) in [(0, nothing), (1, nothing), (2, "after")] {
        let (asked, loaded) = shards.follow(shard, &load).await;
        assert_eq!((asked, text(&loaded)), (vec![shard], word));
    }
}
