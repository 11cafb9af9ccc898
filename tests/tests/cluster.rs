//! Several shards: each accepts any request. Their number changes while clients write and read; no
//! key is lost and no request fails.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_test_support::files::copy;
use ostrakon_tests::client::Client;
use ostrakon_tests::cluster::shards;
use ostrakon_tests::host::{Files, Host, Shard, config, guest};
use ostrakon_tests::load::{under_load, under_load_through};

fn kv(shards: u32) -> Files {
    let toml = format!("[cluster]\nshards = {shards}");
    // `jump` hashes the whole key, so keys with the same first character spread.
    config(
        &guest("kv"),
        &[("ostrakon.toml", &toml), ("sharding", "jump")],
    )
}

fn votes(toml: &str) -> Files {
    config(&guest("votes"), &[("ostrakon.toml", toml)])
}

fn publish(shards: &mut [Shard], files: &Files) {
    for shard in shards {
        shard.config.publish(files).expect("published");
    }
}

/// Waits until a shard reports a stable topology of `count` shards.
fn wait_for_shards(host: &Host, count: u32) {
    host.wait_for_status("the topology", |status| {
        status["topology"]["shards"] == count && status["topology"]["stable"] == true
    });
}

/// The keys in one shard.
fn keys(host: &Host) -> Vec<String> {
    let response = host.client().get("/allKeys").expect("an answer");
    let text = response.text();
    let keys = text.split(',').filter(|key| !key.is_empty());
    keys.map(str::to_owned).collect()
}

#[test]
fn shards_come_and_go_under_load_and_no_key_is_lost() {
    const CLIENTS: usize = 4;
    let mut shards = shards(1, 3, &kv(2));
    let token = Files::from([("peer-token".to_owned(), b"a token of the tests".to_vec())]);
    for shard in &mut shards {
        shard.secrets.publish(&token).expect("published");
    }
    let hosts: Vec<Host> = shards.iter().map(Shard::start).collect();
    for host in &hosts[..2] {
        wait_for_shards(host, 2);
    }
    let stored: [Mutex<BTreeMap<String, u64>>; CLIENTS] = Default::default();
    // Requests go through the two shards that always run.
    let addresses = [hosts[0].address, hosts[1].address];
    let request = |clients: &mut [Client], worker: usize, number: u64| {
        let key = format!("{worker}-{}", number % 40);
        let (path, value) = (format!("/kv/{key}"), number.to_string());
        let through = usize::from(number.is_multiple_of(3));
        let put = clients[through].put(&path, value.as_bytes());
        let put = put.expect("an answer");
        assert!(put.status < 300, "{path}: {put:?}");
        let got = clients[1 - through].get(&path).expect("an answer");
        assert_eq!((got.status, got.text()), (200, &*value), "{path}: {got:?}");
        let mut stored = stored[worker].lock().expect("no holder panics");
        stored.insert(key, number);
    };
    let change = |requests: &AtomicU64| {
        for count in [3, 2, 3, 2, 3] {
            let before = requests.load(Ordering::Relaxed);
            publish(&mut shards, &kv(count));
            wait_for_shards(&hosts[0], count);
            hosts[0].wait_until("requests", |_| {
                requests.load(Ordering::Relaxed) > before + 100
            });
        }
    };
    let (requests, ()) = under_load_through(&addresses, CLIENTS, request, change);
    // Every key is in exactly one shard, with the value that was written last.
    let mut owners = BTreeMap::new();
    for (shard, host) in hosts.iter().enumerate() {
        wait_for_shards(host, 3);
        for key in keys(host) {
            let before = owners.insert(key.clone(), shard);
            assert_eq!(before, None, "{key} is on two shards");
        }
    }
    let mut client = hosts[2].client();
    let stored = stored.map(|stored| stored.into_inner().expect("no holder panics"));
    for (key, value) in stored.iter().flatten() {
        let got = client.get(&format!("/kv/{key}")).expect("an answer");
        assert_eq!(got.text(), value.to_string(), "{key}");
        let shard = got.header("ostrakon-shard").map(str::to_owned);
        assert_eq!(shard, Some(owners[key].to_string()), "{key}");
    }
    let found: usize = stored.iter().map(BTreeMap::len).sum();
    assert_eq!(found, owners.len());
    let has_some = |shard| owners.values().any(|owner| *owner == shard);
    assert!((0..3).all(has_some), "a shard has no partition: {owners:?}");
    println!(
        "{} requests over 5 changes: 0 failed; {found} keys, each in one place",
        2 * requests
    );
}

