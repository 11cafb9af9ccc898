//! Real processes under load are killed at random, including the coordinator, while their number,
//! their guest and its sharding change. Every history stays linearizable, and each key ends in
//! exactly one place.
//!
//! `OSTRAKON_TORTURE_ROUNDS` sets the number of rounds, 1 by default. A run's choices come from
//! `OSTRAKON_TEST_SEED`; the processes' timing does not.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_store::{Options, Store, unbounded};
use ostrakon_test_support::linearizable::{Action, Operation, UNKNOWN, is_linearizable};
use ostrakon_test_support::random::{Random, seed};
use ostrakon_tests::client::{Client, Response};
use ostrakon_tests::host::{Files, config, guest};
use ostrakon_tests::set::StatefulSet;

/// Keys that clients write and read all the time.
const KEYS: u64 = 300;
/// Keys that exist from the start, so that a change takes some time.
const FILLERS: u64 = 20_000;
const CLIENTS: u64 = 16;
const SHARDS: u32 = 5;
/// The least number of operations per round.
const OPERATIONS: u64 = 200_000;
const KILLS: u64 = 30;
/// How many processes are killed during one change.
const KILLS_EACH: u64 = 4;

/// The changes, in order: number of shards, sharding, and the guest's mark.
const CHANGES: [(u32, &str, u8); 8] = [
    (5, "modulo", 1),
    (5, "modulo", 2),
    (2, "modulo", 2),
    (2, "jump", 2),
    (4, "jump", 2),
    (4, "jump", 1),
    (4, "modulo", 1),
    (3, "modulo", 1),
];

/// Each generation serves some partitions before all of them, whatever happens meanwhile. On a busy
/// machine deadlines are missed.
const STEPS: &str =
    "[rollout]\nsteps = ['20%', '60%', '100%']\nbake = '300ms'\nfailures = '50%'\nslower = 1000\n";

/// The key/value guest with a mark: a different component that behaves the same.
fn kv(sharding: &str, mark: u8) -> Files {
    const CUSTOM: [u8; 8] = [0, 6, 4, b'm', b'a', b'r', b'k', 0];
    let mut component = guest("kv");
    component.extend_from_slice(&CUSTOM[..7]);
    component.push(mark);
    config(
        &component,
        &[("sharding", sharding), ("ostrakon.toml", STEPS)],
    )
}

/// The number of a sharding, as the guest's description gives it.
fn version(sharding: &str) -> u32 {
    if sharding == "modulo" { 1 } else { 2 }
}

/// What is known about the outcome of an operation.
#[derive(Debug)]
enum Outcome {
    Done(Action),
    /// The operation was not run.
    NotRun,
    /// It is unknown whether the operation was run.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Read,
    Write(u64),
    Delete,
}

struct Clients<'a> {
    addresses: &'a [SocketAddr],
    began: Instant,
    ended: AtomicBool,
    done: AtomicU64,
    unknown: AtomicU64,
    not_run: AtomicU64,
}

impl Clients<'_> {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).expect("not so long")
    }

    /// Runs one client until the end, and returns its operations by key.
    fn run(&self, number: u64, mut random: Random) -> Vec<(u64, Operation)> {
        let mut clients: Vec<_> = self.addresses.iter().copied().map(Client::new).collect();
        let mut operations = Vec::new();
        let mut value = 0;
        while !self.ended.load(Ordering::Relaxed) {
            let key = random.below(KEYS);
            let kind = match random.below(100) {
                0..50 => Kind::Read,
                50..96 => {
                    value += 1;
                    Kind::Write(number << 40 | value)
                }
                _ => Kind::Delete,
            };
            let through = random.below(self.addresses.len() as u64);
            let client = &mut clients[usize::try_from(through).expect("the number is small")];
            let called = self.now();
            let outcome = ask(client, key, kind);
            let returned = self.now();
            let (action, returned) = match (outcome, kind) {
                (Outcome::Done(action), _) => {
                    self.done.fetch_add(1, Ordering::Relaxed);
                    (action, returned)
                }
                // A read without a reply has no effect.
                (Outcome::NotRun, _) | (Outcome::Unknown, Kind::Read) => {
                    self.not_run.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                (Outcome::Unknown, kind) => {
                    self.unknown.fetch_add(1, Ordering::Relaxed);
                    let action = match kind {
                        Kind::Write(value) => Action::Write(value, false),
                        _ => Action::Delete(false),
                    };
                    (action, UNKNOWN)
                }
            };
            let operation = Operation {
                called,
                returned,
                action,
            };
            operations.push((key, operation));
        }
        operations
    }
}

fn ask(client: &mut Client, key: u64, kind: Kind) -> Outcome {
    let path = format!("/kv/{key}");
    let answer = match kind {
        Kind::Read => client.get(&path),
        Kind::Write(value) => client.put(&path, value.to_string().as_bytes()),
        Kind::Delete => client.send("DELETE", &path, &[], b""),
    };
    match answer {
        // Nobody listens there, so nobody got the request.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Outcome::NotRun,
        Err(_) => Outcome::Unknown,
        Ok(answer) => outcome(kind, &answer),
    }
}

