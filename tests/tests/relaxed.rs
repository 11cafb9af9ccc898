//! Writes whose replies leave before they are durable, and `kill -9` at random instants.
//!
//! Each client writes the numbers 1, 2, 3, ... to its keys in turn, and sends a number only after
//! the reply to the one before. Most writes are relaxed; each [`DURABLE`]th is not. After a kill
//! the numbers that survived must be 1 to some M, without a gap: M is at least the last durable
//! one that was acknowledged.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ostrakon_test_support::random::{Random, seed};
use ostrakon_tests::client::Client;
use ostrakon_tests::host::{Host, Shard, config, guest};

const ROUNDS: u64 = 30;
const CLIENTS: usize = 4;
const KEYS: u64 = 5;
/// Each so manyth write waits until it is durable.
const DURABLE: u64 = 50;

/// One client's numbers.
#[derive(Default)]
struct Numbers {
    sent: AtomicU64,
    answered: AtomicU64,
    /// The last one that was acknowledged as durable.
    durable: AtomicU64,
}

#[test]
fn a_crash_loses_the_last_relaxed_writes_and_none_before_one_that_survives() {
    let seed = seed();
    println!("OSTRAKON_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let shard = Shard::new(&config(&guest("hostile"), &[]));
    let clients: Vec<Numbers> = (0..CLIENTS).map(|_| Numbers::default()).collect();
    let (mut lost, mut written) = (0, 0);
    for _ in 0..ROUNDS {
        let host = shard.start();
        lost += check(&host, &clients);
        let before: u64 = clients
            .iter()
            .map(|client| client.sent.load(Ordering::Relaxed))
            .sum();
        thread::scope(|scope| {
            for (client, numbers) in clients.iter().enumerate() {
                let connection = host.client();
                scope.spawn(move || write(connection, client, numbers));
            }
            // This is not a wait for an event: the instant of the kill is random.
            thread::sleep(Duration::from_micros(20_000 + random.below(100_000)));
            host.kill();
        });
        let after: u64 = clients
            .iter()
            .map(|client| client.sent.load(Ordering::Relaxed))
            .sum();
        written += after - before;
    }
    let host = shard.start();
    lost += check(&host, &clients);
    host.stop();
    println!(
        "{ROUNDS} kills, {written} writes, {lost} that were answered before they were durable were lost, \
         0 before one that survived, 0 durable ones"
    );
    assert!(
        written > 100 * ROUNDS,
        "too few writes were made: {written}"
    );
}

/// Writes the next numbers until the host is gone.
fn write(mut connection: Client, client: usize, numbers: &Numbers) {
    loop {
        let next = numbers.sent.load(Ordering::Relaxed) + 1;
        numbers.sent.store(next, Ordering::Relaxed);
        let is_durable = next.is_multiple_of(DURABLE);
        let how = if is_durable { "" } else { "?relaxed" };
        let path = format!("/set/{client}-{}/{next}{how}", next % KEYS);
        let Ok(response) = connection.get(&path) else {
            return;
        };
        assert_eq!(response.status, 200, "{response:?}");
        numbers.answered.store(next, Ordering::Relaxed);
        if is_durable {
            numbers.durable.store(next, Ordering::Relaxed);
        }
    }
}

/// Checks each client's numbers, and counts those that were answered and are lost. The clients go
/// on from what is there.
fn check(host: &Host, clients: &[Numbers]) -> u64 {
    let mut connection = host.client();
    let mut lost = 0;
    for (client, numbers) in clients.iter().enumerate() {
        let found: Vec<u64> = (0..KEYS)
            .map(|key| {
                let response = connection.get(&format!("/get/{client}-{key}")).unwrap();
                response.text().trim().parse().unwrap_or(0)
            })
            .collect();
        let last = *found.iter().max().unwrap();
        let [sent, answered, durable] = [&numbers.sent, &numbers.answered, &numbers.durable]
            .map(|number| number.load(Ordering::Relaxed));
        let context = format!("client {client}: {found:?}, sent {sent}, durable {durable}");
        assert!((durable..=sent).contains(&last), "{context}");
        for key in 0..KEYS {
            // The highest number up to the last one that belongs to this key.
            let expected = (0..KEYS)
                .filter_map(|back| last.checked_sub(back))
                .find(|number| number % KEYS == key && *number > 0);
            let found = found[usize::try_from(key).unwrap()];
            assert_eq!(found, expected.unwrap_or(0), "key {key} of {context}");
        }
        lost += answered.saturating_sub(last);
        for number in [&numbers.sent, &numbers.answered, &numbers.durable] {
            number.store(last, Ordering::Relaxed);
        }
    }
    lost
}