#[test]
fn a_change_to_shards_that_are_not_there_does_not_begin_and_can_be_taken_back() {
    let mut shards = shards(10, 3, &kv(2));
    let mut hosts: Vec<Host> = shards[..2].iter().map(Shard::start).collect();
    for host in &hosts {
        wait_for_shards(host, 2);
    }
    let put = hosts[0].client().put("/kv/key", b"word");
    assert_eq!(put.expect("an answer").status, 201);
    let epoch = hosts[0].status()["topology"]["epoch"].clone();
    let waits_for = |host: &Host, expected: &[u32]| {
        host.wait_for_status("what it waits for", |status| {
            status["waits_for"] == serde_json::json!(expected)
        });
    };

    // A typing error in the number of shards.
    publish(&mut shards, &kv(30));
    waits_for(&hosts[0], &(2..30).collect::<Vec<_>>());
    let all = hosts[1].client().get("/keys").expect("an answer");
    assert_eq!(all.status, 200, "the change must not have begun");
    publish(&mut shards, &kv(2));
    waits_for(&hosts[0], &[]);
    let status = hosts[0].status();
    assert_eq!(status["topology"]["epoch"], epoch);
    assert_eq!(status["topology"]["stable"], true);

    // The change begins when the new shards are there.
    publish(&mut shards, &kv(3));
    waits_for(&hosts[0], &[2]);
    hosts.push(shards[2].start());
    for host in &hosts {
        wait_for_shards(host, 3);
    }
    waits_for(&hosts[0], &[]);
}

#[test]
fn a_shard_that_is_away_is_waited_for_and_then_told_of() {
    let toml = "[cluster]\nshards = 2\nmax_wait = \"4s\"\nmax_waiting = 2";
    let files = config(&guest("kv"), &[("ostrakon.toml", toml)]);
    let shards = shards(2, 2, &files);
    let one = shards[0].start();
    let two = shards[1].start();
    wait_for_shards(&one, 2);
    wait_for_shards(&two, 2);
    // With `modulo` on the first character, `a` (97) belongs to the second shard.
    let mut client = one.client();
    let saved = client.get("/save/a/word").expect("an answer");
    let told = (saved.status, saved.header("ostrakon-shard"));
    assert_eq!(told, (200, Some("1")));
    two.kill();
    // Two requests may wait, for as long as `max_wait` allows; further ones are refused at once.
    let began = Instant::now();
    let load = || {
        let away = one.client().get("/load/a").expect("an answer");
        let told = (away.status, away.header("ostrakon-error"));
        assert_eq!(told, (503, Some("shard-away")), "{away:?}");
        assert!(away.header("retry-after").is_some());
        (began.elapsed(), away.text().contains("too many"))
    };
    let waits: Vec<_> = thread::scope(|scope| {
        let loads: Vec<_> = (0..5).map(|_| scope.spawn(load)).collect();
        let ended = loads.into_iter().map(thread::ScopedJoinHandle::join);
        ended.map(|load| load.expect("it is told")).collect()
    });
    let max_wait = Duration::from_secs(4);
    let waited = waits.iter().filter(|(waited, _)| *waited >= max_wait);
    assert_eq!(waited.count(), 2, "{waits:?}");
    let turned_away = waits.iter().filter(|(_, too_many)| *too_many);
    assert_eq!(turned_away.count(), 3, "{waits:?}");
    let own = client.get("/load/b").expect("an answer");
    assert_eq!(
        own.status, 200,
        "requests for its own partitions are still served"
    );
    let two = shards[1].start();
    wait_for_shards(&two, 2);
    one.wait_until("the second shard", |one| {
        one.client()
            .get("/load/a")
            .is_ok_and(|back| back.text() == "word")
    });
}

/// Creates polls and returns their names.
fn make_polls(host: &Host, count: u64) -> Vec<String> {
    let name = |number| format!("poll-{number:06}");
    let next = AtomicU64::new(0);
    let put = |client: &mut Client, _, _| {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number < count {
            let put = client.put(&format!("/polls/{}/me", name(number)), b"yes");
            assert_eq!(put.expect("an answer").status, 204);
        }
    };
    under_load(host.address, 16, put, |_| {
        host.wait_until("all polls", |_| next.load(Ordering::Relaxed) >= count + 16);
    });
    (0..count).map(name).collect()
}

