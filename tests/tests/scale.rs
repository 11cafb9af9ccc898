//! With `cluster.topology = "statefulset"`, nothing but `kubectl scale` is needed.
//!
//! The API server knows how many replicas the StatefulSet should have. The local controller starts
//! and ends Pods as Kubernetes does, and tells the shards nothing.

use std::time::{Duration, Instant};

use ostrakon_dev::{Numbers, What};
use ostrakon_test_support::api_server::{ApiServer, SET};
use ostrakon_test_support::random::{Random, seed};
use ostrakon_tests::host::{Files, Shard, config, guest};
use ostrakon_tests::service;
use ostrakon_tests::set::StatefulSet;
use serde_json::Value;

/// The number in the settings must be ignored, and must not be waited for.
const SETTINGS: &str =
    "[cluster]\ntopology = \"statefulset\"\nshards = 2\n[drain]\nserve_for = \"500ms\"";

fn files() -> Files {
    config(
        &guest("kv"),
        &[("ostrakon.toml", SETTINGS), ("sharding", "jump")],
    )
}

/// A StatefulSet that is not started yet, with its API server.
fn set(api: &ApiServer, shards: u32) -> StatefulSet {
    let mut set = StatefulSet::new(&files(), shards);
    set.options.numbers = Numbers::Heard;
    set.options.environment = api.environment();
    set
}

/// `kubectl scale`: the StatefulSet controller learns of the number when the shards do.
fn scale(api: &ApiServer, set: &StatefulSet, shards: u32) {
    api.scale(shards.cast_signed());
    set.begin_scale(shards);
}

fn save(set: &StatefulSet, keys: u32) {
    let mut client = set.client(0);
    for key in 0..keys {
        let saved = client.put(&format!("/kv/{key}"), b"value").unwrap();
        assert!(saved.status < 300, "{saved:?}");
    }
}

fn check(set: &StatefulSet, keys: u32) {
    let mut client = set.client(0);
    for key in 0..keys {
        let loaded = client.get(&format!("/kv/{key}")).unwrap();
        assert_eq!((loaded.status, loaded.text()), (200, "value"), "{key}");
    }
    let listed = client.get("/kv?limit=1000").unwrap();
    let listed: Value = serde_json::from_slice(&listed.body).unwrap();
    assert_eq!(listed["keys"].as_array().map(Vec::len), Some(keys as usize));
}

