//! Listings of all keys of a cluster, through any of its shards.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::host::{Host, config, guest};
use serde_json::Value;

fn keys(host: &Host, path: &str) -> BTreeSet<String> {
    let response = host.client().get(path).expect("an answer");
    assert_eq!(response.status, 200, "{response:?}");
    let keys = response.text().split(',').filter(|key| !key.is_empty());
    keys.map(str::to_owned).collect()
}

#[test]
fn any_shard_lists_the_keys_of_all_in_order_and_in_pages() {
    let toml = "[cluster]\nshards = 3\nmax_wait = \"500ms\"";
    let settings = [("ostrakon.toml", toml), ("sharding", "jump")];
    let mut cluster = Cluster::start(15, 3, 3, &config(&guest("kv"), &settings));
    let mut expected = BTreeSet::new();
    for number in 0..150 {
        let (key, host) = (format!("key-{number:03}"), &cluster.hosts[number % 3]);
        let put = host
            .client()
            .put(&format!("/kv/{key}"), b"x")
            .expect("an answer");
        assert_eq!(put.status, 201);
        expected.insert(key);
    }
    let of_each: Vec<_> = cluster
        .hosts
        .iter()
        .map(|host| keys(host, "/allKeys"))
        .collect();
    assert!(of_each.iter().all(|keys| keys.len() > 20), "{of_each:?}");
    let in_order: Vec<_> = expected.iter().cloned().collect();
    for host in &cluster.hosts {
        let all = host.client().get("/keys").expect("an answer");
        assert_eq!(all.text(), in_order.join(","));
        let head = host
            .client()
            .send("HEAD", "/keys", &[], b"")
            .expect("an answer");
        assert_eq!((head.status, head.body.len()), (200, 0));
    }
    let (mut listed, mut after, mut pages) = (Vec::new(), String::new(), 0);
    while pages == 0 || !after.is_empty() {
        let path = format!("/kv?prefix=key-0&limit=7&after={after}");
        let page = cluster.hosts[pages % 3]
            .client()
            .get(&path)
            .expect("an answer");
        let page: Value = serde_json::from_slice(&page.body).expect("JSON");
        let keys = page["keys"].as_array().expect("keys").iter();
        listed.extend(keys.map(|key| key.as_str().expect("a key").to_owned()));
        page["next"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut after);
        pages += 1;
    }
    assert_eq!((listed, pages), (in_order[..100].to_vec(), 15));

    // With one shard away there is no listing.
    cluster.hosts.remove(2).kill();
    for path in ["/keys", "/kv?limit=5"] {
        let lacking = cluster.hosts[0].client().get(path).expect("an answer");
        assert_eq!(lacking.status, 503, "{path}: {lacking:?}");
    }
    assert_eq!(
        keys(&cluster.hosts[0], "/allKeys"),
        of_each[0],
        "the shard must list its own keys"
    );
    cluster.hosts.push(cluster.shards[2].start());
    let is_whole = |host: &Host| {
        let all = host.client().get("/keys").expect("an answer");
        all.status == 200 && all.text() == in_order.join(",")
    };
    cluster.hosts[0].wait_until("the listing", is_whole);

    // Shards that have left the cluster still list all keys, even when a single shard remains.
    let toml = "[cluster]\nshards = 1\nmax_wait = \"500ms\"";
    let settings = [("ostrakon.toml", toml), ("sharding", "jump")];
    cluster.publish(&config(&guest("kv"), &settings));
    for host in &cluster.hosts {
        host.wait_for_status("one shard", |status| {
            status["topology"]["shards"] == 1 && status["topology"]["stable"] == true
        });
        assert!(is_whole(host), "shard {}", host.status()["shard"]);
    }
}

/// A shard whose guest traps in its part will trap again, so the listing fails at once. It is not
/// retried until `cluster.max_wait` has passed, as it would be for a shard that is away, and it
/// does not wait for another shard that hangs.
#[test]
fn a_part_that_is_refused_for_good_ends_a_listing_at_once() {
    const MAX_WAIT: Duration = Duration::from_mins(1);
    let toml = format!(
        "[cluster]\nshards = 3\nmax_wait = \"{}s\"",
        MAX_WAIT.as_secs()
    );
    let traps = [("ostrakon.toml", &*toml), ("misbehave", "trap-on-shard=1")];
    let traps = config(&guest("hostile"), &traps);
    let cluster = Cluster::start(94, 3, 3, &traps);
    let listed = || {
        let began = Instant::now();
        let listed = cluster.hosts[0].client().get("/shards?at=everywhere");
        let listed = listed.expect("an answer");
        let code = listed.header("ostrakon-error").map(str::to_owned);
        assert_eq!(
            (listed.status, code.as_deref()),
            (500, Some("guest-trapped"))
        );
        assert!(began.elapsed() < MAX_WAIT / 2, "{:?}", began.elapsed());
    };
    listed();
    cluster.hosts[2].signal("STOP");
    listed();
    cluster.hosts[2].signal("CONT");
    // Requests to a single shard are answered as before.
    for (host, status) in cluster.hosts.iter().zip([200, 500, 200]) {
        let answered = host.client().get("/label").expect("an answer");
        assert_eq!(answered.status, status, "{answered:?}");
    }
}
