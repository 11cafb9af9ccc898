//! A plan predicts exactly the partitions and bytes that a change moves, and the progress reported
//! during the change is correct.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;

use ostrakon_tests::client::{Client, Response};
use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::host::{Files, Host, PATIENCE, Shard, binary, config, guest};
use ostrakon_tests::set::StatefulSet;
use serde_json::Value;

const KEYS: usize = 300;

fn kv(sharding: &str, more: &[(&str, &str)]) -> Files {
    config(&guest("kv"), &[&[("sharding", sharding)], more].concat())
}

/// Stores `keys` keys, with values of different lengths.
fn fill(client: &mut Client, keys: usize) {
    for key in 0..keys {
        let put = client.put(&format!("/kv/leaf-{key}"), &vec![b'x'; key % 50 + 1]);
        assert_eq!(put.expect("an answer").status, 201);
    }
}

/// The number of keys in a shard. In the key/value guest, each key is a partition.
fn keys(client: &mut Client) -> u64 {
    let all = client.get("/allKeys").expect("an answer");
    let keys = all.text().split(',').filter(|key| !key.is_empty());
    keys.count() as u64
}

fn plan(admin: SocketAddr, shards: u32, component: Option<&[u8]>) -> Response {
    let method = if component.is_some() { "POST" } else { "GET" };
    let path = format!("/plan?shards={shards}");
    let asked = Client::new(admin).send(method, &path, &[], component.unwrap_or_default());
    asked.expect("an answer")
}

fn found(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{}", response.text());
    serde_json::from_slice(&response.body).expect("a plan is JSON")
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is not a number"))
}

fn list(value: &Value) -> &Vec<Value> {
    value
        .as_array()
        .unwrap_or_else(|| panic!("{value} is not a list"))
}

/// The number of partitions that move, by the shard at one end.
fn moves(plan: &Value, end: &str) -> BTreeMap<u64, u64> {
    let mut moves = BTreeMap::new();
    for one in list(&plan["moves"]) {
        *moves.entry(number(&one[end])).or_default() += number(&one["partitions"]);
    }
    moves
}

fn metric(set: &StatefulSet, shard: u32, name: &str) -> u64 {
    let metrics = set.admin(shard, "GET", "/metrics").expect("an answer");
    let line = metrics.text().lines().find_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        (series.trim_end_matches("{}") == name).then(|| value.parse().expect("it counts"))
    });
    line.unwrap_or_else(|| panic!("{name} is not in {}", metrics.text()))
}

/// Requests a plan, makes the change, and checks that it moved what the plan said.
fn check(set: &StatefulSet, asked: u32, from: u32, to: u32) {
    let addresses = set.options.addresses;
    let planned = found(&plan(addresses.admin(asked), to, None));
    assert_eq!(
        (&planned["shards_now"], &planned["moving"]),
        (&from.into(), &false.into())
    );
    assert_eq!(planned["total"]["partitions"], KEYS);
    let mut has: Vec<_> = (0..from)
        .map(|shard| keys(&mut set.client(shard)))
        .collect();
    has.resize(from.max(to) as usize, 0);
    let now: Vec<_> = list(&planned["shards"])
        .iter()
        .map(|shard| number(&shard["now"]["partitions"]))
        .collect();
    assert_eq!(now, has);

    let counters = |name| -> Vec<u64> {
        (0..from.min(to))
            .map(|shard| metric(set, shard, name))
            .collect()
    };
    let (moved, arrived) = (
        "ostrakon_partitions_moved_total",
        "ostrakon_partitions_arrived_total",
    );
    let before = [moved, arrived].map(counters);
    set.scale(to);
    for (shard, planned) in (0..to).zip(list(&planned["shards"])) {
        let has = keys(&mut set.client(shard));
        assert_eq!(
            planned["then"]["partitions"], has,
            "in shard {shard}: {planned}"
        );
    }
    // The coordinator knows all shards, including those that have left.
    let status = set.status(0).expect("it answers");
    let progress = &status["topology"]["progress"];
    assert_eq!(progress["moving"], false, "{progress:#}");
    let sources: BTreeMap<_, _> = list(&progress["sources"])
        .iter()
        .map(|source| {
            assert_eq!(
                (&source["left"], &source["resumed"]),
                (&0.into(), &false.into()),
                "{source:#}"
            );
            (number(&source["shard"]), number(&source["moved"]))
        })
        .collect();
    let mut given = moves(&planned, "from");
    let all = (0..u64::from(from)).map(|shard| (shard, given.remove(&shard).unwrap_or(0)));
    assert_eq!(sources, all.collect(), "{planned:#}");
    let after = [moved, arrived].map(counters);
    for shard in 0..from.min(to) {
        let of = |ends: &BTreeMap<u64, u64>| ends.get(&shard.into()).copied().unwrap_or(0);
        let at = shard as usize;
        assert_eq!(
            after[0][at] - before[0][at],
            of(&moves(&planned, "from")),
            "from {shard}"
        );
        assert_eq!(
            after[1][at] - before[1][at],
            of(&moves(&planned, "to")),
            "to {shard}"
        );
        assert_eq!(metric(set, shard, "ostrakon_partitions_left"), 0);
    }

    let again = found(&plan(addresses.admin(0), to, None));
    assert_eq!(
        (&again["moved"]["partitions"], &again["moves"]),
        (&0.into(), &Value::Array(vec![]))
    );
    for (shard, planned) in list(&again["shards"]).iter().zip(list(&planned["shards"])) {
        assert_eq!(shard["now"], planned["then"]);
    }
}