#[test]
fn a_listing_of_all_shards_is_whole_while_partitions_move() {
    const POLLS: u64 = 6000;
    let toml = |count| format!("[cluster]\nshards = {count}");
    let mut shards = shards(3, 3, &votes(&toml(2)));
    let mut hosts: Vec<Host> = shards.iter().map(Shard::start).collect();
    wait_for_shards(&hosts[0], 2);
    wait_for_shards(&hosts[1], 2);
    let polls = make_polls(&hosts[0], POLLS);
    let expected = serde_json::to_string(&polls).expect("JSON");
    let midway = AtomicU64::new(0);
    let addresses: Vec<_> = hosts.iter().map(|host| host.address).collect();
    let list = |clients: &mut [Client], worker: usize, number: u64| {
        let through = usize::from(number.is_multiple_of(2));
        let is_moving = |host: &Host| host.status()["topology"]["stable"] == false;
        let before = is_moving(&hosts[through]);
        let listed = clients[through].get("/polls").expect("an answer");
        assert_eq!(listed.status, 200, "{}", listed.text());
        assert!(
            listed.text() == expected,
            "worker {worker}: {} bytes",
            listed.body.len()
        );
        if before && is_moving(&hosts[through]) {
            midway.fetch_add(1, Ordering::Relaxed);
        }
    };
    let change = |_: &AtomicU64| {
        for count in [3, 2, 3] {
            publish(&mut shards, &votes(&toml(count)));
            wait_for_shards(&hosts[0], count);
        }
    };
    let (listings, ()) = under_load_through(&addresses, 2, list, change);
    let midway = midway.into_inner();
    assert!(
        midway > 0,
        "none of {listings} listings was made during a change"
    );
    println!(
        "{listings} listings of {POLLS} partitions over 3 changes, {midway} of them during a change: all complete"
    );
    let toml = "[cluster]\nshards = 3\nmax_wait = \"200ms\"";
    publish(&mut shards, &votes(toml));
    for host in &hosts {
        host.wait_for_status("the new settings", |status| {
            status["generation"]["generation"] == 5
        });
    }
    hosts.pop().expect("the third").kill();
    let away = Client::new(addresses[0]).get("/polls").expect("an answer");
    let told = (away.status, away.header("ostrakon-error"));
    assert_eq!(told, (503, Some("shard-away")), "{}", away.text());
    assert!(
        away.text().contains("shard 2 does not answer"),
        "{}",
        away.text()
    );
}

#[test]
fn a_leaving_shard_hands_over_before_it_ends() {
    let toml = |count| format!("[cluster]\nshards = {count}\n[drain]\ndeadline = \"20s\"");
    let mut shards = shards(4, 2, &votes(&toml(2)));
    let mut hosts: Vec<Host> = shards.iter().map(Shard::start).collect();
    let leaving = hosts.pop().expect("the second");
    wait_for_shards(&hosts[0], 2);
    let polls = make_polls(&hosts[0], 4000);
    publish(&mut shards, &votes(&toml(1)));
    leaving.wait_for_status("the change", |status| status["topology"]["stable"] == false);
    let log = leaving.stop();
    assert!(log.contains("handing over before the end"), "{log}");
    wait_for_shards(&hosts[0], 1);
    let listed = hosts[0].client().get("/polls").expect("an answer");
    assert!(listed.text() == serde_json::to_string(&polls).expect("JSON"));
}

/// A shard that ran alone and is started with peers for the first time holds all the data.
#[test]
fn what_a_shard_has_from_a_time_alone_is_spread() {
    let mut shards = shards(19, 2, &kv(2));
    let arguments = std::mem::take(&mut shards[0].arguments);
    let alone = shards[0].start();
    for key in 0..40 {
        let put = alone.client().put(&format!("/kv/{key}"), b"x");
        assert_eq!(put.expect("an answer").status, 201);
    }
    alone.stop();
    shards[0].arguments = arguments;
    let hosts: Vec<_> = shards.iter().map(Shard::spawn).collect();
    for host in &hosts {
        wait_for_shards(host, 2);
    }
    for key in 0..40 {
        let got = hosts[key % 2].client().get(&format!("/kv/{key}"));
        assert_eq!(got.expect("an answer").status, 200, "{key}");
    }
    let [one, two] = [0, 1].map(|shard: usize| keys(&hosts[shard]).len());
    assert!(one > 5 && two > 5 && one + two == 40, "{one} and {two}");
}

