//! `kill -9` at random instants under concurrent writes. After the restart, each acknowledged write
//! is there, and an unacknowledged one is there as a whole or not at all.
//!
//! Two kinds of writes run at once. A request to the `hostile` guest's `/set-many` stores one
//! number in eight entries, so the entries of a half-stored request would differ. Each client
//! writes increasing numbers to its keys, so a key must have the last acknowledged number or the
//! one in flight. The next round continues from the numbers that were found, so a later loss is
//! noticed, too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ostrakon_test_support::random::{Random, seed};
use ostrakon_tests::client::Client;
use ostrakon_tests::host::{Host, Shard, config, guest};

const ROUNDS: u64 = 60;
const CLIENTS: usize = 6;
const KEYS: usize = 3;
/// Entries per request.
const ENTRIES: usize = 8;

/// The highest number acknowledged and attempted for one key.
#[derive(Default)]
struct Key {
    acknowledged: AtomicU64,
    attempted: AtomicU64,
}

#[test]
fn what_was_acknowledged_survives_a_kill_and_nothing_is_there_in_half() {
    let seed = seed();
    println!("OSTRAKON_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let shard = Shard::new(&config(&guest("hostile"), &[]));
    let clients: Vec<Vec<Key>> = (0..CLIENTS)
        .map(|_| (0..KEYS).map(|_| Key::default()).collect())
        .collect();
    let (mut kept, mut lost, mut in_start) = (0, 0, 0);
    for round in 0..ROUNDS {
        // Starts are killed, too, while they recover from the kill before.
        if round % 5 == 4 {
            let host = shard.spawn();
            thread::sleep(Duration::from_micros(random.below(60_000)));
            host.kill();
            in_start += 1;
        }
        let host = shard.start();
        (kept, lost) = check(&host, &clients, round, (kept, lost));
        thread::scope(|scope| {
            for (client, keys) in clients.iter().enumerate() {
                let connection = host.client();
                scope.spawn(move || write(connection, client, keys));
            }
            // This is not a wait for an event: the instant of the kill is random.
            thread::sleep(Duration::from_micros(random.below(120_000)));
            host.kill();
        });
    }
    let host = shard.start();
    (kept, lost) = check(&host, &clients, ROUNDS, (kept, lost));
    host.stop();
    let all = clients.iter().flatten();
    let written: u64 = all.map(|key| key.attempted.load(Ordering::Relaxed)).sum();
    println!(
        "{ROUNDS} kills under load and {in_start} while starting, {written} writes of {ENTRIES} entries, \
         0 acknowledged lost, 0 half; of those under way {kept} were kept, {lost} were not"
    );
    assert!(written > ROUNDS, "too few writes were made");
}

/// Writes increasing numbers, key by key, until the host is gone.
fn write(mut connection: Client, client: usize, keys: &[Key]) {
    for (number, key) in (0..KEYS).cycle().map(|number| (number, &keys[number])) {
        let next = key.attempted.load(Ordering::Relaxed) + 1;
        key.attempted.store(next, Ordering::Relaxed);
        let path = format!("/set-many/{client}-{number}/{next}");
        match connection.get(&path) {
            Ok(response) => {
                assert_eq!(response.status, 200, "{response:?}");
                key.acknowledged.store(next, Ordering::Relaxed);
            }
            Err(_) => return,
        }
    }
}

/// Checks each key, and counts the unacknowledged writes that were kept and those that were lost.
fn check(
    host: &Host,
    clients: &[Vec<Key>],
    round: u64,
    (mut kept, mut lost): (u64, u64),
) -> (u64, u64) {
    let mut connection = host.client();
    for (client, keys) in clients.iter().enumerate() {
        for (number, key) in keys.iter().enumerate() {
            let response = connection.get(&format!("/get-many/{client}-{number}"));
            let response = response.unwrap();
            let text = response.text();
            let entries: Vec<&str> = text.split(',').filter(|entry| !entry.is_empty()).collect();
            let acknowledged = key.acknowledged.load(Ordering::Relaxed);
            let attempted = key.attempted.load(Ordering::Relaxed);
            let context = format!(
                "round {round}, key {client}-{number}: found {text:?}, \
                 acknowledged {acknowledged}, attempted {attempted}"
            );
            let found: u64 = match entries.first() {
                None => 0,
                Some(first) => {
                    assert_eq!(
                        entries, [*first; ENTRIES],
                        "half of a request is stored: {context}"
                    );
                    first.parse().unwrap()
                }
            };
            assert!((acknowledged..=attempted).contains(&found), "{context}");
            if attempted > acknowledged {
                if found == attempted {
                    kept += 1;
                } else {
                    lost += 1;
                }
            }
            key.acknowledged.store(found, Ordering::Relaxed);
            key.attempted.store(found, Ordering::Relaxed);
        }
    }
    (kept, lost)
}
