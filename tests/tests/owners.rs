//! During a change, a shard has both guests whose owner functions the change needs.

use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::host::{Files, config, guest};

/// A ConfigMap for one shard: the same guest for all, with settings that differ by shard.
fn kv(shard: &str, sharding: &str) -> Files {
    let toml = "[cluster]\nshards = 3\nmax_wait = \"200ms\"\n[rollout]\nwait = \"1s\"";
    let settings = [
        ("ostrakon.toml", toml),
        ("sharding", sharding),
        ("of", shard),
    ];
    config(&guest("kv"), &settings)
}

#[test]
fn a_shard_that_starts_alone_in_a_change_has_both_of_its_guests() {
    let modulo = ["0", "1", "2"].map(|shard| kv(shard, "modulo"));
    let mut cluster = Cluster::start_each(17, 3, &modulo.each_ref());
    // `d` is 100, so at first the second shard owns each key. With `jump` it still owns some of
    // them.
    let keys: Vec<_> = (0..30).map(|number| format!("d{number}")).collect();
    for key in &keys {
        let mut client = cluster.hosts[1].client();
        let saved = client.get(&format!("/save/{key}/{key}"));
        let saved = saved.expect("an answer");
        assert_eq!(
            (saved.status, saved.header("ostrakon-shard")),
            (200, Some("1"))
        );
    }

    // This change cannot end, because the third shard is gone. Its plan names the first shard's
    // generations, which the second shard has never served.
    cluster.hosts.pop().expect("the third").kill();
    for (shard, name) in cluster.shards.iter_mut().zip(["0", "1"]) {
        shard.config.publish(&kv(name, "jump")).expect("published");
    }
    cluster.hosts[1].wait_for_status("the change", |status| {
        status["topology"]["sharding"] == 2 && status["topology"]["stable"] == false
    });
    for host in cluster.hosts.drain(..) {
        host.kill();
    }

    let alone = cluster.shards[1].spawn();
    alone.wait_until("answers for what is its own", |alone| {
        let mut client = alone.client();
        let mut is_answered = |key: &String| {
            let loaded = client.get(&format!("/load/{key}"));
            loaded.is_ok_and(|loaded| (loaded.status, loaded.text()) == (200, key))
        };
        keys.iter().any(&mut is_answered)
    });
}