#[test]
fn a_shard_is_ready_once_it_knows_how_many_shards_there_are() {
    let shards = shards(18, 2, &kv(2));
    let one = shards[1].spawn();
    one.wait_for_status("to wait for shard 0", |status| {
        let why = status["not_ready"].as_str().unwrap_or_default();
        why.contains("how many shards there are: shard 0 tells it")
    });
    let ready = one.admin("GET", "/readyz").expect("an answer");
    assert_eq!(ready.status, 503);
    let started = one.admin("GET", "/startupz").expect("an answer");
    assert_eq!(started.status, 200);
    let zero = shards[0].start();
    one.wait_for_status("ready", |status| status["ready"] == true);
    wait_for_shards(&zero, 2);
    // When it is restarted alone, it knows its cluster from its disk.
    one.stop();
    zero.stop();
    shards[1].start();
}

fn incarnation(host: &Host) -> u64 {
    let status = host.wait_for_status("the topology", |status| status["topology"].is_object());
    status["topology"]["incarnation"]
        .as_u64()
        .expect("the text is a number")
}

#[test]
fn of_two_processes_of_one_ordinal_the_older_stops() {
    let toml = "[cluster]\nshards = 2";
    let mut shards = shards(6, 3, &votes(toml));
    let coordinator = shards[0].start();
    let older = shards[1].start();
    wait_for_shards(&coordinator, 2);
    wait_for_shards(&older, 2);
    older.stop();
    // The third is a second process with the second shard's ordinal, on a copy of its disk, at
    // another address. It is started twice, so its incarnation is higher.
    copy(&shards[1].data, &shards[2].data);
    shards[2].ordinal = 1;
    let older = shards[1].start();
    wait_for_shards(&older, 2);
    shards[2].start().stop();
    let later = shards[2].start();
    assert!(incarnation(&later) > incarnation(&older));
    older.wait_until("the older one to stop", |older| {
        older
            .admin("GET", "/readyz")
            .is_ok_and(|ready| ready.status == 503)
    });
    let not_ready = &older.status()["not_ready"];
    let why = not_ready.as_str().expect("it says why");
    assert!(
        why.contains("must not serve this shard any longer"),
        "{why}"
    );
    older.wait_until("refusing", |older| {
        older.client().get("/polls").is_ok_and(|refused| {
            refused.status == 503 && refused.text().contains("_shutting_down_")
        })
    });
    let log = older.log();
    assert!(
        log.contains("peers accept another process of this ordinal"),
        "{log}"
    );
    let ready = later.admin("GET", "/readyz").expect("an answer");
    assert_eq!(ready.status, 200);
}

/// The ConfigMap of the hostile guest, each of whose migrations appends a `~` to each value.
fn hostile(shards: u32, schema: u32) -> Files {
    hostile_that(shards, schema, "")
}

fn hostile_that(shards: u32, schema: u32, more: &str) -> Files {
    let toml = format!("[cluster]\nshards = {shards}");
    let misbehave = format!("schema={schema}{more}");
    config(
        &guest("hostile"),
        &[("ostrakon.toml", &toml), ("misbehave", &misbehave)],
    )
}

/// Shards of which only these have the secret `needed`.
fn shards_of_which_some_have_a_secret(
    part: u8,
    count: u8,
    files: &Files,
    some: &[usize],
) -> Vec<Shard> {
    let mut shards = shards(part, count, files);
    let secret = Files::from([("needed".to_owned(), b"it is here".to_vec())]);
    for shard in some {
        shards[*shard].secrets.publish(&secret).expect("published");
    }
    shards
}

/// Sets values in `count` partitions through a shard.
fn fill(host: &Host, count: u64) {
    let next = AtomicU64::new(0);
    let set = |client: &mut Client, _, _| {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number < count {
            let set = client.get(&format!("/set/{number}/value"));
            assert_eq!(set.expect("an answer").status, 200);
        }
    };
    under_load(host.address, 16, set, |_| {
        host.wait_until("all values", |_| next.load(Ordering::Relaxed) >= count + 16);
    });
}

