//! Updates of the ConfigMap that cannot serve. Each is refused in its step, with the reason in the
//! status, the log and a metric, while the live generation keeps serving. The next good update goes
//! live.

use std::fs;
use std::sync::atomic::Ordering;

use ostrakon_tests::client::Client;
use ostrakon_tests::host::{Files, Host, Shard, config, guest};
use ostrakon_tests::load::under_load;

/// Short deadlines, so that endless loops are refused soon. The live data has schema 2.
const TOML: &str = "guest.check_deadline = \"300ms\"\nguest.migrate_deadline = \"300ms\"\n";

/// A guest with an import that no host offers: a resource type named `surplus`, appended to the
/// component.
fn with_surplus_import(component: &[u8]) -> Vec<u8> {
    [component, b"\x0a\x0c\x01\0\x07surplus\x03\x01"].concat()
}

/// A guest with a custom section of this many zeros.
fn with_zeros(component: &[u8], bytes: u32) -> Vec<u8> {
    let length = bytes + 2;
    // As LEB128, in its longest form.
    let size = [0, 7, 14, 21, 28].map(|shift| {
        let more = if shift < 28 { 0x80 } else { 0 };
        (length >> shift).to_le_bytes()[0] & 0x7f | more
    });
    let zeros = vec![0; bytes as usize];
    [component, b"\0", &size, b"\x01z", &zeros].concat()
}

fn hostile(misbehave: &str) -> Files {
    with_toml(&guest("hostile"), misbehave, TOML)
}

fn with_toml(component: &[u8], misbehave: &str, toml: &str) -> Files {
    config(
        component,
        &[("misbehave", misbehave), ("ostrakon.toml", toml)],
    )
}

fn packed(component: &[u8], more: &[(&str, &[u8])]) -> Files {
    let mut files = hostile("schema=2");
    files.remove("guest.wasm");
    let packed = zstd::encode_all(component, 3).expect("the guest can be compressed");
    files.insert("guest.wasm.zst".to_owned(), packed);
    for (name, content) in more {
        files.insert((*name).to_owned(), content.to_vec());
    }
    files
}

/// Each update, with the step that refuses it and the expected reason.
#[expect(clippy::too_many_lines, reason = "a table")]
fn refused() -> Vec<(&'static str, Files, &'static str, &'static str)> {
    let good = guest("hostile");
    let component = |bytes: &[u8]| with_toml(bytes, "schema=2", TOML);
    let mut half_packed = packed(&good, &[]);
    let half = half_packed.get_mut("guest.wasm.zst").expect("it is there");
    half.truncate(half.len() / 2);
    vec![
        (
            "a quarter of the guest",
            component(&good[..good.len() / 4]),
            "verify",
            "cut off after",
        ),
        (
            "all but its last byte",
            component(&good[..good.len() - 1]),
            "verify",
            "cut off after",
        ),
        (
            "half of it, packed",
            half_packed,
            "verify",
            "cannot be unpacked",
        ),
        ("an empty guest", component(b""), "verify", "is empty"),
        (
            "not Wasm",
            component(b"#!/bin/sh\necho hello\n"),
            "verify",
            "not WebAssembly",
        ),
        (
            "a core module",
            component(b"\0asm\x01\0\0\0"),
            "verify",
            "core WebAssembly module",
        ),
        ("no keys at all", Files::new(), "read", "holds no files"),
        (
            "no guest",
            Files::from([("label".to_owned(), b"x".to_vec())]),
            "verify",
            "neither guest.wasm",
        ),
        (
            "two guests",
            packed(&good, &[("guest.wasm", &good)]),
            "verify",
            "both guest.wasm and",
        ),
        (
            "more than a guest may have",
            packed(&vec![0; (64 << 20) + 1], &[]),
            "verify",
            "64 MiB",
        ),
        (
            "an unknown setting",
            with_toml(&good, "schema=2", "writer.max_grupo = 3"),
            "verify",
            "max_grupo",
        ),
        (
            "a setting out of bounds",
            with_toml(&good, "schema=2", "writer.max_group = 0"),
            "verify",
            "writer.max_group is 0",
        ),
        (
            "damaged in the middle",
            component(&[&good[..8], &b"\x01\x04abcd"[..]].concat()),
            "verify",
            "cannot be read",
        ),
        (
            "an export of what is not there",
            component(&[&good[..], &b"\x0b\x08\x01\0\x01x\x01\x8f\x4e\0"[..]].concat()),
            "compile",
            "9999",
        ),
        (
            "another world",
            component(b"\0asm\x0d\0\x01\0"),
            "verify",
            "does not export describe, check",
        ),
        (
            "an import too many",
            component(&with_surplus_import(&good)),
            "link",
            "surplus",
        ),
        (
            "a trap in describe",
            hostile("schema=2,trap-in-describe"),
            "check",
            "trapped",
        ),
        (
            "a loop in describe",
            hostile("schema=2,loop-in-describe"),
            "check",
            "in time",
        ),
        (
            "a trap in check",
            hostile("schema=2,trap-in-check"),
            "check",
            "trapped",
        ),
        (
            "a loop in check",
            hostile("schema=2,loop-in-check"),
            "check",
            "in time",
        ),
        (
            "no memory in check",
            hostile("schema=2,memory-in-check"),
            "check",
            "memory",
        ),
        (
            "an error in check",
            hostile("schema=2,error-in-check"),
            "check",
            "an error was asked for",
        ),
        (
            "a trap in owner",
            hostile("schema=2,trap-in-owner"),
            "check",
            "trapped",
        ),
        (
            "a loop in owner",
            hostile("schema=2,loop-in-owner"),
            "check",
            "in time",
        ),
        (
            "an owner out of range",
            hostile("schema=2,out-of-range-in-owner"),
            "check",
            "`owner`",
        ),
        (
            "a name too long",
            hostile(&["schema=2,name=", &"n".repeat(65)].concat()),
            "check",
            "name",
        ),
        (
            "an older schema",
            hostile("schema=1"),
            "check",
            "older than the stored data's 2",
        ),
        (
            "a trap in migrate",
            hostile("schema=3,trap-in-migrate"),
            "migrate",
            "trapped",
        ),
        (
            "a loop in migrate",
            hostile("schema=3,loop-in-migrate"),
            "migrate",
            "in time",
        ),
        (
            "no memory in migrate",
            hostile("schema=3,memory-in-migrate"),
            "migrate",
            "memory",
        ),
        (
            "an error in migrate",
            hostile("schema=3,error-in-migrate"),
            "migrate",
            "an error was asked for",
        ),
    ]
}

