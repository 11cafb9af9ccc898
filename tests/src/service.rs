//! Clients of a StatefulSet that use any ready shard, as through a Kubernetes Service.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_test_support::random::Random;

use crate::client::Client;
use crate::set::StatefulSet;

const CLIENTS: u64 = 8;
const KEYS: u64 = 200;
/// How late clients learn that a shard is no longer ready. This is much shorter than the time for
/// which the shard still serves, because `drain.serve_for` is a few times as long.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A shard, as the clients sent to it know it.
#[derive(Debug)]
struct Endpoint {
    address: SocketAddr,
    is_ready: AtomicBool,
    /// How often it was removed: connections from before are not used again.
    removals: AtomicU64,
}

/// The shards that clients are sent to.
#[derive(Debug)]
struct Service {
    shards: Vec<Endpoint>,
    ended: AtomicBool,
    requests: AtomicU64,
    /// The longest wait for a response, in milliseconds.
    worst: AtomicU64,
}

/// The result of the clients' work, which had no failures.
#[derive(Clone, Debug)]
pub struct Load {
    /// The number of answered requests.
    pub requests: u64,
    /// The longest wait for a response, in milliseconds.
    pub worst: u64,
    /// The last value written to each path.
    pub written: BTreeMap<String, String>,
}

impl Load {
    /// Reads all written values through one shard, and returns the number of keys.
    ///
    /// # Panics
    /// When a value is lost or different.
    pub fn check(&self, client: &mut Client) -> usize {
        for (path, value) in &self.written {
            let answer = client.get(path).expect("the shard answers");
            assert_eq!(
                (answer.status, answer.text()),
                (200, value.as_str()),
                "{path}"
            );
        }
        self.written.len()
    }
}

/// Runs clients that write and read through any ready shard of a set, until `meanwhile` returns.
/// `most` is the largest number of shards during the test.
///
/// # Panics
/// When a request fails or returns a value other than the one written.
pub fn under_load(
    set: &StatefulSet,
    most: u32,
    mut random: Random,
    meanwhile: impl FnOnce(),
) -> Load {
    let endpoint = |shard| Endpoint {
        address: set.options.addresses.public(shard),
        is_ready: AtomicBool::new(false),
        removals: AtomicU64::new(0),
    };
    let service = Service {
        shards: (0..most).map(endpoint).collect(),
        ended: AtomicBool::new(false),
        requests: AtomicU64::new(0),
        worst: AtomicU64::new(0),
    };
    let mut written = BTreeMap::new();
    thread::scope(|scope| {
        let service = &service;
        scope.spawn(move || service.follow(set));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|worker| {
                let random = Random::new(random.below(u64::MAX));
                scope.spawn(move || service.use_it(worker, random))
            })
            .collect();
        {
            // Ends the clients even after a panic; otherwise they would run forever.
            let _end = End(&service.ended);
            meanwhile();
        }
        for client in clients {
            written.extend(client.join().expect("no client fails"));
        }
    });
    let (requests, worst) = (service.requests.into_inner(), service.worst.into_inner());
    assert!(requests > 1000, "only {requests} requests");
    Load {
        requests,
        worst,
        written,
    }
}

impl Service {
    /// Keeps the list of ready shards up to date.
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

    /// Any ready shard; `None` at the end.
    fn any(&self, random: &mut Random) -> Option<usize> {
        while !self.ended.load(Ordering::Relaxed) {
            let shard = random.below(self.shards.len() as u64);
            let shard = usize::try_from(shard).expect("the number is small");
            if self.shards[shard].is_ready.load(Ordering::Relaxed) {
                return Some(shard);
            }
            thread::yield_now();
        }
        None
    }

    /// Runs one client until the end. Every response must be the right one. Returns the last
    /// values written.
    fn use_it(&self, worker: u64, mut random: Random) -> BTreeMap<String, String> {
        let new = |endpoint: &Endpoint| (Client::new(endpoint.address), 0);
        let mut clients: Vec<_> = self.shards.iter().map(new).collect();
        let mut written = BTreeMap::new();
        let mut number = 0;
        while !self.ended.load(Ordering::Relaxed) {
            number += 1;
            let path = format!("/kv/{worker}-{}", random.below(KEYS));
            let value = number.to_string();
            for is_write in [true, false] {
                let Some(shard) = self.any(&mut random) else {
                    break;
                };
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
                if is_write {
                    written.insert(path.clone(), value.clone());
                } else {
                    assert_eq!(answer.text(), value, "{path} through shard {shard}");
                }
                let took = u64::try_from(took.as_millis()).expect("the wait is short");
                self.worst.fetch_max(took, Ordering::Relaxed);
                self.requests.fetch_add(1, Ordering::Relaxed);
            }
        }
        written
    }
}

/// Stops the clients when dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
