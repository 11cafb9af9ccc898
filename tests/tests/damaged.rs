//! Damaged data: a start, a request and the check of the whole file each report it with a code.
//! Nothing panics, and other requests are served.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ostrakon_store::{Options, Store};
use ostrakon_test_support::files::copy;
use ostrakon_tests::client::Client;
use ostrakon_tests::host::{Host, PATIENCE, Shard, binary, config, guest, last_words};
use ostrakon_tests::load::under_load;

const KEYS: u64 = 3000;

/// A stopped shard with some thousand keys.
fn stopped() -> Shard {
    let shard = Shard::new(&config(&guest("kv"), &[]));
    let host = shard.start();
    let workers = 8;
    let done = AtomicU64::new(0);
    under_load(
        host.address,
        workers,
        |client, _, _| {
            let key = done.fetch_add(1, Ordering::Relaxed);
            if key < KEYS {
                let saved = client.get(&format!("/save/{key}/{}", word(key))).unwrap();
                assert_eq!(saved.status, 200);
            }
        },
        |_| {
            host.wait_until("all are saved", |host| {
                host.metric("ostrakon_store_entries") >= KEYS
            });
        },
    );
    host.stop();
    shard
}

fn word(key: u64) -> String {
    format!(
        "word-{key}-{}",
        "x".repeat(usize::try_from(key % 40).unwrap())
    )
}

fn file(shard: &Shard) -> PathBuf {
    shard.data.join("shard.redb")
}

/// `ostrakon check`: its exit code and its output.
fn check(shard: &Shard) -> (Option<i32>, String) {
    let before = fs::read(file(shard)).unwrap();
    let output = Command::new(binary())
        .arg("check")
        .arg(&shard.data)
        .output()
        .unwrap();
    assert!(
        fs::read(file(shard)).unwrap() == before,
        "the check changed a file"
    );
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// Checks that a start is refused with code 65, and returns its one line.
fn is_refused(shard: &Shard) -> String {
    let before = fs::read(file(shard)).unwrap();
    let (status, log) = shard.spawn().wait();
    assert_eq!(status.code(), Some(65), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    assert!(
        fs::read(file(shard)).unwrap() == before,
        "the start changed a file"
    );
    last_words(&log)
}

/// Waits for a host to become ready; returns false if it ends instead.
fn becomes_ready(host: &Host) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ready = host.admin("GET", "/readyz");
        if ready.is_ok_and(|ready| ready.status == 200) {
            return true;
        }
        let log = host.log();
        if log.contains(r#""target":"ostrakon_observe::telemetry""#) {
            return false;
        }
        assert!(Instant::now() < deadline, "neither ready nor ended: {log}");
    }
}