fn outcome(kind: Kind, answer: &Response) -> Outcome {
    let refused = answer.header("ostrakon-error");
    let action = match (kind, answer.status, refused) {
        (Kind::Read, 200, None) => Action::Read(Some(
            answer.text().parse().expect("a value that was written"),
        )),
        (Kind::Read, 404, None) => Action::Read(None),
        (Kind::Write(value), 201, None) => Action::Write(value, false),
        (Kind::Write(value), 204, None) => Action::Write(value, true),
        (Kind::Delete, 204, None) => Action::Delete(true),
        (Kind::Delete, 404, None) => Action::Delete(false),
        (_, 502, Some("outcome-unknown")) | (_, 503, Some("store-failed")) => {
            return Outcome::Unknown;
        }
        (_, 503, Some("shard-away" | "shutting-down" | "no-generation" | "writer-wait")) => {
            return Outcome::NotRun;
        }
        _ => panic!("{kind:?}: {answer:?}"),
    };
    Outcome::Done(action)
}

fn filler(number: u64) -> String {
    format!("filler-{number}")
}

/// Runs `each` on every filler, over several connections.
fn with_fillers(address: SocketAddr, each: impl Fn(&mut Client, &str) + Sync) {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = Client::new(address);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= FILLERS {
                        break;
                    }
                    each(&mut client, &filler(number));
                }
            });
        }
    });
}

/// What happened during a change.
struct Changed {
    kills: u64,
    /// How many of the kills hit the coordinator.
    of_coordinator: u64,
    /// Whether a generation in its steps was gone back from before.
    aborted: bool,
    /// Whether one that was live was.
    rolled_back: bool,
}