#[test]
fn a_change_moves_what_the_plan_said() {
    let mut set = StatefulSet::new(&kv("jump", &[]), 3);
    set.start();
    fill(&mut set.client(1), KEYS);
    // Any shard can be asked for the plan.
    check(&set, 1, 3, 5);
    check(&set, 4, 5, 2);
    check(&set, 0, 2, 1);
    check(&set, 0, 1, 2);
}

#[test]
fn a_component_is_asked_before_it_is_anything_and_leaves_nothing() {
    // All keys begin with the same character, so `modulo` gives all of them to one shard.
    let mut set = StatefulSet::new(&kv("modulo", &[]), 3);
    set.start();
    // A forwarded request waits until the shard knows its cluster.
    fill(&mut set.client(1), KEYS);
    let admin = set.options.addresses.admin(1);
    let live = found(&plan(admin, 3, None));
    assert_eq!(live["moved"]["partitions"], 0);
    let warnings = list(&live["warnings"]);
    assert_eq!(warnings.len(), 1, "{live:#}");
    let text = warnings[0].as_str().expect("a warning is text");
    assert!(
        text.contains("would have 3.00 times the mean of partitions"),
        "{text}"
    );

    // Another guest, with the default owner function for every shard: a consistent hash.
    let other = found(&plan(admin, 3, Some(&guest("counter"))));
    assert_eq!(other["guest"]["name"], "counter", "{other:#}");
    let warnings = list(&other["warnings"]);
    assert_eq!(warnings.len(), 1, "{other:#}");
    let text = warnings[0].as_str().expect("a warning is text");
    assert!(
        text.starts_with("its `sharding` is 1, the same as the live guest's"),
        "{text}"
    );
    let then = |plan: &Value| -> Vec<u64> {
        list(&plan["shards"])
            .iter()
            .map(|shard| number(&shard["then"]["partitions"]))
            .collect()
    };
    assert!(then(&other).iter().all(|shard| *shard > 60), "{other:#}");
    let all = |plan: &Value| then(plan).into_iter().sum::<u64>();
    assert_eq!((all(&live), all(&other)), (KEYS as u64, KEYS as u64));

    let refused = plan(admin, 3, Some(b"hello"));
    assert_eq!(refused.status, 422);
    assert_eq!(
        refused.text(),
        "the guest would be refused: the guest is not WebAssembly; make it with `ostrakon build`\n"
    );
    for shard in 0..3 {
        let status = set.status(shard).expect("it answers");
        assert_eq!(status["generation"]["generation"], 1);
        assert_eq!(
            (&status["candidate"], &status["last_refused"]),
            (&Value::Null, &Value::Null)
        );
        let kept =
            fs::read_dir(set.data(shard).join("generations")).expect("the directory can be listed");
        assert_eq!(kept.count(), 1, "only the live guest may be kept");
        let compiled =
            fs::read_dir(set.data(shard).join("compiled")).expect("the directory can be listed");
        assert!(compiled.count() <= 1, "only the live guest may be kept");
    }
}

