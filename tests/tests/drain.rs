//! Ending: earlier requests are answered, later ones are sent elsewhere, and the next start has
//! nothing to recover.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_tests::client::{Client, Response};
use ostrakon_tests::host::{Host, PATIENCE, Shard, binary, config, guest};

fn kv(settings: &str) -> Shard {
    Shard::new(&config(&guest("kv"), &[("ostrakon.toml", settings)]))
}

fn is_shutting_down(response: &Response) -> bool {
    let told = (response.status, response.body.as_slice()) == (503, b"_shutting_down_");
    // The connection must close, or the client's next request would be refused again.
    let elsewhere = response.header("connection") == Some("close");
    told && elsewhere && response.header("retry-after").is_some()
}

fn is_ready(host: &Host) -> bool {
    host.admin("GET", "/readyz").unwrap().status == 200
}

/// Runs `ostrakon drain`, as a preStop hook does.
fn drain(host: &Host) -> Output {
    let mut command = Command::new(binary());
    command.args(["drain", "--admin", &host.admin.to_string()]);
    command.output().unwrap()
}

/// Whether the store was closed. While a process has the file open, the second bit of its tenth
/// byte is set (redb's design document, "Super header").
fn is_closed(shard: &Shard) -> bool {
    let file = std::fs::read(shard.data.join("shard.redb")).unwrap();
    assert!(file.starts_with(b"redb"));
    file[9] & 2 == 0
}

fn assert_closed(shard: &Shard) {
    assert!(is_closed(shard), "the store was not closed");
}

#[test]
fn a_store_that_was_not_closed_is_told_from_one_that_was() {
    let shard = kv("");
    let host = shard.start();
    host.client().get("/save/a/b").unwrap();
    host.kill();
    assert!(!is_closed(&shard));
    shard.start().stop();
    assert!(is_closed(&shard));
}

/// `ostrakon drain` is a preStop hook: once it returns, requests still in flight are cut off.
#[test]
fn a_drain_returns_only_when_what_is_in_flight_is_answered() {
    let settings = "[guest]\nread_deadline = \"2s\"";
    let shard = Shard::new(&config(&guest("hostile"), &[("ostrakon.toml", settings)]));
    let host = shard.start();
    thread::scope(|scope| {
        let slow = scope.spawn(|| host.client().get("/loop").unwrap());
        host.wait_until("the slow request", |host| {
            host.metric("ostrakon_slow_reads_total") >= 1
        });
        assert_eq!(host.metric("ostrakon_requests_total"), 0);
        assert!(drain(&host).status.success());
        assert_eq!(
            host.metric("ostrakon_requests_total"),
            1,
            "the request was not answered"
        );
        assert_eq!(slow.join().unwrap().status, 504);
    });
    host.stop();
}

