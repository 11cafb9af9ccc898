//! The load client: the replies that it counts as failures, and the keys that it checks.

use std::process::{Command, Output};

use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::host::{binary, config, guest};

fn load_client(server: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary().with_file_name("load-client"));
    let ran = command.arg(server).args(["--clients", "3", "--keys", "30"]);
    ran.args(arguments).output().unwrap()
}

fn last_line(ran: &Output) -> String {
    let said = String::from_utf8_lossy(&ran.stdout);
    said.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn it_finds_what_it_saved_and_counts_what_failed() {
    let files = config(&guest("kv"), &[("ostrakon.toml", "cluster.shards = 2")]);
    let cluster = Cluster::start(49, 2, 2, &files);
    let server = cluster.hosts[0].address.to_string();

    let missing = load_client(&server, &["check"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        last_line(&missing).ends_with("90 keys, 90 wrong"),
        "{missing:?}"
    );
    for (command, wanted) in [
        ("fill", "90 requests, 0 failed"),
        ("check", "90 requests, 0 failed"),
    ] {
        let ran = load_client(&server, &[command]);
        assert!(
            ran.status.success() && last_line(&ran).starts_with(wanted),
            "{ran:?}"
        );
    }

    // Keys with another prefix stay as they are.
    for (arguments, wrong) in [
        (&["--prefix", "kept-", "check"][..], 90),
        (&["--prefix", "kept-", "fill"], 0),
        (&["run", "--for", "300ms"], 0),
        (&["--prefix", "kept-", "check"], 0),
    ] {
        let ran = load_client(&server, arguments);
        let wanted = format!("90 keys, {wrong} wrong");
        assert!(last_line(&ran).ends_with(&wanted), "{ran:?}");
    }

    let directory = tempfile::tempdir().unwrap();
    let stop = directory.path().join("stop");
    std::fs::write(&stop, "").unwrap();
    let until = stop.display().to_string();
    let ran = load_client(&server, &["run", "--for", "1h", "--until", &until]);
    assert!(ran.status.success(), "{ran:?}");

    // A draining shard refuses requests, and the client counts that as a failure.
    cluster.hosts[0].admin("POST", "/drain").unwrap();
    let ran = load_client(&server, &["run", "--for", "200ms"]);
    assert_eq!(ran.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(said.contains("503 _shutting_down_"), "{said}");
    assert!(!last_line(&ran).contains(" 0 failed"), "{said}");
}