fn ostrakon(arguments: &[&str]) -> Output {
    let output = Command::new(binary()).args(arguments).output();
    output.expect("the binary is built with its tests")
}

#[test]
fn a_shard_that_is_alone_can_plan_and_says_so_to_people() {
    let shard = Shard::new(&kv("jump", &[]));
    let host = shard.start();
    fill(&mut host.client(), 100);
    let planned = found(&plan(host.admin, 4, None));
    let from: Vec<_> = moves(&planned, "from").into_keys().collect();
    let to: Vec<_> = moves(&planned, "to").into_keys().collect();
    assert_eq!((from, to), (vec![0], vec![1, 2, 3]), "{planned:#}");

    let admin = host.admin.to_string();
    let output = ostrakon(&["plan", "--shards", "4", "--admin", &admin]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let heading = "from 1 shard to 4 shards, by `owner` of kv ";
    assert!(said.starts_with(heading), "{said}");
    let total = format!("{} of 100 partitions move", planned["moved"]["partitions"]);
    assert!(said.contains(&total), "{said}");
    let json = ostrakon(&["plan", "--shards", "4", "--json", "--admin", &admin]);
    assert_eq!(
        serde_json::from_slice::<Value>(&json.stdout).expect("JSON"),
        planned
    );

    // One hundred bytes more are stored.
    let longer = vec![b'x'; 101];
    let put = host.client().put("/kv/leaf-0", &longer).expect("an answer");
    assert_eq!(put.status, 204);
    let bytes = |plan: &Value| number(&plan["total"]["bytes"]);
    let more = found(&plan(host.admin, 4, None));
    assert_eq!(bytes(&more), bytes(&planned) + 100);

    for (shards, text) in [(0, "there cannot be 0 shards"), (1025, "ask for 1 to 1024")] {
        let refused = plan(host.admin, shards, None);
        assert!(
            refused.status == 400 && refused.text().contains(text),
            "{refused:?}"
        );
    }
    let component = ostrakon(&[
        "plan",
        "--shards",
        "4",
        "--admin",
        &admin,
        "--guest",
        "Cargo.toml",
    ]);
    let said = String::from_utf8_lossy(&component.stderr);
    assert_eq!(component.status.code(), Some(64), "{said}");
    assert!(said.contains("the guest is not WebAssembly"), "{said}");
}

fn among(count: u32, sharding: &str) -> Files {
    // A change begins also while a shard is away.
    let toml = format!("[cluster]\nshards = {count}\n[rollout]\nwait = \"1s\"");
    kv(sharding, &[("ostrakon.toml", &toml)])
}

/// The coordinator's report about a source.
fn source(status: &Value, shard: usize) -> &Value {
    &status["topology"]["progress"]["sources"][shard]
}

/// `ostrakon status --watch`, which does not end by itself.
struct Watching {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Watching {
    fn new(host: &Host) -> Self {
        let mut child = Command::new(binary())
            .args(["status", "--watch", "--interval", "10ms"])
            .args(["--admin", &host.admin.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary is built with its tests");
        let said = BufReader::new(child.stdout.take().expect("the stream is piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let lines = said.lines().map_while(Result::ok);
            lines.map(|line| sender.send(line)).find(Result::is_err)
        });
        Self { child, lines }
    }

    /// The next line of its output.
    fn next(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE);
        line.expect("it goes on and says something new")
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // It may already have ended, which the test has noticed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_is_left_and_what_is_moved_is_all_there_is_at_every_moment() {
    // With `modulo`, all keys belong to the first shard.
    let mut cluster = Cluster::start(44, 2, 2, &among(2, "modulo"));
    fill(&mut cluster.hosts[0].client(), KEYS);
    cluster.hosts.remove(1).kill();
    cluster.publish(&among(2, "jump"));
    let first = &cluster.hosts[0];
    // The receiver is away.
    let still = first.wait_for_status("a source that stands still", |status| {
        let held_up_by = &source(status, 0)["held_up_by"];
        source(status, 0)["left"] == KEYS
            && source(status, 0)["rate"] == 0.0
            && *held_up_by == serde_json::json!([1])
    });
    assert_eq!(source(&still, 0)["seconds_left"], Value::Null);
    assert_eq!(first.metric("ostrakon_partitions_left"), KEYS as u64);
    let shown = ostrakon(&["status", "--admin", &first.admin.to_string()]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let bar = "shard 0 [........................]   0 % 300 left, 0 moved, 0/s, standing still, held up by shard 1\n";
    assert!(shown.contains(bar), "{shown}");

    // Without a terminal, the output is one line after another.
    let watching = Watching::new(first);
    assert!(watching.next().ends_with("data moves from 2 shards to 2"));
    let away = watching.next();
    assert!(
        away.starts_with("shard 1 cannot be asked, since "),
        "{away}"
    );
    assert_eq!(watching.next(), bar.trim_end());

    let second = cluster.shards[1].start();
    let moved = first.wait_for_status("the end", |status| {
        let source = source(status, 0);
        if let Some(left) = source["left"].as_u64() {
            let settled = number(&source["moved"]) + number(&source["stayed"]);
            assert_eq!(left + settled, KEYS as u64, "{source:#}");
        }
        status["topology"]["shards"] == 2 && status["topology"]["stable"] == true
    });
    assert_eq!(source(&moved, 0)["held_up_by"], serde_json::json!([]));
    let moved = number(&source(&moved, 0)["moved"]);
    assert_eq!(moved, keys(&mut second.client()));
    assert!(
        moved > 100,
        "about half of the partitions must move: {moved}"
    );
    while !watching.next().ends_with("2 shards have everything") {}
}

#[test]
fn a_source_that_is_away_is_named_with_what_it_said_last() {
    let mut cluster = Cluster::start(45, 4, 4, &among(4, "jump"));
    fill(&mut cluster.hosts[0].client(), KEYS);
    let count = keys(&mut cluster.hosts[2].client());
    assert!(count > 20, "{count}");
    cluster.hosts.remove(3).kill();
    cluster.publish(&among(4, "modulo"));
    let third = cluster.hosts.remove(2);
    let (first, second) = (&cluster.hosts[0], &cluster.hosts[1]);
    // The fourth shard is not there, so nothing moves.
    let known = |status: &Value| source(status, 2)["left"] == count;
    first.wait_for_status("what a source has", |status| {
        known(status) && source(status, 2)["away"] == false
    });
    // Every shard other than the coordinator reports its own progress.
    let own = third.wait_for_status("its own", |status| {
        known(&serde_json::json!({
            "topology": { "progress": { "sources": [null, null, source(status, 0)] } }
        }))
    });
    assert_eq!(list(&own["topology"]["progress"]["sources"]).len(), 1);
    third.kill();
    first.wait_for_status("that it is away", |status| {
        known(status) && source(status, 2)["away"] == true
    });
    let refused = plan(first.admin, 5, None);
    let text = refused.text();
    assert!(
        refused.status == 503 && text.contains("shard 2 is away"),
        "{refused:?}"
    );

    let third = cluster.shards[2].start();
    first.wait_for_status("that it is back, and has counted anew", |status| {
        let source = source(status, 2);
        known(status) && source["away"] == false && source["resumed"] == true
    });
    // A shard without data cannot be left out of a plan: it may receive data the next moment.
    let refused = plan(second.admin, 5, None);
    let text = refused.text();
    assert!(
        refused.status == 503 && text.contains("shard 3 is away"),
        "{refused:?}"
    );
    let fourth = cluster.shards[3].start();
    cluster.hosts.extend([third, fourth]);
    cluster.wait_for(4);
    let ended = cluster.hosts[0].status();
    assert_eq!(
        (&source(&ended, 2)["left"], &source(&ended, 2)["away"]),
        (&0.into(), &false.into())
    );
}
