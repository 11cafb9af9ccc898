//! The local controller behaves like a StatefulSet and the kubelet, with real hosts.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use ostrakon_dev::{Propagation, What};
use ostrakon_tests::host::{config, guest};
use ostrakon_tests::set::StatefulSet;

fn set(shards: u32) -> StatefulSet {
    // `jump` hashes the whole key, so keys with the same first character spread.
    StatefulSet::new(&config(&guest("kv"), &[("sharding", "jump")]), shards)
}

/// What happened to the shards, as the letter of the event (`s` for started) and the ordinal.
fn history(set: &StatefulSet) -> Vec<String> {
    let letter = |what: &What| match what {
        What::Started { .. } => Some('s'),
        What::Ready(_) => Some('r'),
        What::Stopping => Some('t'),
        What::Ended { .. } => Some('e'),
        _ => None,
    };
    let news = set.news_so_far();
    let letters = news.iter().filter_map(|news| {
        let shard = news.shard?;
        letter(&news.what).map(|letter| format!("{letter}{shard}"))
    });
    letters.collect()
}

#[test]
fn shards_start_in_order_are_replaced_and_end_in_reverse() {
    let mut set = set(3);
    set.start();
    let started = ["s0", "r0", "s1", "r1", "s2", "r2"];
    assert_eq!(history(&set), started);

    let pids = |set: &StatefulSet| -> BTreeSet<u32> {
        let shards = set.standing().shards;
        shards.iter().filter_map(|shard| shard.pid).collect()
    };
    let before = pids(&set);
    set.restart();
    let replaced = [
        "t2", "e2", "s2", "r2", "t1", "e1", "s1", "r1", "t0", "e0", "s0", "r0",
    ];
    assert_eq!(history(&set)[6..], replaced);
    assert!(pids(&set).is_disjoint(&before) && before.len() == 3);

    set.stop();
    assert_eq!(history(&set)[18..], ["t2", "e2", "t1", "e1", "t0", "e0"]);
    for news in set.news_so_far() {
        if let What::Ended { code, told, .. } = news.what {
            assert_eq!((code, told), (Some(0), true));
        }
    }
}

#[test]
fn what_dies_is_started_again_with_its_data_whatever_the_others_do() {
    let mut set = set(2);
    set.start();
    let mut client = set.client(0);
    for key in 0..20 {
        assert_eq!(
            client.get(&format!("/save/{key}/word")).unwrap().status,
            200
        );
    }
    // The first shard is not ready, which must not delay the second.
    set.pause(0).expect("it has a process");
    let killed = set.kill(1).expect("it has a process");
    set.wait_for("its end", |shard, what| {
        let by = matches!(
            what,
            What::Ended {
                signal: Some(9),
                told: false,
                ..
            }
        );
        shard == Some(1) && by
    });
    let started = |shard, what: &What| {
        shard == Some(1) && matches!(what, What::Started { pid } if *pid != killed)
    };
    set.wait_for("another process", started);
    set.resume(0).expect("it has a process");
    let standing = set.settle();
    assert_eq!(standing.shards[1].restarts, 1);
    assert_ne!(standing.shards[1].pid, Some(killed));
    for key in 0..20 {
        assert_eq!(
            set.client(1).get(&format!("/load/{key}")).unwrap().text(),
            "word"
        );
    }
}

