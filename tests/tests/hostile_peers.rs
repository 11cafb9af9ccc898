//! A peer with valid credentials that sends arbitrary messages. It is trusted with the data, but
//! once it is gone the cluster serves all keys, at most after restarts that happen automatically.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ostrakon_base::digest::Digest;
use ostrakon_peers::{Connection, Credentials, Endpoint, Identity};
use ostrakon_protocol::{Batch, Cursor, Epoch, HandOff, Incarnation, Ordinal, Placement, Plan};
use ostrakon_test_support::random::{Random, seed};
use ostrakon_tests::cluster::shards;
use ostrakon_tests::host::{Files, Host, Shard, config, guest};
use ostrakon_tests::load::under_load;
use ostrakon_tests::peer::{Basis, Envelope, PeerRequest, Process, encode, plan_of};
use ostrakon_tests::set::StatefulSet;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// How long a cluster may take to recover by itself.
const PATIENCE: Duration = Duration::from_mins(3);
const HIGHEST: u64 = u64::MAX;

fn files(shards: u32) -> Files {
    let toml = format!("[cluster]\nshards = {shards}\nmax_wait = \"2s\"");
    config(
        &guest("kv"),
        &[("ostrakon.toml", &*toml), ("sharding", "jump")],
    )
}

type Asked = Envelope<PeerRequest>;

struct Hostile {
    runtime: Runtime,
    sent: u64,
    answered: u64,
}

impl Hostile {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        Self {
            runtime: runtime.expect("a runtime can be created"),
            sent: 0,
            answered: 0,
        }
    }

    /// Sends a message to a shard under an identity, and returns the reply, if any.
    fn say(&mut self, to: SocketAddr, as_whom: Identity, body: Vec<u8>) -> Option<Bytes> {
        self.sent += 1;
        let said = self.runtime.block_on(async {
            let (_kept, credentials) = watch::channel(Arc::new(Credentials::default()));
            let endpoint = Endpoint::new(as_whom, credentials);
            let stream = TcpStream::connect(to).await.ok()?;
            let connection = Connection::open(stream, &endpoint, None).await.ok()?;
            let asked = connection.request(Bytes::from(body));
            let within = Duration::from_secs(3);
            tokio::time::timeout(within, asked).await.ok()?.ok()
        });
        self.answered += u64::from(said.is_some());
        said
    }

    fn ask(&mut self, to: SocketAddr, as_whom: Identity, asked: &Asked) -> Option<Bytes> {
        self.say(to, as_whom, encode(asked))
    }

    /// The plan that a shard follows.
    fn plan(&mut self, of: SocketAddr) -> Plan {
        let asked = Asked {
            cluster: None,
            accepts: None,
            request: PeerRequest::Plan {},
        };
        let said = self.ask(of, identity(900, 1), &asked).expect("an answer");
        plan_of(&said)
    }
}

fn identity(ordinal: u32, incarnation: u64) -> Identity {
    Identity {
        ordinal,
        incarnation,
        store: 0xbad,
    }
}

/// Messages of a hostile peer that knows the plan: each has the highest value of some number.
fn lies(plan: &Plan) -> Vec<PeerRequest> {
    let with = |epoch: u64, from: u32, to: u32| Plan {
        epoch: Epoch(epoch),
        from: Placement {
            shards: from,
            ..plan.from.clone()
        },
        to: Placement {
            shards: to,
            ..plan.to.clone()
        },
        ..plan.clone()
    };
    let next = plan.epoch.0 + 1;
    let plans = [
        with(HIGHEST, 3, 3),
        with(HIGHEST, 3, 5),
        with(HIGHEST / 2, 3, 5),
        with(next, 3, u32::MAX),
        with(next, 3, 0),
        with(next, 0, 3),
        with(next, 3, 1024),
        with(next + 8, 3, 5),
        with(next, 1, 3),
    ];
    let receive = |plan: &Plan, number: u64, source: u32| PeerRequest::Receive {
        plan: plan.clone(),
        batch: Batch {
            number,
            store: u128::MAX,
            hand_off: HandOff {
                epoch: plan.epoch,
                source: Ordinal(source),
                to: Ordinal(1),
                cursor: Cursor::End,
                number,
            },
        },
        schema: u32::MAX,
        partitions: Vec::new(),
    };
    let mut lies: Vec<_> = plans
        .iter()
        .cloned()
        .map(|plan| PeerRequest::UsePlan { plan })
        .collect();
    lies.extend(plans.iter().map(|plan| receive(plan, HIGHEST, 0)));
    lies.extend([0, 1, u32::MAX].map(|source| receive(plan, HIGHEST, source)));
    lies.extend([0, next, HIGHEST].map(|epoch| PeerRequest::Done {
        epoch: Epoch(epoch),
        progress: None,
    }));
    lies.extend([0, 5000, u32::MAX].map(|shards| PeerRequest::Survey {
        shards,
        basis: Basis::Kept {
            placement: plan.to.clone(),
        },
    }));
    lies.extend([
        PeerRequest::HasGiven {
            epoch: Epoch(HIGHEST),
        },
        PeerRequest::Generation {
            digest: Digest::of(b"none"),
        },
        PeerRequest::Accepted {},
        PeerRequest::Schema {},
        PeerRequest::Progress {},
    ]);
    lies
}