/// Saves and loads. If a failed migration left changes, the value would show them.
fn save_and_load(client: &mut Client, worker: usize, number: u64) {
    let set = client
        .get(&format!("/set/k{worker}/{number}"))
        .expect("an answer");
    assert_eq!(set.status, 200, "{set:?}");
    let get = client.get(&format!("/get/k{worker}")).expect("an answer");
    assert_eq!((get.status, get.text()), (200, &*number.to_string()));
    let old = client.get("/get/old").expect("an answer");
    assert_eq!((old.status, old.text()), (200, "stored-before"));
}

fn refusals(host: &Host, step: &str) -> u64 {
    host.metric(&format!("ostrakon_swap_refusals_total{{step=\"{step}\"}}"))
}

#[test]
fn each_unusable_update_is_refused_with_its_reason_and_the_live_guest_goes_on() {
    let good = hostile("schema=2");
    let mut shard = Shard::new(&good);
    let host = shard.start();
    let mut client = host.client();
    assert_eq!(
        client
            .get("/set/old/stored-before")
            .expect("an answer")
            .status,
        200
    );
    let cases = refused();

    let (requests, ()) = under_load(host.address, 2, save_and_load, |_| {
        for (what, files, step, reason) in &cases {
            let (before, counted) = (host.status()["refused"].clone(), refusals(&host, step));
            shard.config.publish(files).expect("published");
            let status = host.wait_for_status(what, |status| {
                status["refused"] != before && status["candidate"].is_null()
            });
            let refused = &status["refused"];
            assert_eq!(refused["step"], *step, "{what}: {refused}");
            let told = refused["reason"].as_str().expect("there is a reason");
            assert!(told.contains(reason) && !told.is_empty(), "{what}: {told}");
            assert!(refusals(&host, step) - counted > 0, "{what} is not counted");
            assert_eq!(status["generation"]["generation"], 1, "{what}");
            assert_eq!(status["ready"], true, "{what}");
        }
        // The directory is moved away and back unchanged. The problem lasts only meanwhile.
        let (directory, away) = (
            shard.config.directory().to_owned(),
            shard.config.directory().with_extension("away"),
        );
        shard.config.publish(&good).expect("published");
        host.wait_for_status("the live content", |status| status["refused"].is_null());
        fs::rename(&directory, &away).expect("the file can be renamed");
        host.wait_for_status("the refusal", |status| status["refused"]["step"] == "read");
        fs::rename(&away, &directory).expect("the file can be renamed");
        host.wait_for_status("the directory", |status| status["refused"].is_null());
        assert_eq!(host.generation(), 1);

        // Good updates go live after all of these; the last has a migration.
        let large = with_zeros(&guest("hostile"), 1 << 20);
        let packed = packed(&large, &[]);
        for (generation, files) in [(2, with_toml(&large, "schema=2", TOML)), (3, packed)] {
            shard.config.publish(&files).expect("published");
            host.wait_until("the good one", |host| host.generation() == generation);
        }
    });

    // A client never sees new code with old data, or the reverse.
    let load = |client: &mut Client, _: usize, _: u64| {
        let old = client.get("/get/old").expect("an answer");
        let expected = match old.generation() {
            4 => "stored-before~",
            _ => "stored-before",
        };
        assert_eq!((old.status, old.text()), (200, expected), "{old:?}");
    };
    let (reads, ()) = under_load(host.address, 2, load, |answered| {
        let migrated = hostile("schema=3");
        shard.config.publish(&migrated).expect("published");
        host.wait_until("the migration", |host| host.generation() == 4);
        let before = answered.load(Ordering::Relaxed);
        host.wait_until("reads after it", |_| {
            answered.load(Ordering::Relaxed) > before + 20
        });
    });
    assert!(reads > 20);
    assert_eq!(
        client.get("/get/old").expect("an answer").text(),
        "stored-before~"
    );
    assert_eq!(host.status()["refused"], serde_json::Value::Null);
    let log = host.stop();
    for (what, _, step, _) in &cases {
        let of_step = |line: &&str| {
            line.contains("generation refused") && line.contains(&format!("\"{step}\""))
        };
        let logged = log.lines().filter(of_step).count();
        let expected = cases
            .iter()
            .filter(|(_, _, other, _)| other == step)
            .count();
        assert!(
            logged >= expected,
            "{what}: {logged} of {expected} are in the log:\n{log}"
        );
    }
    let logged = log.matches("generation refused").count();
    assert!(
        logged > cases.len(),
        "only {logged} refusals are in the log"
    );
    println!(
        "{} requests over {} refused updates: 0 failed",
        3 * requests,
        cases.len() + 1
    );
}
