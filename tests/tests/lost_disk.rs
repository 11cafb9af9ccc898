//! Disks that are lost, or restored from an older copy. Only the data on them is lost, and no shard
//! acts on outdated state.

use std::collections::BTreeMap;
use std::fs;

use ostrakon_test_support::files::copy;
use ostrakon_tests::cluster::shards;
use ostrakon_tests::host::{Files, Host, Shard, config, guest};

fn kv(shards: u32) -> Files {
    let toml = format!("[cluster]\nshards = {shards}\nmax_wait = \"1s\"");
    let settings = [("ostrakon.toml", &*toml), ("sharding", "jump")];
    config(&guest("kv"), &settings)
}

fn start_all(shards: &[Shard]) -> Vec<Host> {
    shards.iter().map(Shard::spawn).collect()
}

fn stop_all(hosts: Vec<Host>) {
    for host in hosts {
        host.stop();
    }
}

fn publish(shards: &mut [Shard], files: &Files) {
    for shard in shards {
        shard.config.publish(files).expect("published");
    }
}

/// Waits until a shard is ready and reports a stable topology of `count` shards.
fn wait_for_shards(host: &Host, count: u64) {
    host.wait_for_status("the topology", |status| {
        let topology = &status["topology"];
        status["ready"] == true && topology["shards"] == count && topology["stable"] == true
    });
}

fn number(host: &Host, name: &str) -> u64 {
    let status = host.wait_for_status("the topology", |status| status["topology"].is_object());
    status["topology"][name]
        .as_u64()
        .expect("the text is a number")
}

/// Writes `count` keys, and returns the owner of each.
fn fill(hosts: &[Host], count: usize) -> BTreeMap<String, usize> {
    for at in 0..count {
        let put = hosts[at % hosts.len()]
            .client()
            .put(&format!("/kv/key-{at}"), b"before");
        assert_eq!(put.expect("an answer").status, 201);
    }
    let mut owners = BTreeMap::new();
    for (shard, host) in hosts.iter().enumerate() {
        let listed = host.client().get("/allKeys").expect("an answer");
        let keys: Vec<_> = listed.text().split(',').map(str::to_owned).collect();
        assert!(keys.len() > 5, "shard {shard} has {keys:?}");
        owners.extend(keys.into_iter().map(|key| (key, shard)));
    }
    assert_eq!(owners.len(), count);
    owners
}

/// Checks through every shard that the keys of the lost disk are gone and that all others are
/// there. Returns the number of the others.
fn check(hosts: &[Host], owners: &BTreeMap<String, usize>, lost: usize) -> usize {
    let mut kept = 0;
    for (key, owner) in owners {
        for host in hosts {
            let got = host.client().get(&format!("/kv/{key}")).expect("an answer");
            if *owner == lost {
                assert_eq!(got.status, 404, "{key}: {got:?}");
            } else {
                assert_eq!((got.status, got.text()), (200, "before"), "{key}");
                kept += 1;
            }
        }
    }
    kept
}

#[test]
fn a_shard_with_a_new_disk_is_accepted() {
    let toml = "[cluster]\nshards = 2";
    let shards = shards(7, 2, &config(&guest("votes"), &[("ostrakon.toml", toml)]));
    let mut hosts: Vec<Host> = shards.iter().map(Shard::start).collect();
    for ordinal in [1, 0] {
        for host in &hosts {
            wait_for_shards(host, 2);
        }
        let before = number(&hosts[ordinal], "incarnation");
        hosts.remove(ordinal).kill();
        fs::remove_dir_all(&shards[ordinal].data).expect("the directory can be removed");
        let other_epoch = hosts[0].status()["topology"]["epoch"].clone();
        hosts.insert(ordinal, shards[ordinal].start());
        wait_for_shards(&hosts[ordinal], 2);
        hosts[ordinal].wait_until("a higher number", |host| {
            number(host, "incarnation") > before
        });
        assert_eq!(hosts[ordinal].status()["topology"]["epoch"], other_epoch);
        // Polls of either shard are made through one shard and found through the other.
        for (through, back) in [(0, 1), (1, 0)] {
            for poll in 0..10 {
                let path = format!("/polls/{ordinal}-{through}-{poll}/me");
                let put = hosts[through].client().put(&path, b"yes");
                assert_eq!(put.expect("an answer").status, 204);
                let got = hosts[back].client().get(&path).expect("an answer");
                assert_eq!(got.status, 200, "{path}");
            }
        }
    }
}

