//! `ostrakon compact`: a shard's data file becomes smaller while the shard serves, whatever ends it
//! on the way.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use ostrakon_test_support::random::{Random, seed};
use ostrakon_tests::command::output_of;
use ostrakon_tests::host::{Host, Shard, binary, config, guest};
use ostrakon_tests::load::under_load;

const MEGABYTE: usize = 1_000_000;
const ROUNDS: u64 = 12;

/// Writes values of a megabyte under the first `count` keys.
fn fill(host: &Host, count: u8) {
    let mut client = host.client();
    for key in 0..count {
        let put = client.put(&format!("/kv/large-{key}"), &vec![key; MEGABYTE]);
        assert_eq!(put.expect("an answer").status, 201);
    }
}

/// Checks that these values are there.
fn check(host: &Host, count: u8) {
    let mut client = host.client();
    for key in 0..count {
        let got = client.get(&format!("/kv/large-{key}")).expect("an answer");
        assert_eq!(got.status, 200, "{key}");
        assert!(got.body == vec![key; MEGABYTE], "{key}");
    }
}

/// The space that the data file takes, in bytes.
fn taken(shard: &Shard) -> u64 {
    let file = fs::metadata(shard.data.join("shard.redb"));
    512 * file.expect("it is there").blocks()
}

fn compact(host: &Host, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    let admin = host.admin.to_string();
    command.args(["compact", "--admin", &admin]).args(arguments);
    command.stdout(Stdio::piped());
    command
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    (output.status.code(), out, error)
}

#[test]
fn a_hundred_megabytes_that_were_deleted_are_given_back_under_load() {
    let shard = Shard::new(&config(&guest("kv"), &[]));
    let host = shard.start();
    fill(&host, 100);
    for key in 0..100 {
        let path = format!("/kv/large-{key}");
        let deleted = host.client().send("DELETE", &path, &[], b"");
        assert_eq!(deleted.expect("an answer").status, 204);
    }
    let reclaimable = "ostrakon_store_reclaimable_bytes";
    host.wait_until("what was deleted is gone from the data file", |host| {
        host.metric("ostrakon_memtable_entries") == 0
    });
    let (before, known) = (taken(&shard), host.metric(reclaimable));
    assert!(known > 80_000_000, "{known} of {before}");
    let request = |client: &mut ostrakon_tests::client::Client, worker: usize, number: u64| {
        let path = format!("/kv/{worker}-{}", number % 100);
        let body = number.to_string();
        let put = client.put(&path, body.as_bytes()).expect("an answer");
        assert!(matches!(put.status, 201 | 204), "{put:?}");
        let got = client.get(&path).expect("an answer");
        assert_eq!((got.status, got.text()), (200, &body[..]));
    };
    let (requests, output) = under_load(host.address, 4, request, |_| {
        let output = output_of(&mut compact(&host, &[]));
        // The load goes on for a while on the new file.
        host.wait_until("a checkpoint", |host| {
            host.metric("ostrakon_memtable_entries") > 0
        });
        output
    });
    let (code, out, error) = said(&output);
    assert_eq!(code, Some(0), "{out}{error}");
    assert!(out.starts_with("the data file took "), "{out}");
    host.wait_until("all is in the data file", |host| {
        host.metric("ostrakon_memtable_entries") == 0
    });
    let (after, known) = (taken(&shard), host.metric(reclaimable));
    println!(
        "{before} bytes before, {after} after, {known} to be had; {} requests, 0 failed: {out}",
        2 * requests
    );
    assert!(after < 5_000_000, "{after}");
    assert_eq!(host.metric("ostrakon_compactions_total"), 1);
    let keys = host.client().get("/allKeys").expect("an answer");
    host.stop();
    let again = shard.start();
    assert_eq!(
        again.client().get("/allKeys").expect("an answer").text(),
        keys.text()
    );
    again.stop();
    let mut check = Command::new(binary());
    check.arg("check").arg(&shard.data).stdout(Stdio::piped());
    let (code, out, error) = said(&output_of(&mut check));
    assert_eq!(code, Some(0), "{out}{error}");
}

#[test]
fn a_kill_in_the_middle_loses_nothing_and_leaves_nothing() {
    let seed = seed();
    println!("OSTRAKON_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let shard = Shard::new(&config(&guest("kv"), &[]));
    let (mut running, mut done) = (0, 0);
    for round in 0..ROUNDS {
        let host = shard.start();
        if round == 0 {
            fill(&host, 40);
        }
        check(&host, 40);
        let begun = host.admin("POST", "/compact").expect("an answer");
        assert_eq!(begun.status, 200, "{}", begun.text());
        // This is not a wait for an event: the instant of the kill is random.
        thread::sleep(Duration::from_micros(random.below(3_000_000)));
        let state = host.admin("GET", "/compact").expect("an answer");
        let state: serde_json::Value = serde_json::from_str(state.text()).expect("JSON");
        match state["state"].as_str() {
            Some("running") => running += 1,
            Some("done") => done += 1,
            other => panic!("{other:?}"),
        }
        host.kill();
    }
    let host = shard.start();
    check(&host, 40);
    assert!(!shard.data.join("shard.compact").exists());
    host.stop();
    println!("{running} were killed in the middle, {done} after their end");
    assert!(running > 0);
}

#[test]
fn one_that_is_stopped_says_so_and_leaves_the_file_as_it_was() {
    let shard = Shard::new(&config(&guest("kv"), &[]));
    let host = shard.start();
    let (code, out, _) = said(&output_of(&mut compact(&host, &["--stop"])));
    assert_eq!(code, Some(0));
    assert_eq!(out, "there was no compaction since the shard started\n");
    fill(&host, 60);
    let mut waiting = compact(&host, &[]);
    let waiting = waiting.stderr(Stdio::piped()).spawn().expect("it starts");
    host.wait_until("a compaction", |host| {
        let state = host.admin("GET", "/compact").expect("an answer");
        state.text().contains("\"running\"")
    });
    let (code, out, _) = said(&output_of(&mut compact(&host, &["--stop"])));
    assert_eq!(code, Some(0), "{out}");
    let (code, out, error) = said(&waiting.wait_with_output().expect("it ends"));
    assert_eq!((code, &out[..]), (Some(74), ""));
    assert_eq!(
        error.trim(),
        "error: the data file is as it was: it was stopped by an operator"
    );
    assert!(!shard.data.join("shard.compact").exists());
    check(&host, 60);
    assert_eq!(host.metric("ostrakon_compaction_errors_total"), 1);
    host.stop();
}