/// Checks these `count` values through a shard.
fn check_values(host: &Host, count: u64, expected: &str) {
    let mut client = host.client();
    for number in 0..count {
        let got = client.get(&format!("/get/{number}")).expect("an answer");
        assert_eq!(
            (got.status, got.text()),
            (200, expected),
            "{number}: {got:?}"
        );
    }
}

#[test]
fn what_arrives_of_an_older_schema_is_migrated_once() {
    const COUNT: u64 = 3000;
    let mut shards = shards_of_which_some_have_a_secret(8, 2, &hostile(2, 1), &[0]);
    let hosts: Vec<Host> = shards.iter().map(Shard::start).collect();
    for host in &hosts {
        wait_for_shards(host, 2);
    }
    fill(&hosts[0], COUNT);
    // The leaving shard cannot migrate its own data, and stays with the old schema.
    let newer = hostile_that(1, 2, ",migrate-needs=needed");
    shards[0].config.publish(&newer).expect("published");
    hosts[0].wait_for_status("the schema", |status| status["generation"]["schema"] == 2);
    wait_for_shards(&hosts[0], 1);
    assert_eq!(hosts[1].status()["generation"]["schema"], 1);
    hosts[1].wait_for_status("the refusal", |status| {
        status["refused"]["step"] == "migrate"
    });
    check_values(&hosts[0], COUNT, "value~");
}

#[test]
fn partitions_stay_until_their_receiver_has_their_schema() {
    const COUNT: u64 = 500;
    let mut shards = shards_of_which_some_have_a_secret(9, 2, &hostile(1, 1), &[0]);
    let hosts: Vec<Host> = shards.iter().map(Shard::start).collect();
    wait_for_shards(&hosts[0], 1);
    fill(&hosts[0], COUNT);
    // Who has no part in the cluster yet is not asked.
    let newer = hostile_that(2, 2, ",needs=needed");
    shards[0].config.publish(&newer).expect("published");
    for host in &hosts {
        host.wait_for_status("the change", |status| status["topology"]["stable"] == false);
        check_values(host, COUNT, "value~");
    }
    assert_eq!(
        hosts[1].status()["store"]["entries"],
        0,
        "no partition may move there"
    );
    hosts[1].wait_for_status("the refusal", |status| status["refused"]["step"] == "check");
    shards[0].config.publish(&hostile(2, 2)).expect("published");
    for host in &hosts {
        wait_for_shards(host, 2);
        check_values(host, COUNT, "value~");
    }
    assert_ne!(hosts[1].status()["store"]["entries"], 0);
}

#[test]
fn what_a_leaving_shard_cannot_hand_over_comes_back_with_it() {
    const COUNT: u64 = 500;
    let brief = |mut files: Files| {
        let toml = files.get_mut("ostrakon.toml").expect("settings");
        toml.extend_from_slice(b"\n[drain]\ndeadline = \"200ms\"\n[rollout]\nwait = \"1s\"");
        files
    };
    let first = brief(hostile(3, 1));
    let mut shards = shards_of_which_some_have_a_secret(5, 3, &first, &[0, 2]);
    let mut hosts: Vec<Host> = shards.iter().map(Shard::start).collect();
    for host in &hosts {
        wait_for_shards(host, 3);
    }
    fill(&hosts[0], COUNT);
    let leaving = hosts.pop().expect("the third");
    // A receiver that could not migrate its data accepts none of the newer schema.
    let newer = brief(hostile_that(2, 2, ",migrate-needs=needed"));
    shards[0].config.publish(&newer).expect("published");
    leaving.wait_for_status("the schema", |status| status["generation"]["schema"] == 2);
    leaving.wait_for_status("the change", |status| status["topology"]["stable"] == false);
    let entries = leaving.status()["store"]["entries"].clone();
    leaving.signal("TERM");
    let (status, log) = leaving.wait();
    assert_eq!(status.code(), Some(1), "{log}");
    let told = format!("\"partitions\":{entries}");
    let not_all = "not all partitions are handed over";
    let told = log
        .lines()
        .find(|line| line.contains(not_all) && line.contains(&told));
    assert!(told.is_some(), "{log}");
    shards[0]
        .config
        .publish(&brief(hostile(2, 2)))
        .expect("published");
    let back = shards[2].start();
    wait_for_shards(&back, 2);
    for host in &hosts {
        wait_for_shards(host, 2);
    }
    check_values(&hosts[0], COUNT, "value~");
    assert_eq!(back.status()["store"]["entries"], 0);
}