fn wait_for_status(set: &StatefulSet, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + ostrakon_tests::host::PATIENCE;
    loop {
        let status = set.status(0);
        if let Some(status) = status.as_ref().filter(|status| is_so(status)) {
            return status.clone();
        }
        assert!(
            Instant::now() < deadline,
            "{what}: not in time: {status:#?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn epoch(set: &StatefulSet) -> u64 {
    let status = set.status(0).expect("it answers");
    status["topology"]["epoch"]
        .as_u64()
        .expect("there is a plan")
}

/// How long each Pod took to end, by ordinal and in order. Checks that each ended well.
fn ends(set: &StatefulSet) -> Vec<(u32, Duration)> {
    let mut told = Vec::new();
    let mut ends = Vec::new();
    for news in set.news_so_far() {
        match (news.shard, &news.what) {
            (Some(shard), What::Stopping) => told.push((shard, news.at)),
            (Some(shard), What::Ended { code, .. }) => {
                assert_eq!(
                    *code,
                    Some(0),
                    "shard {shard} did not end with code 0: {news:?}"
                );
                let at = told.iter().rfind(|(ordinal, _)| *ordinal == shard);
                let (_, at) = at.expect("it was told to");
                ends.push((shard, news.at.duration_since(*at)));
            }
            _ => {}
        }
    }
    ends
}

fn notes(api: &ApiServer, reason: &str) -> Vec<String> {
    let events = api
        .events()
        .into_iter()
        .filter(|event| event["reason"] == reason);
    events
        .map(|event| event["note"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn scaling_up_and_down_loses_nothing_and_fails_no_request() {
    let seed = seed();
    println!("OSTRAKON_TEST_SEED={seed}");
    let api = ApiServer::start(3);
    let mut set = set(&api, 3);
    set.start();
    let load = service::under_load(&set, 5, Random::new(seed), || {
        for shards in [5, 3] {
            scale(&api, &set, shards);
            set.settle();
            assert_eq!(set.status(0).unwrap()["topology"]["shards"], shards);
        }
    });
    let keys = load.check(&mut set.client(0));
    let ends = ends(&set);
    let ordinals: Vec<_> = ends.iter().map(|(shard, _)| *shard).collect();
    assert_eq!(ordinals, [4, 3]);
    let status = set.status(0).unwrap();
    assert_eq!(status["topology"]["source"], "statefulset");
    assert_eq!(status["kubernetes"]["replicas"], 3);
    assert!(status["kubernetes"]["heard"].is_f64() && status["kubernetes"]["problem"].is_null());
    println!(
        "{} requests over 3 -> 5 -> 3: 0 failed, the longest took {} ms; {keys} keys, each found; shards 4 and 3 handed over in {:?}",
        load.requests, load.worst, ends
    );
    let started = [
        "partitions move from 3 shards to 5",
        "partitions move from 5 shards to 3",
    ];
    api.wait_for("the Events", |api| {
        let mut notes = notes(api, "ReshardingStarted");
        notes.sort();
        (notes == started && self::notes(api, "ReshardingDone").len() == 2).then_some(())
    });
    let about = api
        .events()
        .into_iter()
        .find(|event| event["reason"] == "ReshardingDone");
    assert_eq!(about.unwrap()["regarding"]["name"], SET);
    set.stop();
}

#[test]
fn a_pod_that_is_told_to_end_before_the_coordinator_hears_why_hands_over_all_the_same() {
    let api = ApiServer::start(3);
    let mut set = set(&api, 3);
    set.start();
    save(&set, 300);
    // Watches report the change late, long after SIGTERM. A new list request sees it at once.
    let delay = Duration::from_secs(2);
    api.fail(|faults| faults.delay = delay);
    scale(&api, &set, 1);
    set.settle();
    let ends = ends(&set);
    println!("told to end before the plan came: {ends:?} until the end");
    let ordinals: Vec<_> = ends.iter().map(|(shard, _)| *shard).collect();
    assert_eq!(ordinals, [2, 1]);
    assert!(
        ends[0].1 > delay / 2,
        "the shard did not wait for the plan: {ends:?}"
    );
    check(&set, 300);
    for shard in [1, 2] {
        assert!(
            !set.log(shard)
                .contains("not all partitions are handed over")
        );
    }
    set.stop();
}

#[test]
fn a_rolling_restart_moves_nothing_and_waits_for_nothing() {
    let seed = seed();
    println!("OSTRAKON_TEST_SEED={seed}");
    let api = ApiServer::start(3);
    let mut set = set(&api, 3);
    set.start();
    let before = epoch(&set);
    let load = service::under_load(&set, 3, Random::new(seed), || set.restart());
    let keys = load.check(&mut set.client(0));
    let ends = ends(&set);
    println!(
        "{} requests over a restart of three shards: 0 failed, the longest took {} ms; {keys} keys, each found; they ended in {ends:?}",
        load.requests, load.worst
    );
    assert_eq!(ends.len(), 3);
    assert_eq!(epoch(&set), before, "partitions moved");
    for (shard, took) in ends {
        // More than `serve_for`, and less than a shard waits that hears nothing.
        assert!(took < Duration::from_secs(4), "shard {shard} took {took:?}");
    }
    // Ending is quick even when the API server is away.
    api.open(false);
    set.restart();
    assert_eq!(epoch(&set), before, "partitions moved");
    check_all_ended_within(&set, Duration::from_secs(9));
    set.stop();
}

fn check_all_ended_within(set: &StatefulSet, most: Duration) {
    for (shard, took) in ends(set) {
        assert!(took < most, "shard {shard} took {took:?}");
    }
}

#[test]
fn a_change_of_mind_in_the_middle_of_a_change_loses_nothing() {
    let api = ApiServer::start(3);
    let mut set = set(&api, 3);
    set.start();
    save(&set, 900);
    scale(&api, &set, 5);
    set.wait_for("shard 4", |shard, what| {
        shard == Some(4) && matches!(what, What::Ready(_))
    });
    scale(&api, &set, 2);
    set.settle();
    assert_eq!(set.status(0).unwrap()["topology"]["shards"], 2);
    let ordinals: Vec<_> = ends(&set).iter().map(|(shard, _)| *shard).collect();
    assert_eq!(ordinals, [4, 3, 2]);
    check(&set, 900);
    set.stop();
}

#[test]
fn while_the_api_server_is_away_the_last_number_holds() {
    let api = ApiServer::start(3);
    let mut set = set(&api, 3);
    set.start();
    save(&set, 200);
    let before = epoch(&set);
    api.open(false);
    scale(&api, &set, 5);
    set.wait_for("shard 4", |shard, what| {
        shard == Some(4) && matches!(what, What::Ready(_))
    });
    let status = wait_for_status(&set, "a problem", |status| {
        !status["kubernetes"]["problem"].is_null()
    });
    let problem = status["kubernetes"]["problem"].as_str().unwrap();
    assert!(problem.contains("cannot be reached"), "{problem}");
    assert_eq!(status["kubernetes"]["replicas"], 3);
    check(&set, 200);
    // A new process does not know what the last one heard from the API server. It knows only the
    // plan.
    set.kill(0).expect("it has a process");
    wait_for_status(&set, "another process", |status| {
        let kubernetes = &status["kubernetes"];
        status["ready"] == true
            && kubernetes["replicas"].is_null()
            && !kubernetes["problem"].is_null()
    });
    check(&set, 200);
    assert_eq!(epoch(&set), before);
    api.open(true);
    set.settle();
    assert_eq!(set.status(0).unwrap()["topology"]["shards"], 5);
    check(&set, 200);
    set.stop();
}

#[test]
fn a_set_that_is_deleted_and_applied_again_has_every_key() {
    let api = ApiServer::start(3);
    let mut set = set(&api, 3);
    set.start();
    save(&set, 200);
    let before = epoch(&set);
    // The object is deleted before the Pods, or it is marked and deleted after them.
    for is_foreground in [false, true] {
        if is_foreground {
            api.change(|world| world.begin_to_delete(SET));
        } else {
            api.change(|world| world.delete(SET));
        }
        wait_for_status(&set, "the deletion", |status| {
            !status["kubernetes"]["problem"].is_null()
        });
        set.stop();
        for (shard, took) in ends(&set) {
            assert!(took < Duration::from_secs(4), "shard {shard} took {took:?}");
        }
        if is_foreground {
            api.change(|world| world.delete(SET));
        }
        api.change(|world| world.create(SET, 3));
        set.start();
        check(&set, 200);
        assert_eq!(epoch(&set), before, "partitions moved");
    }
    // The same holds for `replicas: 0`, which ends all Pods and does not mean a number of shards.
    api.scale(0);
    set.stop();
    api.scale(3);
    set.start();
    check(&set, 200);
    assert_eq!(epoch(&set), before, "partitions moved");
    set.stop();
}

/// All its Pods become Ready, but the data of the missing shards is not served. The status, an
/// Event, a metric and the refusals all say so.
#[test]
fn a_set_that_comes_back_smaller_than_its_data_says_what_is_missing_and_how_to_mend_it() {
    let api = ApiServer::start(5);
    let mut set = set(&api, 5);
    set.start();
    save(&set, 200);
    api.change(|world| world.delete(SET));
    wait_for_status(&set, "the deletion", |status| {
        !status["kubernetes"]["problem"].is_null()
    });
    set.stop();
    api.change(|world| world.create(SET, 3));
    set.options.shards = Some(3);
    set.begin();
    let status = wait_for_status(&set, "what is missing", |status| {
        status["topology"]["missing"] == serde_json::json!([3, 4])
    });
    assert_eq!(status["ready"], true);
    let problems = status["problems"].to_string();
    let note = "shards 3 and 4 have partitions and are not there";
    assert!(
        problems.contains(note) && problems.contains("--replicas=5"),
        "{problems}"
    );
    let event = api.wait_for("the Event", |api| {
        let mut events = api.events().into_iter();
        events.find(|event| event["reason"] == "ShardsMissing")
    });
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["regarding"]["kind"], "StatefulSet");
    assert!(
        event["note"].as_str().unwrap().contains("--replicas=5"),
        "{event}"
    );
    let metrics = set.admin(0, "GET", "/metrics").expect("an answer");
    let shown = "\nostrakon_topology_missing_shards 2\n";
    assert!(metrics.text().contains(shown), "{}", metrics.text());
    let refused = set.client(0).get("/kv?limit=1000").expect("an answer");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.text().contains("--replicas=5"), "{refused:?}");

    // The command that the message suggests.
    scale(&api, &set, 5);
    set.settle();
    wait_for_status(&set, "nothing to be missing", |status| {
        status["topology"]["missing"] == serde_json::json!([])
    });
    check(&set, 200);
    api.wait_for("the Event", |_| {
        (!notes(&api, "ShardsBack").is_empty()).then_some(())
    });
    scale(&api, &set, 3);
    set.settle();
    check(&set, 200);
    println!("200 keys in 5 shards, back with 3: said so; with 5, and 3 again: each found");
    set.stop();
}

#[test]
fn a_first_start_waits_until_it_hears_the_number() {
    let api = ApiServer::start(3);
    let rules = api.change(|world| std::mem::take(&mut world.rules));
    let mut set = set(&api, 3);
    set.begin();
    let status = wait_for_status(&set, "a problem", |status| {
        !status["kubernetes"]["problem"].is_null()
    });
    let problem = status["kubernetes"]["problem"].as_str().unwrap();
    assert!(problem.contains("a Role"), "{problem}");
    // Longer than a coordinator waits that knows the number.
    let asked = || {
        api.asked()
            .iter()
            .filter(|asked| asked.verb == "list")
            .count()
    };
    let since = Instant::now();
    api.wait_for("some more tries", |_| {
        (asked() > 4 && since.elapsed() > Duration::from_secs(4)).then_some(())
    });
    let status = set.status(0).unwrap();
    assert!(
        status["topology"].is_null() && status["ready"] == false,
        "{status}"
    );
    api.change(|world| world.rules = rules);
    set.settle();
    let topology = &set.status(0).unwrap()["topology"];
    assert_eq!(
        (&topology["epoch"], &topology["shards"]),
        (&1.into(), &3.into())
    );
    set.stop();
}

#[test]
fn what_is_refused_is_an_event_of_the_pod() {
    let api = ApiServer::start(1);
    let mut set = set(&api, 1);
    set.start();
    let mut broken = files();
    broken.insert("sharding".to_owned(), b"astrology".to_vec());
    set.publish(&broken);
    let refused = api.wait_for("the Event", |api| {
        api.events()
            .into_iter()
            .find(|event| event["reason"] == "SwapRefused")
    });
    assert!(
        refused["note"].as_str().unwrap().contains("astrology"),
        "{refused}"
    );
    assert_eq!(refused["regarding"]["name"], "shard-0");
    set.publish(&files());
    api.wait_for("the Event", |api| notes(api, "SwapRefusalEnded").pop());
    let mut other = files();
    other.insert("x".to_owned(), b"1".to_vec());
    set.publish(&other);
    api.wait_for("the Event", |api| notes(api, "GenerationLive").pop());
    set.stop();
}

#[test]
fn where_there_is_no_stateful_set_the_setting_is_refused() {
    let mut shard = Shard::new(&files());
    let (status, log) = shard.spawn().wait();
    assert_eq!(status.code(), Some(64), "{log}");
    assert!(log.contains("start the shard with --peers"), "{log}");
    let peers = ["--peers", "127.0.0.1:{1}", "--peer-listen", "127.0.0.1:0"];
    shard.arguments = peers.map(str::to_owned).to_vec();
    let (status, log) = shard.spawn().wait();
    assert_eq!(status.code(), Some(64), "{log}");
    for part in ["this process is in no Pod", "set cluster.topology to"] {
        assert!(log.contains(part), "{log}");
    }
}
