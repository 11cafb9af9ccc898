//! The guests of this repository as components: they are small, and implement the contract's world.

use std::fs;
use std::path::Path;
use std::process::Command;

use ostrakon_tests::host::{Files, Shard, binary, guest};

/// The counter, built by the SDK of contract version 0.1.0.
const OF_0_1_0: &[u8] = include_bytes!("../guests/fixtures/counter-of-contract-0.1.0.wasm.zst");

#[test]
fn the_key_value_guest_has_at_most_100_kib() {
    let size = guest("kv").len();
    println!("kv: {size} bytes");
    assert!(size <= 100 << 10, "{size} bytes");
}

#[test]
fn a_guest_that_counts_has_under_40_lines() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/counter/src/lib.rs");
    let source = fs::read_to_string(source).expect("the file can be read");
    let lines = source.lines().count();
    assert!(lines < 40, "{lines} lines");
}

#[test]
fn each_guest_exports_the_whole_world_and_describes_itself() {
    for name in ["kv", "counter", "votes", "hostile"] {
        let directory = tempfile::tempdir().expect("a directory can be created");
        let path = directory.path().join("guest.wasm");
        fs::write(&path, guest(name)).expect("the file can be written");
        let inspected = Command::new(binary()).arg("inspect").arg(&path).output();
        let inspected = inspected.expect("it runs");
        let text = String::from_utf8(inspected.stdout).expect("it is text");
        assert!(inspected.status.success(), "{name}: {text}");
        for export in [
            "describe", "check", "owner", "route", "handle", "gather", "migrate",
        ] {
            assert!(text.contains(export), "{name} has no {export}: {text}");
        }
        assert!(text.contains(&format!("describe  {name} ")), "{text}");
        assert!(!text.contains("wasi:"), "{name} needs WASI: {text}");
    }
}

#[test]
fn a_guest_of_an_earlier_version_of_the_contract_still_runs() {
    let files = Files::from([("guest.wasm.zst".to_owned(), OF_0_1_0.to_vec())]);
    let host = Shard::new(&files).start();
    let mut client = host.client();
    for count in ["1", "2"] {
        let counted = client.send("POST", "/visits", &[], b"").expect("an answer");
        assert_eq!((counted.status, counted.text()), (200, count));
    }
    host.stop();
}

#[test]
fn a_guest_of_a_later_version_of_the_contract_is_refused_with_what_to_do() {
    let (mut later, of_now) = (guest("kv"), b"header-values");
    let mut renamed = 0;
    for at in 0..later.len() - of_now.len() {
        if later[at..].starts_with(of_now) {
            later[at..at + of_now.len()].copy_from_slice(b"header-valuez");
            renamed += 1;
        }
    }
    assert!(renamed > 0, "the guest does not import it");
    let directory = tempfile::tempdir().expect("a directory can be created");
    let path = directory.path().join("guest.wasm");
    fs::write(&path, later).expect("the file can be written");
    let inspected = Command::new(binary()).arg("inspect").arg(&path).output();
    let inspected = inspected.expect("it runs");
    let said = String::from_utf8_lossy(&inspected.stderr);
    assert!(said.contains("upgrade the host first"), "{said}");
    assert!(said.contains("header-valuez"), "{said}");
}
