//! Concurrent requests of many clients have the effect of some order one after another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use ostrakon_test_support::linearizable::{Action, Operation, is_linearizable};
use ostrakon_test_support::random::{Random, seed};
use ostrakon_tests::client::Client;
use ostrakon_tests::host::{Shard, config, guest};

#[test]
fn counters_count_each_increment_once() {
    const CLIENTS: u64 = 16;
    const INCREMENTS: u64 = 150;
    let shard = Shard::new(&config(&guest("counter"), &[]));
    let host = shard.start();
    let count = |body: &[u8]| -> u64 { serde_json::from_slice(body).unwrap() };
    let mut seen: Vec<u64> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = host.client();
                    let increment = |_| {
                        let response = client.send("POST", "/one", &[], b"").unwrap();
                        assert_eq!(response.status, 200, "{response:?}");
                        count(&response.body)
                    };
                    (0..INCREMENTS).map(increment).collect::<Vec<u64>>()
                })
            })
            .collect();
        let seen = clients.into_iter().map(|client| client.join().unwrap());
        seen.flatten().collect()
    });
    let sum = count(&host.client().get("/one").unwrap().body);
    println!("{CLIENTS} clients, {} increments, sum {sum}", seen.len());
    assert_eq!(sum, CLIENTS * INCREMENTS);
    // Each client got a count of its own.
    seen.sort_unstable();
    assert!(seen.into_iter().eq(1..=sum));
    host.stop();
}

/// A client's operations, by key.
type History = HashMap<u64, Vec<Operation>>;

#[test]
fn histories_of_registers_are_linearizable() {
    const CLIENTS: u64 = 8;
    const OPERATIONS: u64 = 400;
    const KEYS: u64 = 4;
    let seed = seed();
    println!("OSTRAKON_TEST_SEED={seed}");
    let shard = Shard::new(&config(&guest("kv"), &[]));
    let host = shard.start();
    // One clock, which also orders events on different threads.
    let clock = AtomicU64::new(0);
    let histories: Vec<History> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (clock, mut connection) = (&clock, host.client());
                let mut random = Random::new(seed ^ client << 56);
                scope.spawn(move || {
                    let mut history = History::new();
                    for operation in 0..OPERATIONS {
                        let key = random.below(KEYS);
                        let kind = random.below(10);
                        let value = client * OPERATIONS + operation;
                        let called = clock.fetch_add(1, Ordering::SeqCst);
                        let action = act(&mut connection, key, kind, value);
                        let returned = clock.fetch_add(1, Ordering::SeqCst);
                        history.entry(key).or_default().push(Operation {
                            called,
                            returned,
                            action,
                        });
                    }
                    history
                })
            })
            .collect();
        let histories = clients.into_iter().map(|client| client.join().unwrap());
        histories.collect()
    });
    let mut overlapping = 0;
    for key in 0..KEYS {
        let of_key = histories.iter().filter_map(|history| history.get(&key));
        let mut history: Vec<Operation> = of_key.flatten().copied().collect();
        history.sort_unstable_by_key(|operation| operation.called);
        let pairs = history.windows(2);
        overlapping += pairs
            .filter(|pair| pair[1].called < pair[0].returned)
            .count();
        assert!(is_linearizable(&history), "key {key}: {history:#?}");
    }
    println!(
        "{} operations of {CLIENTS} clients on {KEYS} keys are linearizable; {overlapping} overlapped the next",
        CLIENTS * OPERATIONS
    );
    assert!(overlapping > 100, "too few operations overlapped");
    host.stop();
}

/// Reads half of the time; otherwise writes, and sometimes deletes.
fn act(connection: &mut Client, key: u64, kind: u64, value: u64) -> Action {
    let path = format!("/kv/register-{key}");
    match kind {
        0..5 => {
            let response = connection.get(&path).unwrap();
            match response.status {
                404 => Action::Read(None),
                200 => Action::Read(Some(response.text().parse().unwrap())),
                _ => panic!("{response:?}"),
            }
        }
        5..9 => {
            let response = connection.put(&path, value.to_string().as_bytes()).unwrap();
            match response.status {
                201 => Action::Write(value, false),
                204 => Action::Write(value, true),
                _ => panic!("{response:?}"),
            }
        }
        _ => {
            let response = connection.send("DELETE", &path, &[], b"").unwrap();
            match response.status {
                404 => Action::Delete(false),
                204 => Action::Delete(true),
                _ => panic!("{response:?}"),
            }
        }
    }
}
