//! `podManagementPolicy: Parallel`: shards start and leave together and in any order.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_test_support::api_server::{ApiServer, SET};
use ostrakon_tests::cluster::{Cluster, shards};
use ostrakon_tests::host::{Files, Host, Shard, config, guest};
use ostrakon_tests::load::under_load;

const KEYS: u32 = 600;

fn kv(count: u32) -> Files {
    kv_by(&format!("shards = {count}"))
}

fn kv_by(cluster: &str) -> Files {
    let toml =
        format!("[cluster]\n{cluster}\n[drain]\nserve_for = \"200ms\"\n[rollout]\nwait = \"1s\"");
    config(
        &guest("kv"),
        &[("ostrakon.toml", &toml), ("sharding", "jump")],
    )
}

fn save(host: &Host) {
    let mut client = host.client();
    for key in 0..KEYS {
        let saved = client.get(&format!("/save/{key}/{key}")).unwrap();
        assert_eq!(saved.text(), key.to_string(), "{saved:?}");
    }
}

fn assert_all_there(host: &Host) {
    let mut client = host.client();
    for key in 0..KEYS {
        let found = client.get(&format!("/load/{key}")).unwrap();
        assert_eq!(found.text(), key.to_string(), "key {key}: {found:?}");
    }
}

fn wait_until_ready(hosts: &[Host]) {
    for host in hosts {
        host.wait_until("readiness", |host| {
            host.admin("GET", "/readyz").is_ok_and(|r| r.status == 200)
        });
    }
}

/// Ends two of five shards at once under load, right after `told`. No request may fail, and every
/// key must be in one of the others. Returns a summary.
fn leave_together(mut cluster: Cluster, told: impl FnOnce(&[Host])) -> String {
    let leaving = cluster.hosts.split_off(3);
    let staying = &cluster.hosts[0];
    let (requests, ()) = under_load(staying.address, 4, load, |answered| {
        staying.wait_until("requests", |_| answered.load(Ordering::Relaxed) > 200);
        told(&leaving);
        for host in &leaving {
            host.signal("TERM");
        }
        for host in leaving {
            let (status, log) = host.wait();
            assert_eq!(status.code(), Some(0), "{log}");
        }
        cluster.wait_for(3);
    });
    for host in &cluster.hosts {
        assert_all_there(host);
    }
    format!("{requests} requests while two of five left, none failed; {KEYS} keys there")
}

#[test]
fn shards_that_leave_together_lose_no_key_and_fail_no_request() {
    let mut cluster = Cluster::start(47, 5, 5, &kv(5));
    save(&cluster.hosts[0]);
    cluster.publish(&kv(3));
    let counted = leave_together(cluster, |leaving| {
        // The number is in the settings, so a shard learns from the plan that it must leave.
        for host in leaving {
            host.wait_for_status("the change", |status| status["topology"]["shards"] == 3);
        }
    });
    println!("{counted}");
}

/// Shards that are Pods of the StatefulSet, in a part of 127.7.0.0/16 of their own.
fn pods(part: u8, count: u8, api: &ApiServer) -> Vec<Shard> {
    let mut shards = shards(part, count, &kv_by("topology = \"statefulset\""));
    for shard in &mut shards {
        let pod = ("POD_NAME".to_owned(), format!("{SET}-{}", shard.ordinal));
        let environment = api.environment().into_iter().chain([pod]);
        let assigned = environment.map(|(name, value)| format!("{name}={value}"));
        shard.runner = ["env".to_owned()].into_iter().chain(assigned).collect();
    }
    shards
}

/// Starts all shards at once, the last one first, and waits until the topology is stable.
fn start_together(shards: &[Shard]) -> Vec<Host> {
    let mut hosts: Vec<_> = shards.iter().rev().map(Shard::spawn).collect();
    hosts.reverse();
    wait_until_ready(&hosts);
    hosts[0].wait_for_status("all", |status| {
        status["topology"]["shards"] == shards.len() && status["topology"]["stable"] == true
    });
    hosts
}