/// The admin port, which stays open to the end, once held a handle of the writer. The writer's
/// thread did not end, and the host waited five seconds for it and left the store unclosed.
#[test]
fn an_idle_host_ends_with_its_store_closed() {
    let shard = kv("");
    let host = shard.start();
    let mut client = host.client();
    client.get("/save/a/b").unwrap();
    let log = host.stop();
    assert!(log.contains(r#""closed""#), "{log}");
    assert!(!log.contains("not closed"), "{log}");
    assert_closed(&shard);
}

/// SIGHUP, which a closed terminal sends, once ended the host with requests in flight.
#[test]
fn a_hang_up_drains_and_signals_that_mean_nothing_do_nothing() {
    let settings = "[guest]\nread_deadline = \"2s\"";
    let mut shard = Shard::new(&config(&guest("hostile"), &[("ostrakon.toml", settings)]));
    // The tests themselves may run under `nohup`, which the host would inherit.
    shard.runner = ["env", "--default-signal=HUP"].map(str::to_owned).into();
    let host = shard.start();
    for signal in ["USR1", "USR2", "XFSZ"] {
        host.signal(signal);
    }
    thread::scope(|scope| {
        let slow = scope.spawn(|| host.client().get("/loop").unwrap());
        host.wait_until("the slow request", |host| {
            host.metric("ostrakon_slow_reads_total") >= 1
        });
        assert!(is_ready(&host));
        host.signal("HUP");
        assert_eq!(slow.join().unwrap().status, 504);
    });
    let (status, log) = host.wait();
    assert_eq!(status.code(), Some(0), "{status}: {log}");
    assert!(log.contains(r#""SIGHUP""#), "{log}");
    assert_closed(&shard);
}

/// `nohup` lets a process outlive its terminal.
#[test]
fn a_host_that_was_started_to_ignore_a_hang_up_goes_on() {
    let mut shard = kv("");
    shard.runner = vec!["nohup".into()];
    let host = shard.start();
    host.signal("HUP");
    // Pending signals are delivered in order of their numbers, so SIGHUP comes first.
    host.signal("USR1");
    assert_eq!(host.client().get("/save/a/b").unwrap().status, 200);
    assert!(is_ready(&host));
    let log = host.stop();
    assert!(!log.contains("SIGHUP"), "{log}");
    assert_closed(&shard);
}

#[test]
fn under_load_each_write_is_acknowledged_or_refused_and_the_acknowledged_are_there_after() {
    const CLIENTS: u64 = 8;
    let shard = kv("");
    let host = shard.start();
    let acknowledged: Vec<AtomicU64> = (0..CLIENTS).map(|_| AtomicU64::new(0)).collect();
    let total = || -> u64 {
        let each = acknowledged.iter();
        each.map(|last| last.load(Ordering::Relaxed)).sum()
    };
    thread::scope(|scope| {
        for (number, last) in acknowledged.iter().enumerate() {
            let mut client = host.client();
            scope.spawn(move || {
                for sequence in 1.. {
                    let path = format!("/kv/{number}");
                    // The drained process still runs, so no connection may be cut.
                    let response = client.put(&path, sequence.to_string().as_bytes()).unwrap();
                    if !(200..300).contains(&response.status) {
                        assert!(is_shutting_down(&response), "{response:?}");
                        break;
                    }
                    last.store(sequence, Ordering::Relaxed);
                }
            });
        }
        host.wait_until("writes", |_| total() > 500);
        assert!(drain(&host).status.success());
    });
    assert!(is_shutting_down(&host.client().get("/load/0").unwrap()));
    assert!(!is_ready(&host));
    host.stop();

    let host = shard.start();
    for (number, last) in acknowledged.iter().enumerate() {
        let found = host.client().get(&format!("/kv/{number}")).unwrap();
        assert_eq!(
            found.text(),
            last.load(Ordering::Relaxed).to_string(),
            "key {number}"
        );
    }
    println!("{} writes before the drain, all there after it", total());
    host.stop();
}

#[test]
fn sigterm_amid_writers_loses_and_halves_no_write() {
    const CLIENTS: u64 = 8;
    let shard = kv("");
    let host = shard.start();
    let total = AtomicU64::new(0);
    // For each client, the last acknowledged number, and whether its last request was refused with
    // a reply. Once nothing is in flight the process ends, so a connection may close before its
    // next request arrives.
    let ends: Vec<(u64, bool)> = thread::scope(|scope| {
        let writers: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (mut client, total) = (host.client(), &total);
                scope.spawn(move || {
                    let path = format!("/kv/{number}");
                    let mut acknowledged = 0;
                    loop {
                        let next = (acknowledged + 1).to_string();
                        match client.put(&path, next.as_bytes()) {
                            Ok(response) if response.status < 300 => acknowledged += 1,
                            Ok(refused) => {
                                assert!(is_shutting_down(&refused), "{refused:?}");
                                return (acknowledged, true);
                            }
                            Err(_) => return (acknowledged, false),
                        }
                        total.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        host.wait_until("writes", |_| total.load(Ordering::Relaxed) > 500);
        host.signal("TERM");
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect()
    });
    let (status, log) = host.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_closed(&shard);

    let host = shard.start();
    let mut refused = 0;
    for (number, &(acknowledged, was_refused)) in ends.iter().enumerate() {
        let found = host.client().get(&format!("/kv/{number}")).unwrap();
        let found: u64 = found.text().parse().unwrap();
        // A write without a reply may have been stored as a whole.
        let at_most = acknowledged + u64::from(!was_refused);
        assert!((acknowledged..=at_most).contains(&found), "{found}");
        refused += u64::from(was_refused);
    }
    let total = total.into_inner();
    println!("{total} writes before SIGTERM, all there after; {refused} of {CLIENTS} writers told");
    host.stop();
}

#[test]
fn what_is_in_flight_at_sigterm_is_answered_while_new_requests_are_refused() {
    let settings = "[guest]\nread_deadline = \"2s\"";
    let shard = Shard::new(&config(&guest("hostile"), &[("ostrakon.toml", settings)]));
    let host = shard.start();
    thread::scope(|scope| {
        // It loops until its deadline, so its reply comes after the signal.
        let slow = scope.spawn(|| host.client().get("/loop").unwrap());
        host.wait_until("the slow request", |host| {
            host.metric("ostrakon_slow_reads_total") >= 1
        });
        let mut client = host.client();
        assert_eq!(client.get("/set/a/b").unwrap().status, 200);
        host.signal("TERM");
        let refused = until(&mut client, |response| response.status != 200);
        assert!(is_shutting_down(&refused), "{refused:?}");
        assert!(
            !slow.is_finished(),
            "the request in flight is still running"
        );
        let answer = slow.join().unwrap();
        assert_eq!(answer.status, 504, "{answer:?}");
    });
    let (status, log) = host.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_closed(&shard);
}

/// Sends requests until the reply is as wanted.
fn until(client: &mut Client, wanted: impl Fn(&Response) -> bool) -> Response {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let response = client.get("/get/a").unwrap();
        if wanted(&response) {
            return response;
        }
        assert!(Instant::now() < deadline, "still {response:?}");
    }
}

#[test]
fn it_is_not_ready_at_once_and_serves_on_for_as_long_as_is_set() {
    let shard = kv("[drain]\nserve_for = \"500ms\"");
    let host = shard.start();
    let mut client = host.client();
    client.get("/save/a/b").unwrap();
    assert!(is_ready(&host));
    let began = Instant::now();
    host.signal("TERM");
    host.wait_until("unreadiness", |host| !is_ready(host));
    let mut served = 0;
    let refused = loop {
        match client.get("/load/a") {
            Ok(response) if response.status == 200 => {
                // A Service sends new connections to other Pods, but a kept connection stays until
                // it is closed.
                assert_eq!(response.header("connection"), Some("close"));
                served += 1;
            }
            other => break other,
        }
    };
    // With nothing in flight the process may be gone before it can refuse a request.
    assert!(refused.is_err() || refused.is_ok_and(|response| is_shutting_down(&response)));
    assert!(began.elapsed() >= Duration::from_millis(500));
    assert!(served > 0);
    println!("{served} requests served, not ready");
    let (status, log) = host.wait();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn draining_twice_is_as_once_and_the_process_lives_on_until_told() {
    let shard = kv("");
    let host = shard.start();
    for _ in 0..2 {
        let output = drain(&host);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "drained\n");
    }
    let both = AtomicBool::new(true);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let response = host.admin("POST", "/drain").unwrap();
                both.fetch_and(response.status == 200, Ordering::Relaxed);
            });
        }
    });
    assert!(both.into_inner());
    assert!(is_shutting_down(&host.client().get("/load/a").unwrap()));
    assert_eq!(host.admin("GET", "/livez").unwrap().status, 200);
    let log = host.stop();
    assert_eq!(log.matches(r#""drained""#).count(), 1, "{log}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let shard = kv("[drain]\nserve_for = \"10m\"\ndeadline = \"20m\"");
    let host = shard.start();
    host.client().get("/save/a/b").unwrap();
    host.signal("TERM");
    host.wait_until("the drain", |host| host.log().contains(r#""draining""#));
    host.signal("TERM");
    let (status, log) = host.wait();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(!log.contains(r#""drained""#), "{log}");
    // Acknowledged writes are there nevertheless.
    let host = shard.start();
    assert_eq!(host.client().get("/load/a").unwrap().text(), "b");
    host.kill();
}