#[test]
fn what_meets_damage_is_refused_by_a_code_and_others_are_served() {
    let mut shard = stopped();
    let (code, said) = check(&shard);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("3,000 partitions"), "{said}");

    // Several pages contain the word. The one that is in use is made unreadable.
    let whole = fs::read(file(&shard)).unwrap();
    let wanted = word(1234);
    let mut hits =
        (0..whole.len() - wanted.len()).filter(|at| whole[*at..].starts_with(wanted.as_bytes()));
    let damaged = hits.find_map(|at| {
        let mut damaged = whole.clone();
        let page = at / 4096 * 4096;
        // The table of where each entry of the page ends. It is read only when the page is
        // searched.
        let entries = usize::from(u16::from_le_bytes([damaged[page + 2], damaged[page + 3]]));
        damaged[page + 4..page + 4 + 8 * entries].fill(0xff);
        let directory = tempfile::tempdir().unwrap();
        copy(&shard.data, directory.path());
        fs::write(directory.path().join("shard.redb"), &damaged).unwrap();
        let store = Store::open(Options::new(directory.path(), 1 << 20)).ok()?;
        let is_read = store.snapshot().unwrap().get(b"1234", b"item");
        is_read.is_err().then_some(damaged)
    });
    fs::write(file(&shard), damaged.expect("it is in a page")).unwrap();

    let (code, said) = check(&shard);
    assert_eq!(code, Some(65), "{said}");
    assert!(said.contains("damaged: "), "{said}");
    shard.arguments = vec!["--check".to_owned()];
    is_refused(&shard);
    shard.arguments.clear();

    let host = shard.start();
    let (right, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let load = |client: &mut Client, _: usize, number: u64| {
        let key = number * 7 % KEYS;
        let loaded = client.get(&format!("/load/{key}")).unwrap();
        match (loaded.status, loaded.header("ostrakon-error")) {
            (200, _) => {
                assert_eq!(loaded.text(), word(key));
                right.fetch_add(1, Ordering::Relaxed);
            }
            seen => {
                assert_eq!(seen, (500, Some("store-damaged")), "{}", loaded.text());
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let mut writes = (0, 0);
    under_load(host.address, 2, load, |answered| {
        let mut client = host.client();
        while answered.load(Ordering::Relaxed) < 2 * KEYS {
            let saved = client.get("/save/1234/new").unwrap();
            let seen = (saved.status, saved.header("ostrakon-error"));
            assert_eq!(seen, (500, Some("store-damaged")), "{}", saved.text());
            writes.0 += 1;
            let saved = client.get("/save/elsewhere/new").unwrap();
            assert_eq!(saved.status, 200, "{}", saved.text());
            writes.1 += 1;
        }
    });
    let (right, refused) = (right.into_inner(), refused.into_inner());
    assert!(
        right > refused && refused > 0,
        "{right} right, {refused} refused"
    );
    println!(
        "{right} reads were right, {refused} were refused; {} writes on the damaged page were refused, {} elsewhere were stored, 0 failed",
        writes.0, writes.1
    );
    let status = host.status();
    let problem = status["store"]["problem"].as_str().unwrap();
    assert!(problem.contains("damaged"), "{problem}");
    assert_eq!(host.metric("ostrakon_store_damaged"), 1);
    for path in ["/livez", "/readyz"] {
        assert_eq!(host.admin("GET", path).unwrap().status, 200, "{path}");
    }
    let log = host.log();
    assert!(log.contains("a part of the data is damaged"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    host.stop();
}

#[test]
fn a_file_that_is_no_store_is_refused_at_a_start_and_left_as_it_is() {
    let shard = stopped();
    let whole = fs::read(file(&shard)).unwrap();
    let half = whole[..whole.len() / 2].to_vec();
    for (what, content) in [
        ("empty", Vec::new()),
        ("zero", vec![0; whole.len()]),
        ("text", b"this is no store".repeat(1000)),
        ("a half", half),
    ] {
        fs::write(file(&shard), content).unwrap();
        let said = is_refused(&shard);
        assert!(said.contains("shard.redb"), "{what}: {said}");
        let (code, said) = check(&shard);
        assert_eq!(code, Some(65), "{what}: {said}");
        assert!(said.contains("damaged: "), "{what}: {said}");
    }
    fs::write(file(&shard), whole).unwrap();
    shard.start().stop();
}

/// The conditions under which panics were found: five random bits flipped, 25 times.
#[test]
fn no_start_and_no_request_panics_on_a_few_flipped_bits() {
    let shard = stopped();
    let whole = fs::read(file(&shard)).unwrap();
    let (mut served, mut with_errors, mut refused, mut found) = (0, 0, 0, 0);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |bound: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % bound as u64).unwrap()
    };
    for run in 0..25 {
        let mut damaged = whole.clone();
        for _ in 0..5 {
            let at = below(damaged.len());
            damaged[at] ^= 1 << below(8);
        }
        fs::write(file(&shard), &damaged).unwrap();
        let (code, said) = check(&shard);
        assert!(matches!(code, Some(0 | 65)), "run {run}: {code:?} {said}");
        let is_found = code == Some(65);
        found += u32::from(is_found);
        let host = shard.spawn();
        if !becomes_ready(&host) {
            let (status, log) = host.wait();
            assert!(!log.contains("panicked"), "run {run}: {log}");
            assert_eq!(status.code(), Some(65), "run {run}: {log}");
            assert!(is_found, "run {run}: {log}");
            refused += 1;
            continue;
        }
        let mut client = host.client();
        let mut wrong = 0;
        for key in 0..KEYS {
            let loaded = client.get(&format!("/load/{key}")).unwrap();
            let is_refused = loaded.header("ostrakon-error") == Some("store-damaged");
            wrong += u32::from(is_refused || loaded.body != word(key).as_bytes());
        }
        let saved = client.get("/save/new/word").unwrap();
        wrong += u32::from(saved.status != 200);
        assert!(
            wrong == 0 || is_found,
            "run {run}: {wrong} values are wrong, and the check found nothing"
        );
        if wrong == 0 {
            served += 1;
        } else {
            with_errors += 1;
        }
        let log = host.log();
        host.kill();
        assert!(!log.contains("panicked"), "run {run}: {log}");
    }
    println!(
        "25 files with five flipped bits: {served} served whole, {with_errors} with errors, {refused} starts refused; the check found {found}"
    );
}