#[test]
fn pods_that_are_scaled_away_together_lose_no_key_and_fail_no_request() {
    let api = ApiServer::start(5);
    let shards = pods(62, 5, &api);
    let hosts = start_together(&shards);
    save(&hosts[0]);
    // The controller ends Pods at once, before any shard can have heard of the number.
    let counted = leave_together(Cluster { hosts, shards }, |_| api.scale(3));
    println!("{counted}");
}

/// The garbage collector ends all Pods of a deleted StatefulSet at once. When the set is applied
/// again, all start at once.
#[test]
fn a_set_that_is_deleted_and_applied_again_has_every_key() {
    let api = ApiServer::start(3);
    let shards = pods(66, 3, &api);
    let mut hosts = start_together(&shards);
    save(&hosts[0]);
    let epoch = |hosts: &[Host]| hosts[0].status()["topology"]["epoch"].clone();
    let before = epoch(&hosts);
    // The object is deleted before the Pods, or it is marked and deleted after them.
    for is_foreground in [false, true] {
        if is_foreground {
            api.change(|world| world.begin_to_delete(SET));
        } else {
            api.change(|world| world.delete(SET));
        }
        let began = Instant::now();
        for host in &hosts {
            host.signal("TERM");
        }
        for host in hosts {
            let (status, log) = host.wait();
            assert_eq!(status.code(), Some(0), "{log}");
        }
        // No shard waits until `drain.deadline` for a plan that does not come.
        let took = began.elapsed();
        assert!(took < Duration::from_secs(20), "the change took {took:?}");
        if is_foreground {
            api.change(|world| world.delete(SET));
        }
        api.change(|world| world.create(SET, 3));
        hosts = start_together(&shards);
        for host in &hosts {
            assert_all_there(host);
        }
        assert_eq!(epoch(&hosts), before, "partitions moved");
    }
    println!("{KEYS} keys there, twice");
}

fn load(client: &mut ostrakon_tests::client::Client, worker: usize, number: u64) {
    let key = (number * 7 + worker as u64) % u64::from(KEYS);
    let found = client.get(&format!("/load/{key}")).unwrap();
    assert_eq!((found.status, found.text()), (200, &*key.to_string()));
}

#[test]
fn a_shard_that_leaves_serves_until_it_has_given_all_away() {
    let mut cluster = Cluster::start(63, 3, 3, &kv(3));
    save(&cluster.hosts[0]);
    let of_the_first = |key: &u32| {
        let mut client = cluster.hosts[0].client();
        let found = client.get(&format!("/load/{key}")).unwrap();
        found.header("ostrakon-shard") == Some("0")
    };
    let key = (0..KEYS).find(of_the_first).expect("some are");
    let load = format!("/load/{key}");
    let mut kept = cluster.hosts[2].client();
    assert_eq!(kept.get(&load).unwrap().text(), key.to_string());
    // This shard should receive partitions, but hangs.
    cluster.hosts[1].signal("STOP");
    cluster.publish(&kv(2));
    let leaving = cluster.hosts.pop().expect("the third");
    leaving.wait_for_status("the change", |status| status["topology"]["shards"] == 2);
    leaving.signal("TERM");
    leaving.wait_until("its drain", |host| {
        host.admin("GET", "/readyz").is_ok_and(|r| r.status == 503)
    });
    // Much longer than `drain.serve_for`.
    thread::sleep(Duration::from_secs(1));
    for client in [&mut kept, &mut leaving.client()] {
        let found = client.get(&load).unwrap();
        assert_eq!((found.status, found.text()), (200, &*key.to_string()));
        assert_eq!(found.header("connection"), Some("close"), "{found:?}");
    }
    cluster.hosts[1].signal("CONT");
    let (status, log) = leaving.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    cluster.wait_for(2);
    for host in &cluster.hosts {
        assert_all_there(host);
    }
}

#[test]
fn the_coordinator_can_be_the_last_to_start_at_first_and_after_a_power_cut() {
    let shards = shards(48, 3, &kv(3));
    let hosts = start_together(&shards);
    save(&hosts[1]);
    thread::scope(|scope| {
        for host in hosts {
            scope.spawn(|| host.kill());
        }
    });
    let hosts = start_together(&shards);
    for host in &hosts {
        assert_all_there(host);
    }
    for host in hosts {
        host.stop();
    }
}
