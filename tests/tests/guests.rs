//! The guests of this repository as components: they are small, and implement the contract's world.

use std::fs;
use std::path::Path;
use std::process::Command;

use ostrakon_tests::host::{binary, guest};

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
