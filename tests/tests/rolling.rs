//! What happens to a StatefulSet in its everyday life fails no request: all
//! shards are restarted one after another, and their number changes, while
//! clients go to any shard that is ready, as a Service lets them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_tests::client::Client;
use ostrakon_tests::host::{config, guest};
use ostrakon_tests::random::{Random, seed};
use ostrakon_tests::set::StatefulSet;

const CLIENTS: u64 = 8;
const KEYS: u64 = 200;
const SHARDS: u32 = 5;
/// How late a client learns that a shard is not ready any more. Much sooner than
/// shards stop serving then.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const SETTINGS: &str = "[drain]\nserve_for = \"1s\"";

/// A shard, as those who are sent to it know it.
struct Endpoint {
    address: SocketAddr,
    is_ready: AtomicBool,
    /// How often it was taken away: connections from before are not used again.
    removals: AtomicU64,
}

/// The shards that clients are sent to.
struct Service {
    shards: Vec<Endpoint>,
    ended: AtomicBool,
    requests: AtomicU64,
    /// The longest wait for an answer, in milliseconds.
    worst: AtomicU64,
}

impl Service {
    /// Keeps what is ready up to date.
    fn follow(&self, set: &StatefulSet) {
        while !self.ended.load(Ordering::Relaxed) {
            for (shard, endpoint) in (0..).zip(&self.shards) {
                let ready = set.admin(shard, "GET", "/readyz");
                let ready = ready.is_ok_and(|ready| ready.status == 200);
                let was_ready = endpoint.is_ready.swap(ready, Ordering::Relaxed);
                if was_ready && !ready {
                    endpoint.removals.fetch_add(1, Ordering::Relaxed);
                }
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn any(&self, random: &mut Random) -> usize {
        loop {
            let shard = usize::try_from(random.below(SHARDS.into())).expect("a few");
            if self.shards[shard].is_ready.load(Ordering::Relaxed) {
                return shard;
            }
            thread::yield_now();
        }
    }

    /// One client, until the end. Every answer has to be the right one.
    fn use_it(&self, worker: u64, mut random: Random) {
        let new = |endpoint: &Endpoint| (Client::new(endpoint.address), 0);
        let mut clients: Vec<_> = self.shards.iter().map(new).collect();
        let mut number = 0;
        while !self.ended.load(Ordering::Relaxed) {
            number += 1;
            let path = format!("/kv/{worker}-{}", random.below(KEYS));
            let value = number.to_string();
            for is_write in [true, false] {
                let shard = self.any(&mut random);
                let removals = self.shards[shard].removals.load(Ordering::Relaxed);
                if clients[shard].1 < removals {
                    clients[shard] = (Client::new(self.shards[shard].address), removals);
                }
                let client = &mut clients[shard].0;
                let began = Instant::now();
                let answer = if is_write {
                    client.put(&path, value.as_bytes())
                } else {
                    client.get(&path)
                };
                let took = began.elapsed();
                let answer = answer.unwrap_or_else(|error| {
                    panic!("{path} through shard {shard} after {took:?}: {error}")
                });
                assert!(answer.status < 300, "through {shard}: {answer:?}");
                if !is_write {
                    assert_eq!(answer.text(), value, "{path} through shard {shard}");
                }
                let took = u64::try_from(took.as_millis()).expect("not so long");
                self.worst.fetch_max(took, Ordering::Relaxed);
                self.requests.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Does something with a set of three shards while clients use it; says how many
/// requests were answered, and how long one took at most.
#[expect(clippy::print_stdout, reason = "a load test says what it counted")]
fn under_load(what: &str, meanwhile: impl FnOnce(&StatefulSet)) {
    let seed = seed();
    println!("OSTRAKON_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let settings = [("ostrakon.toml", SETTINGS), ("sharding", "jump")];
    let mut set = StatefulSet::new(&config(&guest("kv"), &settings), 3);
    set.start();
    let endpoint = |shard| Endpoint {
        address: set.options.addresses.public(shard),
        is_ready: AtomicBool::new(shard < 3),
        removals: AtomicU64::new(0),
    };
    let service = Service {
        shards: (0..SHARDS).map(endpoint).collect(),
        ended: AtomicBool::new(false),
        requests: AtomicU64::new(0),
        worst: AtomicU64::new(0),
    };
    thread::scope(|scope| {
        let (service, set) = (&service, &set);
        scope.spawn(move || service.follow(set));
        for worker in 0..CLIENTS {
            let random = Random::new(random.below(u64::MAX));
            scope.spawn(move || service.use_it(worker, random));
        }
        // Also when it panics, or the clients would go on for ever.
        let _end = End(&service.ended);
        meanwhile(set);
    });
    let (requests, worst) = (service.requests.into_inner(), service.worst.into_inner());
    assert!(requests > 1000, "only {requests} requests");
    println!("{requests} requests over {what}: 0 failed, the longest took {worst} ms");
    set.stop();
}

/// Ends the clients when dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_rolling_restart_fails_no_request() {
    under_load("a restart of each of three shards", StatefulSet::restart);
}

#[test]
fn scaling_up_and_down_fails_no_request() {
    under_load("changes from 3 shards to 5 and to 3", |set| {
        set.scale(5);
        set.scale(3);
    });
}
