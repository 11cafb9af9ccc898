//! A log that nobody reads: standard error is a full pipe, or a closed one. Requests, swaps, probes
//! and shutdown work nevertheless. Lines without room are counted, and reported when the log is
//! read again.

use std::io::Write as _;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ostrakon_tests::host::{Host, PATIENCE, Reading, Shard, config, guest};
use ostrakon_tests::load::under_load;

const LOST: &str = "ostrakon_log_lines_lost_total";
/// Twice the memory for the bound on waiting lines, and a margin for other changes.
const MORE_MEMORY: u64 = 48 << 20;

/// A shard that logs everything it can.
fn talkative(label: &str) -> Shard {
    let mut shard = Shard::new(&config(&guest("kv"), &[("label", label)]));
    let filter = "trace,hyper=trace,hyper_util=trace,tokio_util=trace,h2=trace,mio=trace,wasmtime=trace,cranelift_codegen=trace";
    shard.arguments = ["--log", filter].map(str::to_owned).to_vec();
    shard
}

/// Runs clients until lines are lost, and then until `meanwhile` returns. Prints their results.
#[expect(clippy::print_stdout, reason = "the test prints its results")]
fn while_unread(host: &Host, what: &str, meanwhile: impl FnOnce()) {
    let before = host.metric("process_resident_memory_bytes");
    host.set_reading(Reading::Paused);
    let longest = Mutex::new(Duration::ZERO);
    let (requests, ()) = under_load(
        host.address,
        4,
        |client, worker, number| {
            let began = Instant::now();
            let response = client.get(&format!("/save/{worker}/{number}")).unwrap();
            assert_eq!(response.status, 200, "{}", response.text());
            let mut longest = longest.lock().unwrap();
            *longest = began.elapsed().max(*longest);
        },
        |_| {
            host.wait_until("lines are lost", |host| host.metric(LOST) > 1000);
            meanwhile();
        },
    );
    let longest = longest.into_inner().unwrap();
    assert!(longest < PATIENCE / 4, "a request took {longest:?}");
    let more = host
        .metric("process_resident_memory_bytes")
        .saturating_sub(before);
    assert!(more < MORE_MEMORY, "memory grew by {more} bytes");
    println!(
        "{what}: {requests} saves, 0 failed, longest {longest:?}; {} lines lost, {} KiB more memory",
        host.metric(LOST),
        more >> 10
    );
}

fn is_live_and_ready(host: &Host) {
    for path in ["/livez", "/readyz"] {
        assert_eq!(host.admin("GET", path).unwrap().status, 200, "{path}");
    }
}

#[test]
fn nothing_waits_for_the_reader_of_a_log_and_what_is_lost_is_told() {
    let mut shard = talkative("one");
    let host = shard.start();
    while_unread(&host, "a full pipe", || {
        is_live_and_ready(&host);
        let next = config(&guest("kv"), &[("label", "two")]);
        shard.config.publish(&next).unwrap();
        host.wait_for_status("a swap", |status| status["generation"]["generation"] == 2);
    });
    // When the log is read again, it says how many lines are missing, and each line is complete.
    host.set_reading(Reading::On);
    let told = |host: &Host| -> u64 {
        let log = host.log();
        let lines = log.lines().map(|line| {
            let line: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            line["lines"].as_u64().unwrap_or(0)
        });
        lines.sum()
    };
    host.wait_until("it is told", |host| told(host) > 1000);
    let (log, told) = (host.log(), told(&host));
    println!("{} lines read, {told} told to be lost", log.lines().count());
    // The log is again not read, and the host must end when it is told to.
    host.set_reading(Reading::Paused);
    host.signal("TERM");
    let (status, _) = host.wait();
    assert!(status.success(), "{status}");
}

#[test]
fn a_log_that_is_closed_stops_nothing() {
    let shard = talkative("one");
    let host = shard.start();
    host.set_reading(Reading::Closed);
    host.client().get("/save/a/b").unwrap();
    while_unread(&host, "a closed pipe", || is_live_and_ready(&host));
    host.signal("TERM");
    let (status, _) = host.wait();
    assert!(status.success(), "{status}");
}

/// A command's last message must not keep it from ending either.
#[test]
fn a_command_that_fails_ends_though_nobody_reads_why() {
    let shard = Shard::new(&config(b"not Wasm", &[]));
    for (arguments, code) in [(&[][..], 64), (&["--no-such-flag"][..], 64)] {
        let (unread, mut full) = std::io::pipe().unwrap();
        // As much as a pipe holds.
        full.write_all(&vec![b'.'; 64 << 10]).unwrap();
        let mut command = shard.command();
        command.args(arguments).stderr(Stdio::from(full));
        let mut child = command.spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("the process does not end, {arguments:?}");
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        assert_eq!(status.code(), Some(code), "{arguments:?}");
        drop(unread);
    }
}
