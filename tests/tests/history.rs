//! Former generations, and going back to one.

use std::fs;
use std::process::Output;
use std::time::Duration;

use ostrakon_tests::client::Client;
use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::host::{Files, Host, Shard, binary, config, guest};
use ostrakon_tests::load::under_load_through;
use serde_json::Value;

const SHARDS: u8 = 3;
/// How often it is gone back, and forth again.
const TURNS: u64 = 20;

/// The guest with this label, and what else it is to do.
fn with(label: &str, misbehave: &str, rollout: &str) -> Files {
    let toml = format!("[rollout]\n{rollout}");
    config(
        &guest("hostile"),
        &[
            ("ostrakon.toml", &toml),
            ("label", label),
            ("misbehave", misbehave),
        ],
    )
}

fn labelled(label: &str) -> Files {
    with(label, "", "")
}

fn among(label: &str, misbehave: &str) -> Files {
    let mut files = labelled(label);
    let toml = format!("[cluster]\nshards = {SHARDS}\n[rollout]\nwait = '2s'");
    files.insert("ostrakon.toml".to_owned(), toml.into_bytes());
    files.insert("misbehave".to_owned(), misbehave.as_bytes().to_vec());
    files
}

fn label(host: &Host) -> String {
    let response = host.client().get("/label").expect("an answer");
    assert_eq!(response.status, 200, "{response:?}");
    response.text().to_owned()
}

fn wait_for(host: &Host, wanted: &str) {
    host.wait_until("the label", |host| label(host) == wanted);
}

/// Runs `ostrakon` with these arguments against a host's admin port.
fn ostrakon(host: &Host, arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new(binary());
    command
        .args(arguments)
        .arg("--admin")
        .arg(host.admin.to_string());
    command.output().expect("it is built with the workspace")
}

