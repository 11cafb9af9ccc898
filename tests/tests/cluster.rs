//! Several shards: any of them takes any request, and their number changes
//! while clients write and read, with no key lost and no request failed.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use ostrakon_tests::client::Client;
use ostrakon_tests::host::{Host, Shard, config, guest};

const CLIENTS: usize = 4;
const KEYS: usize = 40;

/// Shards that know each other, each on a loopback address of its own, in a
/// part of 127.0.0.0/8 that no other test has.
fn shards(part: u8, count: u32) -> Vec<Shard> {
    let peers = |ordinal: &str| format!("127.7.{part}.{ordinal}:7070");
    let shard = |ordinal: u32| {
        let mut shard = Shard::new(&config(&guest("kv"), &settings(2)));
        shard.ordinal = ordinal;
        let listen = peers(&ordinal.to_string());
        shard.arguments = ["--peers", &peers("{}"), "--peer-listen", &listen]
            .map(str::to_owned)
            .to_vec();
        shard
    };
    (0..count).map(shard).collect()
}

fn settings(shards: u32) -> [(&'static str, &'static str); 2] {
    let toml = match shards {
        2 => "[cluster]\nshards = 2",
        3 => "[cluster]\nshards = 3",
        _ => unreachable!("these tests have two or three"),
    };
    // Keys differ in more than their first character.
    [("ostrakon.toml", toml), ("sharding", "jump")]
}

/// Waits until a shard says that so many shards have everything.
fn wait_for_shards(host: &Host, count: u32) {
    host.wait_for_status("the topology", |status| {
        status["topology"]["shards"] == count && status["topology"]["stable"] == true
    });
}

/// The keys that a shard has.
fn keys(host: &Host) -> Vec<String> {
    let response = host.client().get("/allKeys").expect("an answer");
    let text = response.text();
    let keys = text.split(',').filter(|key| !key.is_empty());
    keys.map(str::to_owned).collect()
}

#[test]
fn shards_come_and_go_under_load_and_no_key_is_lost() {
    let mut shards = shards(1, 3);
    let hosts: Vec<Host> = shards.iter().map(Shard::start).collect();
    for host in &hosts[..2] {
        wait_for_shards(host, 2);
    }
    let ended = AtomicU64::new(0);
    let requests = AtomicU64::new(0);
    let passed_on = AtomicU64::new(0);
    let stored: [Mutex<BTreeMap<String, u64>>; CLIENTS] = Default::default();
    thread::scope(|scope| {
        for (worker, stored) in stored.iter().enumerate() {
            let (hosts, ended, requests, passed_on) = (&hosts, &ended, &requests, &passed_on);
            scope.spawn(move || {
                // Through any of the two shards that are always there.
                let mut clients: Vec<Client> = hosts[..2].iter().map(Host::client).collect();
                for number in 0_u64.. {
                    if ended.load(Ordering::Relaxed) > 0 {
                        break;
                    }
                    let key = format!("{worker}-{}", number % KEYS as u64);
                    let value = number.to_string();
                    let through = usize::from(number.is_multiple_of(3));
                    let path = format!("/kv/{key}");
                    let put = clients[through].put(&path, value.as_bytes());
                    let put = put.expect("an answer");
                    assert!(put.status < 300, "{path}: {put:?}");
                    let got = clients[1 - through].get(&path).expect("an answer");
                    assert_eq!((got.status, got.text()), (200, &*value), "{path}: {got:?}");
                    if got.header("ostrakon-shard") != put.header("ostrakon-shard") {
                        passed_on.fetch_add(1, Ordering::Relaxed);
                    }
                    requests.fetch_add(2, Ordering::Relaxed);
                    stored.lock().expect("no holder panics").insert(key, number);
                }
            });
        }
        let _end = End(&ended);
        for count in [3, 2, 3, 2, 3] {
            let before = requests.load(Ordering::Relaxed);
            for shard in &mut shards {
                let files = config(&guest("kv"), &settings(count));
                shard.config.publish(&files).expect("published");
            }
            wait_for_shards(&hosts[0], count);
            hosts[0].wait_until("requests", |_| {
                requests.load(Ordering::Relaxed) > before + 200
            });
        }
    });
    // Every key is in one shard, with what was written last.
    let mut owners = BTreeMap::new();
    for (shard, host) in hosts.iter().enumerate() {
        wait_for_shards(host, 3);
        for key in keys(host) {
            let before = owners.insert(key.clone(), shard);
            assert_eq!(before, None, "{key} is in two shards");
        }
    }
    let mut found = 0;
    for stored in stored {
        for (key, value) in stored.into_inner().expect("no holder panics") {
            let got = hosts[2]
                .client()
                .get(&format!("/kv/{key}"))
                .expect("an answer");
            assert_eq!(got.text(), value.to_string(), "{key}");
            let shard = got.header("ostrakon-shard").map(str::to_owned);
            assert_eq!(shard, Some(owners[&key].to_string()), "{key}");
            found += 1;
        }
    }
    assert_eq!(found, owners.len());
    assert!(
        owners.values().any(|shard| *shard == 2),
        "the third has some"
    );
    let requests = requests.into_inner();
    println!("{requests} requests over 5 changes: 0 failed; {found} keys, each in one place");
}

/// Ends the clients when dropped.
struct End<'a>(&'a AtomicU64);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(1, Ordering::Relaxed);
    }
}

#[test]
fn a_shard_that_is_away_is_waited_for_and_then_told_of() {
    let toml = "[cluster]\nshards = 2\nmax_wait = \"500ms\"";
    let mut shards = shards(2, 2);
    for shard in &mut shards {
        let files = config(&guest("kv"), &[("ostrakon.toml", toml)]);
        shard.config.publish(&files).expect("published");
    }
    let one = shards[0].start();
    let two = shards[1].start();
    wait_for_shards(&one, 2);
    wait_for_shards(&two, 2);
    // `modulo` on the first character: `a` is 97, so the second shard's.
    let mut client = one.client();
    let saved = client.get("/save/a/word").expect("an answer");
    assert_eq!(
        (saved.status, saved.header("ostrakon-shard")),
        (200, Some("1"))
    );
    two.kill();
    let away = client.get("/load/a").expect("an answer");
    let told = (away.status, away.header("ostrakon-error"));
    assert_eq!(told, (503, Some("shard-away")), "{away:?}");
    assert!(away.header("retry-after").is_some());
    let everywhere = client.get("/load/b").expect("an answer");
    assert_eq!(everywhere.status, 200, "its own are served all the same");
    let two = shards[1].start();
    wait_for_shards(&two, 2);
    one.wait_until("the second shard", |one| {
        one.client()
            .get("/load/a")
            .is_ok_and(|back| back.text() == "word")
    });
}