/// The worst case for the knowledge of where partitions are: the coordinator's disk is lost while
/// no shard runs, the number of shards changes meanwhile, and the coordinator is started first and
/// alone.
#[test]
fn a_coordinator_that_knows_nothing_serves_nothing_before_it_has_asked_all() {
    let mut shards = shards(20, 4, &kv(4));
    let hosts = start_all(&shards);
    for host in &hosts {
        wait_for_shards(host, 4);
    }
    let owners = fill(&hosts, 60);
    stop_all(hosts);
    fs::remove_dir_all(&shards[0].data).expect("the directory can be removed");
    publish(&mut shards, &kv(3));

    let mut hosts = vec![shards[0].spawn()];
    // It is ready: where shards start in order, the others start only then.
    hosts[0].wait_for_status("to wait for the others, ready", |status| {
        status["waits_for"] == serde_json::json!([1, 2]) && status["ready"] == true
    });
    let put = hosts[0].client().put("/kv/key-1", b"after");
    assert_eq!(put.expect("an answer").status, 503);
    hosts.extend(shards[1..].iter().map(Shard::spawn));
    for host in &hosts[..3] {
        wait_for_shards(host, 3);
    }
    assert_eq!(
        number(&hosts[0], "epoch"),
        3,
        "the plan must be a change after the first one"
    );
    let kept = check(&hosts, &owners, 0);
    println!("{kept} reads of keys of other disks, 0 lost");
}

/// A coordinator with a new disk learns the last plan from the other shards, and the next change
/// follows that plan.
#[test]
fn after_several_changes_a_coordinator_with_a_new_disk_goes_on_from_the_last() {
    let mut shards = shards(21, 3, &kv(3));
    let mut hosts = start_all(&shards);
    for host in &hosts {
        wait_for_shards(host, 3);
    }
    let owners = fill(&hosts, 60);
    for count in [2, 3] {
        publish(&mut shards, &kv(count));
        let count = u64::from(count);
        for (_, host) in (0..count).zip(&hosts) {
            wait_for_shards(host, count);
        }
    }
    assert_eq!(number(&hosts[0], "epoch"), 5);
    for lost in 0..2 {
        stop_all(hosts);
        fs::remove_dir_all(&shards[0].data).expect("the directory can be removed");
        hosts = Vec::new();
        for shard in &shards {
            let host = shard.spawn();
            host.wait_for_status("ready", |status| status["ready"] == true);
            hosts.push(host);
        }
        for host in &hosts {
            wait_for_shards(host, 3);
        }
        for host in &hosts {
            assert_eq!(number(host, "epoch"), 5, "{lost}");
        }
    }
    let kept = check(&hosts, &owners, 0);
    publish(&mut shards, &kv(2));
    for host in &hosts[..2] {
        wait_for_shards(host, 2);
    }
    assert_eq!(number(&hosts[1], "epoch"), 7);
    println!("{kept} reads of keys of other disks, 0 lost");
}

/// A peer that was away while others accepted the new disk remembers a high incarnation of the old
/// disk.
#[test]
fn a_shard_with_a_new_disk_is_not_ended_by_its_own_past() {
    let shards = shards(22, 3, &kv(3));
    let mut hosts = start_all(&shards);
    for host in &hosts {
        wait_for_shards(host, 3);
    }
    let two = hosts.pop().expect("three");
    let one = hosts.pop().expect("three");
    stop_all(hosts);
    one.stop();
    let mut last = 0;
    for _ in 0..10 {
        let one = shards[1].spawn();
        last = number(&one, "incarnation");
        // Shard 2 hears of the new incarnation, because at least one of these keys is its own.
        for key in 0..20 {
            let _away_or_there = one.client().get(&format!("/kv/{key}"));
        }
        one.kill();
    }
    two.stop();
    fs::remove_dir_all(&shards[1].data).expect("the directory can be removed");

    let hosts = start_all(&shards[..2]);
    for host in &hosts {
        wait_for_shards(host, 3);
    }
    let one = &hosts[1];
    assert!(number(one, "incarnation") < last);
    let two = shards[2].spawn();
    wait_for_shards(&two, 3);
    for key in 0..20 {
        let put = one.client().put(&format!("/kv/{key}"), b"x");
        assert_eq!(put.expect("an answer").status, 201);
    }
    assert!(number(one, "incarnation") > last);
    assert_eq!(one.status()["ready"], true);
}