/// Goes back, and returns what the command says.
fn go_back(host: &Host, arguments: &[&str]) -> String {
    let arguments = [&["rollback"], arguments].concat();
    let output = ostrakon(host, &arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Why it is not gone back, and the exit code.
fn refused(host: &Host, arguments: &[&str]) -> (Option<i32>, String) {
    let arguments = [&["rollback"], arguments].concat();
    let output = ostrakon(host, &arguments);
    assert!(!output.status.success(), "{output:?}");
    let why = String::from_utf8(output.stderr).expect("text");
    (output.status.code(), why)
}

fn history(host: &Host) -> Value {
    let response = host.admin("GET", "/history").expect("an answer");
    assert_eq!(response.status, 200, "{response:?}");
    serde_json::from_str(response.text()).expect("it is JSON")
}

/// The numbers of the generations, the newest first.
fn numbers(host: &Host) -> Vec<u64> {
    let history = history(host);
    let generations = history["generations"].as_array().expect("a list");
    let number = |entry: &Value| entry["generation"].as_u64().expect("a number");
    generations.iter().map(number).collect()
}

#[test]
fn a_shard_that_is_alone_goes_back_and_holds_what_the_volume_shows() {
    let mut shard = Shard::new(&labelled("one"));
    let host = shard.start();
    wait_for(&host, "one");
    let (code, why) = refused(&host, &[]);
    assert!(
        why.contains("this shard knows of no generation before this one"),
        "{why}"
    );
    assert_eq!(code, Some(69), "{why}");
    for wanted in ["two", "three"] {
        shard.config.publish(&labelled(wanted)).expect("published");
        wait_for(&host, wanted);
    }
    let said = go_back(&host, &[]);
    assert_eq!(
        said,
        "generation 4 is live: hostile 1.0.0, the content of generation 2\nwhat the ConfigMap shows does not go live before it has changed\n"
    );
    assert_eq!(label(&host), "two");
    assert_eq!(numbers(&host), [4, 3, 2, 1]);
    assert_eq!(host.status()["rollout"]["held"], history(&host)["held"]);
    let shown = ostrakon(&host, &["history"]);
    let shown = String::from_utf8(shown.stdout).expect("text");
    assert_eq!(shown.lines().count(), 5, "{shown}");
    assert!(shown.contains(", live\n"), "{shown}");

    // Neither a restart nor the same content again brings it live.
    host.kill();
    let host = shard.start();
    assert_eq!(label(&host), "two");
    shard.config.publish(&labelled("three")).expect("published");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(label(&host), "two");
    assert!(host.status()["rollout"]["held"].is_string());
    // Once more leads further back.
    let said = go_back(&host, &[]);
    assert!(said.contains("the content of generation 1\n"), "{said}");
    assert_eq!(label(&host), "one");
    // Forth again, by its number.
    let said = go_back(&host, &["--to", "3"]);
    assert!(said.contains("the content of generation 3\n"), "{said}");
    assert_eq!(label(&host), "three");
    assert!(
        history(&host)["held"].is_null(),
        "it is what the volume shows"
    );
    go_back(&host, &["--to", "2"]);
    assert_eq!(label(&host), "two");
    // Something else in the ConfigMap counts.
    shard.config.publish(&labelled("four")).expect("published");
    wait_for(&host, "four");
    assert!(history(&host)["held"].is_null());
    shard.config.publish(&labelled("three")).expect("published");
    wait_for(&host, "three");
}

#[test]
fn what_cannot_be_gone_back_to_is_refused_with_what_to_do() {
    let mut shard = Shard::new(&with("one", "", "keep = 2"));
    let host = shard.start();
    wait_for(&host, "one");
    for wanted in ["two", "three"] {
        let files = with(wanted, "", "keep = 2");
        shard.config.publish(&files).expect("published");
        wait_for(&host, wanted);
    }
    let check = |arguments: &[&str], wanted: &str| {
        let (code, why) = refused(&host, arguments);
        assert!(why.contains(wanted), "{why}");
        code
    };
    check(
        &["--to", "1"],
        "the content of generation 1 is no longer kept",
    );
    check(&["--to", "9"], "there is no generation 9 here");
    check(&["--to", "3"], "generation 3 has the content that is live");
    assert_eq!(check(&["--to", "x"], "invalid value"), Some(64));
    let shown = history(&host);
    let kept: Vec<_> = shown["generations"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| entry["kept"].clone())
        .collect();
    assert_eq!(kept, [true, true, false]);

    let files = with("four", "schema=2", "keep = 2");
    shard.config.publish(&files).expect("published");
    wait_for(&host, "four");
    check(
        &[],
        "generation 3 has schema 1, and the data has schema 2: going back changes no data",
    );
    assert_eq!(label(&host), "four");
    assert_eq!(
        host.admin("GET", "/rollback").expect("an answer").status,
        405
    );
    assert_eq!(
        host.admin("POST", "/rollback?to=")
            .expect("an answer")
            .status,
        400
    );
}

#[test]
fn all_shards_go_back_under_load_and_forth_again() {
    let mut cluster = Cluster::start(140, SHARDS, SHARDS.into(), &among("old", ""));
    wait_for(&cluster.hosts[0], "old");
    cluster.publish(&among("new", ""));
    for host in &cluster.hosts {
        wait_for(host, "new");
    }
    let (_, why) = refused(&cluster.hosts[1], &[]);
    assert!(why.contains("ask that one"), "{why}");
    let addresses: Vec<_> = cluster.hosts.iter().map(|host| host.address).collect();
    let request = |clients: &mut [Client], worker: usize, number: u64| {
        let through = usize::try_from(number).expect("few requests") % clients.len();
        let client = &mut clients[through];
        let set = client.get(&format!("/set/{worker}-{}/{number}", number % 50));
        assert_eq!(set.expect("an answer").status, 200);
    };
    let (requests, last) = under_load_through(&addresses, 4, request, |_| {
        let mut last = 2;
        for turn in 0..TURNS {
            // The numbers of the first generations stay; each turn is a new one.
            let (to, wanted) = if turn % 2 == 0 {
                ("1", "old")
            } else {
                ("2", "new")
            };
            go_back(&cluster.hosts[0], &["--to", to]);
            last += 1;
            for host in &cluster.hosts {
                wait_for(host, wanted);
            }
        }
        last
    });
    for host in &cluster.hosts {
        host.wait_until("the last generation", |host| numbers(host)[0] == last);
    }
    println!("{requests} requests while all shards went back and forth {TURNS} times: 0 failed");

    // Without its disk, shard 0 learns from the others what is held, and has the content from them.
    go_back(&cluster.hosts[0], &["--to", "1"]);
    let host = cluster.hosts.remove(0);
    host.kill();
    fs::remove_dir_all(&cluster.shards[0].data).expect("the directory can be removed");
    let host = cluster.shards[0].start();
    cluster.hosts.insert(0, host);
    cluster.wait_for(SHARDS.into());
    wait_for(&cluster.hosts[0], "old");
    std::thread::sleep(Duration::from_millis(500));
    for host in &cluster.hosts {
        assert_eq!(label(host), "old");
    }
    assert!(cluster.hosts[0].status()["rollout"]["held"].is_string());
    // The ConfigMap changes.
    cluster.publish(&among("newer", ""));
    for host in &cluster.hosts {
        wait_for(host, "newer");
    }
    assert!(cluster.hosts[0].status()["rollout"]["held"].is_null());
}

#[test]
fn what_one_shard_refuses_now_is_not_gone_back_to() {
    let secret = Files::from([("needed".to_owned(), b"it is here".to_vec())]);
    let mut shards = ostrakon_tests::cluster::shards(141, SHARDS, &among("old", "needs=needed"));
    for shard in &mut shards {
        shard.secrets.publish(&secret).expect("published");
    }
    let hosts = shards.iter().map(Shard::start).collect();
    let mut cluster = Cluster { hosts, shards };
    cluster.wait_for(SHARDS.into());
    cluster.publish(&among("new", ""));
    for host in &cluster.hosts {
        wait_for(host, "new");
    }
    let other = Files::from([("other".to_owned(), b"it is here".to_vec())]);
    cluster.shards[2]
        .secrets
        .publish(&other)
        .expect("published");
    cluster.hosts[2].wait_until("the Secret is read", |host| {
        host.metric("ostrakon_secrets_reloads_total") > 0
    });
    let (code, why) = refused(&cluster.hosts[0], &[]);
    assert_eq!(code, Some(69), "{why}");
    assert!(
        why.contains("what was live is still live: ") && why.contains("the Secret lacks needed"),
        "{why}"
    );
    for host in &cluster.hosts {
        assert_eq!(label(host), "new");
    }
    assert!(history(&cluster.hosts[0])["held"].is_null());

    // One that is away is left behind, and follows.
    cluster.shards[2]
        .secrets
        .publish(&secret)
        .expect("published");
    cluster.hosts.remove(2).kill();
    go_back(&cluster.hosts[0], &[]);
    let back = cluster.shards[2].start();
    assert_eq!(label(&back), "old");
}