#[test]
fn data_moves_with_the_number_of_shards_and_each_ordinal_keeps_its_disk() {
    let toml = "# mine\n[cluster] # too\nmax_wait = \"10s\"\nshards = 7 # not this\n";
    let kv = |word| {
        config(
            &guest("kv"),
            &[("ostrakon.toml", toml), ("sharding", "jump"), ("x", word)],
        )
    };
    let mut set = StatefulSet::new(&kv("1"), 2);
    set.start();
    let mut client = set.client(0);
    for key in 0..60 {
        let saved = client.get(&format!("/save/{key}/word")).unwrap();
        assert_eq!(saved.status, 200, "{saved:?}");
    }
    let mut disk = None;
    for shards in [3, 1, 3] {
        set.scale(shards);
        assert_eq!(set.standing().shards.len(), shards as usize);
        for key in 0..60 {
            let loaded = client.get(&format!("/load/{key}")).unwrap();
            assert_eq!(loaded.text(), "word", "{key} with {shards} shards");
        }
        let inode = fs::metadata(set.data(2).join("shard.redb")).unwrap().ino();
        assert_eq!(*disk.get_or_insert(inode), inode);
    }
    let mounted = fs::read_to_string(set.mounted(0).join("ostrakon.toml")).unwrap();
    assert_eq!(mounted, toml.replace('7', "3"));
    // The status that the controller last saw may be from before the data moved, so each shard is
    // asked.
    for shard in 0..3 {
        let entries = &set.status(shard).expect("it is up")["store"]["entries"];
        assert!(entries.as_u64() > Some(0), "shard {shard} has {entries}");
    }

    // After a restart with fewer shards, it first fetches the data from where it is.
    set.stop();
    set.options.shards = Some(1);
    set.start();
    assert_eq!(set.standing().shards.len(), 1);
    for key in 0..60 {
        assert_eq!(
            set.client(0).get(&format!("/load/{key}")).unwrap().text(),
            "word"
        );
    }
    // Without a number, it starts as many shards as before.
    set.stop();
    set.options.shards = None;
    set.start();
    assert_eq!(set.standing().wanted, 1);
}

#[test]
fn each_shard_sees_a_change_after_its_delay_and_the_newest_content_then() {
    const DELAY: Duration = Duration::from_millis(700);
    let mut set = set(2);
    set.options.propagation = Propagation::Each(vec![Duration::ZERO, DELAY]);
    set.start();
    let began = Instant::now();
    for word in ["1", "2", "3"] {
        set.publish(&config(&guest("kv"), &[("sharding", "jump"), ("x", word)]));
    }
    set.settle();
    let projected = |of: u32| -> Vec<Instant> {
        let news = set.news_so_far().into_iter();
        let of_it = news.filter(|news| news.shard == Some(of) && news.what == What::Projected);
        of_it.map(|news| news.at).collect()
    };
    assert_eq!((projected(0).len(), projected(1).len()), (3, 1));
    assert!(projected(1)[0] - began >= DELAY);
    assert!(projected(0)[2] < projected(1)[0]);
    for shard in 0..2 {
        assert_eq!(fs::read(set.mounted(shard).join("x")).unwrap(), b"3");
    }
}

#[test]
fn a_new_pod_sees_the_newest_content_at_once() {
    let mut set = set(2);
    let hour = Duration::from_hours(1);
    set.options.propagation = Propagation::Between(hour, hour);
    set.start();
    set.publish(&config(&guest("kv"), &[("sharding", "jump"), ("x", "1")]));
    set.restart();
    for shard in 0..2 {
        assert_eq!(fs::read(set.mounted(shard).join("x")).unwrap(), b"1");
    }
}

#[test]
fn a_shard_that_does_not_end_is_killed_after_the_grace() {
    let mut set = set(2);
    set.options.grace = Duration::from_millis(400);
    set.start();
    set.pause(1).expect("it has a process");
    set.stop();
    let at = |is_it: fn(&What) -> bool| {
        set.wait_for("it", |shard, what| shard == Some(1) && is_it(what))
    };
    let told = at(|what| *what == What::Stopping);
    let passed = at(|what| matches!(what, What::GracePassed(_)));
    let ended = at(|what| {
        matches!(
            what,
            What::Ended {
                signal: Some(9),
                ..
            }
        )
    });
    assert!(passed - told >= set.options.grace && ended >= passed);
    assert_eq!(
        history(&set)[4..],
        ["t1", "e1", "t0", "e0"],
        "the second Pod must end only then"
    );
}

#[test]
fn a_guest_that_is_refused_is_told_and_the_set_goes_on() {
    let mut set = set(2);
    set.start();
    set.publish(&config(b"no guest", &[]));
    set.settle();
    let refused = |shard, what: &What| shard == Some(0) && matches!(what, What::Refused(_));
    set.wait_for("a refusal", refused);
    set.publish(&config(&guest("kv"), &[("sharding", "jump"), ("x", "1")]));
    set.settle();
    let live = set.standing().shards[1]
        .observation
        .clone()
        .unwrap()
        .generation
        .unwrap();
    assert_eq!(live.generation, 2);
}