/// Changes a few bytes of a message.
fn mutated(mut bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..=random.below(4) {
        let at = usize::try_from(random.below(bytes.len() as u64)).expect("the number is small");
        bytes[at] = u8::try_from(random.below(256)).expect("it is one");
    }
    bytes
}

/// Waits until every key can be read through every shard.
fn wait_for_all(clients: impl Fn(u32) -> SocketAddr, shards: u32, keys: u32) -> Duration {
    let began = Instant::now();
    for shard in 0..shards {
        for key in 0..keys {
            loop {
                let mut client = ostrakon_tests::client::Client::new(clients(shard));
                let got = client.get(&format!("/kv/{key}"));
                if got.is_ok_and(|got| (got.status, got.text()) == (200, "value")) {
                    break;
                }
                let waited = began.elapsed();
                assert!(
                    waited < PATIENCE,
                    "{key} is not found through shard {shard}"
                );
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
    began.elapsed()
}

#[test]
fn what_a_hostile_peer_says_leaves_a_way_back() {
    const KEYS: u32 = 60;
    let seed = seed();
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let mut set = StatefulSet::new(&files(3), 3);
    set.start();
    let mut client = set.client(0);
    for key in 0..KEYS {
        let put = client
            .put(&format!("/kv/{key}"), b"value")
            .expect("an answer");
        assert_eq!(put.status, 201, "{put:?}");
    }
    let peers = [0, 1, 2].map(|shard| set.options.addresses.peer(shard));
    let public = |shard| set.options.addresses.public(shard);
    let mut hostile = Hostile::new();
    let plan = hostile.plan(peers[0]);
    let pids = || [0, 1, 2].map(|shard| set.status(shard).map(|status| status["ready"] == true));

    // Impossible messages: other clients are served meanwhile, and no shard stops.
    let worst = AtomicU64::new(0);
    let request = |client: &mut ostrakon_tests::client::Client, worker: usize, number: u64| {
        let began = Instant::now();
        let key = (number + worker as u64) % u64::from(KEYS);
        let got = client.get(&format!("/kv/{key}")).expect("an answer");
        assert_eq!((got.status, got.text()), (200, "value"), "{got:?}");
        let took = began.elapsed().as_millis();
        worst.fetch_max(
            u64::try_from(took).expect("the number is small"),
            Ordering::Relaxed,
        );
    };
    let highest = Process {
        incarnation: Incarnation(HIGHEST),
        store: 0,
    };
    let (others, ()) = under_load(public(0), 2, request, |_| {
        for to in peers {
            for (ordinal, incarnation) in [
                (1, HIGHEST),
                (2, HIGHEST),
                (0, HIGHEST),
                (u32::MAX, 1),
                (1023, 1),
                (7, HIGHEST),
            ] {
                for accepts in [None, Some(highest)] {
                    for request in lies(&plan) {
                        let cluster = Some(plan.cluster);
                        let asked = Asked {
                            cluster,
                            accepts,
                            request,
                        };
                        hostile.ask(to, identity(ordinal, incarnation), &asked);
                    }
                }
            }
        }
        // Messages with changed bytes, from an accepted peer with an ordinal that is no shard's: a
        // valid batch of a real shard would be data.
        for number in 0..600 {
            let lies = lies(&plan);
            let at = usize::try_from(random.below(lies.len() as u64)).expect("the number is small");
            let asked = Asked {
                cluster: Some(plan.cluster),
                accepts: None,
                request: lies[at].clone(),
            };
            let bytes = mutated(encode(&asked), &mut random);
            hostile.say(peers[number % 3], identity(500, 1), bytes);
        }
    });
    assert_eq!(pids(), [Some(true); 3], "a shard was restarted");
    for shard in 0..3 {
        assert!(!set.log(shard).contains("this shard stops serving"));
    }
    let waited = wait_for_all(public, 3, KEYS);
    let (sent, answered) = (hostile.sent, hostile.answered);
    println!(
        "{sent} messages, {answered} answered; {others} requests of others, 0 failed, the longest \
         took {} ms; then {KEYS} keys through 3 shards, each found, in {waited:?}",
        worst.load(Ordering::Relaxed)
    );

    come_back_after_numbers_that_can_be(&set, &mut hostile, &plan);
    wait_for_all(public, 3, KEYS);
    set.stop();
}

/// Claims that a later process of shard 1, and then of shard 0, has been started.
#[expect(clippy::print_stdout, reason = "the test prints its results")]
fn come_back_after_numbers_that_can_be(set: &StatefulSet, hostile: &mut Hostile, plan: &Plan) {
    for (ordinal, to) in [(1, [0, 2]), (0, [1, 2])] {
        let status = set.status(ordinal).expect("it answers");
        let own = status["topology"]["incarnation"]
            .as_u64()
            .expect("the text is a number");
        for to in to {
            let asked = Asked {
                cluster: Some(plan.cluster),
                accepts: None,
                request: PeerRequest::Plan {},
            };
            let to = set.options.addresses.peer(to);
            hostile.ask(to, identity(ordinal, own + 1000), &asked);
        }
        let (began, deadline) = (Instant::now(), Instant::now() + PATIENCE);
        let has_stopped = || set.log(ordinal).contains("this shard stops serving");
        while !has_stopped() {
            assert!(
                Instant::now() < deadline,
                "shard {ordinal} was not told of the later process"
            );
            thread::sleep(Duration::from_millis(20));
        }
        let restarted = || {
            let status = set.status(ordinal)?;
            let number = status["topology"]["incarnation"].as_u64()?;
            (number > own + 1000 && status["ready"] == true).then_some(number)
        };
        while restarted().is_none() {
            assert!(
                Instant::now() < deadline,
                "shard {ordinal} does not come back"
            );
            thread::sleep(Duration::from_millis(20));
        }
        let took = began.elapsed();
        println!("shard {ordinal} was stopped, and came back by itself within {took:?}");
    }
}

/// Happens when a Pod is deleted by force while its node is cut off. The former process stops
/// serving as soon as it is told. It runs neither beside the later one nor in turns with it.
#[test]
fn of_two_processes_of_one_ordinal_the_former_serves_nothing_until_the_later_is_gone() {
    let shards = shards(83, 2, &files(2));
    let [zero, former]: [Host; 2] = thread::scope(|scope| {
        let starting: Vec<_> = shards
            .iter()
            .map(|shard| scope.spawn(|| shard.start()))
            .collect();
        let hosts = starting
            .into_iter()
            .map(|host| host.join().expect("it starts"));
        hosts.collect::<Vec<_>>().try_into().expect("two")
    });
    for host in [&zero, &former] {
        host.wait_for_status("the topology", |status| status["topology"]["shards"] == 2);
    }
    // A second process of shard 1, on another disk, at an address that no peer tries.
    let mut other = Shard::new(&files(2));
    other.ordinal = 1;
    other.arguments = shards[1].arguments.clone();
    other.arguments[3] = "127.7.83.200:7070".to_owned();
    let later = other.spawn();
    former.wait_for_status("to be told", |status| {
        let why = status["not_ready"].as_str().unwrap_or_default();
        why.contains("must not serve this shard any longer")
    });
    let mut client = former.client();
    let refused = client.get("/kv/1").expect("an answer");
    assert_eq!(refused.status, 503, "{refused:?}");
    // The former refuses requests as long as the later one runs. It notices the later one's end
    // only after a while.
    let asked = |host: &Host| host.metric("ostrakon_requests_forwarded_total");
    let (began, before) = (Instant::now(), asked(&later));
    while began.elapsed() < Duration::from_secs(40) {
        later.client().get("/kv/1").expect("an answer");
        let refused = former.client().get("/kv/1").expect("it still runs");
        assert_eq!(refused.status, 503, "{refused:?}");
        thread::sleep(Duration::from_millis(100));
    }
    assert!(asked(&later) >= before);
    later.kill();
    let (status, log) = former.wait();
    assert_eq!(status.code(), Some(76), "{log}");
    let again = shards[1].start();
    let put = again.client().put("/kv/1", b"value").expect("an answer");
    assert!(put.status < 300, "{put:?}");
    let got = zero.client().get("/kv/1").expect("an answer");
    assert_eq!((got.status, got.text()), (200, "value"));
}