/// A copy from before a change holds partitions that are elsewhere now.
#[test]
fn a_disk_from_before_a_change_is_told_of_and_not_served_from() {
    let mut shards = shards(23, 3, &kv(2));
    let hosts = start_all(&shards[..2]);
    for host in &hosts {
        wait_for_shards(host, 2);
    }
    fill(&hosts, 40);
    stop_all(hosts);
    let copied = shards[1].data.with_extension("copy");
    copy(&shards[1].data, &copied);
    publish(&mut shards, &kv(3));
    let mut hosts = start_all(&shards);
    for host in &hosts {
        wait_for_shards(host, 3);
    }
    hosts.remove(1).stop();
    fs::remove_dir_all(&shards[1].data).expect("the directory can be removed");
    fs::rename(&copied, &shards[1].data).expect("the directory can be renamed");

    let older = shards[1].spawn();
    older.wait_for_status("to stop", |status| {
        let why = status["not_ready"].as_str().unwrap_or_default();
        why.contains("must not serve this shard any longer")
    });
    // The log is written by a thread of its own.
    let line = "this shard stops serving";
    older.wait_until("its line", |host| host.log().contains(line));
    let log = older.log();
    assert_eq!(log.matches(line).count(), 1, "{log}");
    assert!(log.contains("older than its cluster"), "{log}");
}

/// As deploy/README.md describes: each disk is copied while its shard runs, at an instant of its
/// own, and all copies are restored together.
#[test]
fn copies_of_all_disks_bring_back_what_was_there_and_nothing_else() {
    let mut shards = shards(67, 3, &kv(3));
    let hosts = start_all(&shards);
    for host in &hosts {
        wait_for_shards(host, 3);
    }
    let owners = fill(&hosts, 60);
    let epoch = number(&hosts[0], "epoch");
    let copied = |shard: &Shard| shard.data.with_extension("copy");
    for (host, shard) in hosts.iter().zip(&shards) {
        host.signal("STOP");
        copy(&shard.data, &copied(shard));
        host.signal("CONT");
    }
    // Later changes are not in the copies: other values, more keys, another number of shards.
    let mut client = hosts[0].client();
    for key in owners.keys() {
        let put = client.put(&format!("/kv/{key}"), b"after");
        assert_eq!(put.expect("an answer").status, 204);
        let put = client.put(&format!("/kv/{key}-more"), b"after");
        assert_eq!(put.expect("an answer").status, 201);
    }
    drop(client);
    publish(&mut shards, &kv(2));
    for host in &hosts {
        // This includes the third shard. Until it knows of the change, it waits for the coordinator
        // before it ends.
        host.wait_for_status("the end of the change", |status| {
            status["topology"]["shards"] == 2 && status["topology"]["stable"] == true
        });
    }
    stop_all(hosts);
    publish(&mut shards, &kv(3));
    for shard in &shards {
        fs::remove_dir_all(&shard.data).expect("the directory can be removed");
        fs::rename(copied(shard), &shard.data).expect("the directory can be renamed");
    }
    let hosts = start_all(&shards);
    for host in &hosts {
        wait_for_shards(host, 3);
        assert_eq!(number(host, "epoch"), epoch);
    }
    let none_is_lost = hosts.len();
    let kept = check(&hosts, &owners, none_is_lost);
    let mut client = hosts[1].client();
    for key in owners.keys() {
        let got = client.get(&format!("/kv/{key}-more")).expect("an answer");
        assert_eq!(got.status, 404, "{got:?}");
    }
    println!(
        "{kept} reads of copied keys, 0 lost; {} reads of other keys, none found",
        owners.len()
    );
}