/// Has a generation serve some partitions, and goes back from it.
fn abort_one(set: &StatefulSet, sharding: &str, mark: u8) -> bool {
    set.publish(&kv(sharding, mark));
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let status = set.status(0).unwrap_or_default();
        if status["rollout"]["watch"]["percent"].as_f64() < Some(100.0) {
            let aborted = set.admin(0, "POST", "/rollout/abort");
            if aborted.is_ok_and(|answer| answer.status == 200) {
                return true;
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Has a generation serve all partitions, and goes back from it.
fn roll_back_one(set: &StatefulSet, sharding: &str, mark: u8) -> bool {
    let live = |status: &serde_json::Value| status["generation"]["digest"].clone();
    let before = live(&set.status(0).unwrap_or_default());
    set.publish(&kv(sharding, mark));
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut has_begun = false;
    while Instant::now() < deadline && before.is_string() {
        let status = set.status(0).unwrap_or_default();
        let is_live = live(&status).is_string() && live(&status) != before;
        if has_begun && live(&status) == before {
            return true;
        }
        if is_live && !has_begun {
            let back = set.admin(0, "POST", "/rollback");
            has_begun = back.is_ok_and(|answer| answer.status == 200);
        } else if status["rollout"]["watch"]["percent"].as_f64() < Some(100.0) {
            let _promoted = set.admin(0, "POST", "/rollout/promote?full=true");
        }
        thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Makes a change, kills `KILLS_EACH` processes meanwhile, and waits until the change is complete.
fn change(
    set: &StatefulSet,
    random: &mut Random,
    (shards, sharding, mark): (u32, &str, u8),
) -> Changed {
    let rolled_back = roll_back_one(set, sharding, mark + 50);
    let aborted = abort_one(set, sharding, mark + 100);
    set.publish(&kv(sharding, mark));
    set.begin_scale(shards);
    let (mut kills, mut of_coordinator) = (0, 0);
    while kills < KILLS_EACH {
        thread::sleep(Duration::from_millis(50 + random.below(400)));
        let shard = u32::try_from(random.below(SHARDS.into())).expect("the number is small");
        if set.kill(shard).is_some() {
            kills += 1;
            of_coordinator += u64::from(shard == 0);
        }
    }
    set.settle();
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let topology = set.status(0).unwrap_or_default()["topology"].clone();
        let is_made = topology["stable"] == true
            && topology["shards"] == shards
            && topology["sharding"] == version(sharding);
        if is_made {
            return Changed {
                kills,
                of_coordinator,
                aborted,
                rolled_back,
            };
        }
        assert!(
            Instant::now() < deadline,
            "{sharding} on {shards}: {topology}"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// The shards that hold each partition, from their files.
fn places(set: &StatefulSet) -> BTreeMap<Vec<u8>, Vec<u32>> {
    let mut places: BTreeMap<Vec<u8>, Vec<u32>> = BTreeMap::new();
    for shard in 0..SHARDS {
        let store = Store::open(Options::new(set.data(shard), 1 << 20)).expect("it opens");
        let snapshot = store.snapshot().expect("it was opened");
        let mut start = None::<Vec<u8>>;
        loop {
            let page = snapshot.partitions(start.as_deref(), None, 1000, &mut unbounded);
            let page = page.expect("it can be read");
            for partition in page.entries {
                start = Some([&partition[..], &[0]].concat());
                places.entry(partition).or_default().push(shard);
            }
            if !page.more {
                break;
            }
        }
    }
    places
}

/// Checks each key's history, on two threads.
fn check(histories: &BTreeMap<u64, Vec<Operation>>) {
    let histories: Vec<_> = histories.iter().collect();
    thread::scope(|scope| {
        for half in histories.chunks(histories.len().div_ceil(2)) {
            scope.spawn(move || {
                for (key, history) in half {
                    assert!(is_linearizable(history), "key {key}: {history:#?}");
                }
            });
        }
    });
}

#[test]
fn kills_and_changes_without_end_lose_nothing() {
    let rounds: u64 = std::env::var("OSTRAKON_TORTURE_ROUNDS")
        .map_or(1, |rounds| rounds.parse().expect("a number of rounds"));
    let seed = seed();
    println!("OSTRAKON_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let mut set = StatefulSet::new(&kv("modulo", 1), 3);
    set.start();
    let addresses: Vec<_> = (0..SHARDS)
        .map(|shard| set.options.addresses.public(shard))
        .collect();
    with_fillers(addresses[0], |client, key| {
        let put = client.put(&format!("/kv/{key}"), key.as_bytes());
        assert_eq!(put.expect("an answer").status, 201);
    });

    let clients = Clients {
        addresses: &addresses,
        began: Instant::now(),
        ended: AtomicBool::new(false),
        done: AtomicU64::new(0),
        unknown: AtomicU64::new(0),
        not_run: AtomicU64::new(0),
    };
    let (mut kills, mut of_coordinator, mut aborted, mut rolled_back) = (0, 0, 0, 0);
    let mut histories: BTreeMap<u64, Vec<Operation>> = BTreeMap::new();
    thread::scope(|scope| {
        let running: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let random = Random::new(random.below(u64::MAX));
                let clients = &clients;
                scope.spawn(move || clients.run(number, random))
            })
            .collect();
        {
            // Ends the clients even after a panic; otherwise they would run forever.
            let _end = End(&clients.ended);
            for _ in 0..rounds {
                for wanted in CHANGES {
                    let changed = change(&set, &mut random, wanted);
                    kills += changed.kills;
                    of_coordinator += changed.of_coordinator;
                    aborted += u64::from(changed.aborted);
                    rolled_back += u64::from(changed.rolled_back);
                }
            }
            while clients.done.load(Ordering::Relaxed) < rounds * OPERATIONS {
                thread::sleep(Duration::from_millis(5));
            }
        }
        for client in running {
            for (key, operation) in client.join().expect("a client does not panic") {
                histories.entry(key).or_default().push(operation);
            }
        }
    });

    // The final value of each key is part of its history.
    let mut client = Client::new(addresses[1]);
    let mut there = 0;
    for (key, history) in &mut histories {
        let called = clients.now();
        let Outcome::Done(action) = ask(&mut client, *key, Kind::Read) else {
            panic!("no shard answers for key {key}");
        };
        there += u64::from(action != Action::Read(None));
        let returned = clients.now();
        history.push(Operation {
            called,
            returned,
            action,
        });
    }
    with_fillers(addresses[2], |client, key| {
        let got = client.get(&format!("/kv/{key}")).expect("an answer");
        assert_eq!((got.status, got.text()), (200, key));
    });
    check(&histories);

    set.stop();
    let places = places(&set);
    let twice: Vec<_> = places
        .iter()
        .filter(|(_, shards)| shards.len() > 1)
        .collect();
    assert!(twice.is_empty(), "keys on more than one shard: {twice:?}");
    assert_eq!(places.len() as u64, FILLERS + there);
    let done = clients.done.into_inner();
    assert!(done >= rounds * OPERATIONS && kills >= rounds * KILLS);
    assert!(of_coordinator > 0, "the coordinator was never killed");
    assert!(aborted > 0, "no generation in its steps was gone back from");
    assert!(rolled_back > 0, "no live generation was gone back from");
    println!(
        "{done} operations over {kills} kills, {of_coordinator} of the coordinator, and {} changes in steps, {aborted} generations gone back from in their steps, {rolled_back} when they were live: \
         all histories of {} keys linearizable; {} requests with an unknown outcome, {} not run; \
         {} partitions, each in one shard",
        rounds * CHANGES.len() as u64,
        histories.len(),
        clients.unknown.into_inner(),
        clients.not_run.into_inner(),
        places.len()
    );
}

/// Stops the clients when dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
