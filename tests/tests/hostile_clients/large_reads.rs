//! Clients that send many requests at once on one connection: other clients get their turn, and
//! requests that their client has cancelled are not run.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ostrakon_tests::client::Client;
use ostrakon_tests::h2::Raw;
use ostrakon_tests::host::{Host, Shard, config, guest};
use ostrakon_tests::load::under_load;

pub(super) const LARGE: usize = 8 << 20;
/// As many requests as an h2 connection may have open.
pub(super) const STREAMS: usize = 128;

/// A connection whose client accepts no byte of any body.
pub(super) fn greedy(host: &Host) -> Raw {
    Raw::taking_nothing(host.address).expect("a connection")
}

/// A shard with the default settings.
fn shard_of(name: &str) -> Shard {
    Shard::new(&config(&guest(name), &[]))
}

/// Runs `meanwhile` while other clients save and load, all of which must be answered 200. Returns
/// the longest that any of them waited.
pub(super) fn worst_of_others<T>(
    host: &Host,
    meanwhile: impl FnOnce(&AtomicU64) -> T,
) -> (Worst, T) {
    let worst = AtomicU64::new(0);
    let request = |client: &mut Client, worker: usize, number: u64| {
        let began = Instant::now();
        let path = match number % 2 {
            0 => format!("/save/other-{worker}/word"),
            _ => format!("/load/other-{worker}"),
        };
        let answer = client.get(&path).expect("an answer");
        assert_eq!((answer.status, answer.text()), (200, "word"), "{path}");
        let took = u64::try_from(began.elapsed().as_micros()).expect("not for ever");
        worst.fetch_max(took, Ordering::Relaxed);
    };
    let (answered, result) = under_load(host.address, 2, request, meanwhile);
    let took = Duration::from_micros(worst.into_inner());
    (Worst { took, answered }, result)
}

/// The longest wait of the other clients, and the number of their replies.
pub(super) struct Worst {
    pub(super) took: Duration,
    answered: u64,
}

impl fmt::Display for Worst {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { took, answered } = self;
        write!(
            out,
            "{answered} of others, 0 failed, the worst took {took:?}"
        )
    }
}

/// Waits until the other clients have got this many more replies.
pub(super) fn until_answered(host: &Host, answered: &AtomicU64, more: u64) {
    let enough = answered.load(Ordering::Relaxed) + more;
    host.wait_until("others' answers", |_| {
        answered.load(Ordering::Relaxed) >= enough
    });
}

/// Number of calls of `handle`, from the metrics.
pub(super) fn handled(host: &Host) -> u64 {
    host.metric("ostrakon_guest_call_duration_seconds_count{export=\"handle\"}")
}

pub(super) fn gone(host: &Host) -> u64 {
    host.metric("ostrakon_requests_gone_total")
}

fn refused(host: &Host, limit: &str) -> u64 {
    host.metric(&format!(
        "ostrakon_requests_refused_total{{limit=\"{limit}\"}}"
    ))
}

fn settled(host: &Host) {
    host.wait_until("the end of all requests", |host| {
        host.metric("ostrakon_requests_in_flight") == 0
    });
}

#[test]
fn large_reads_that_nobody_takes_hold_nobody_up() {
    let shard = shard_of("kv");
    let host = shard.start();
    let stored = host.client().put("/kv/large", &vec![b'x'; LARGE]).unwrap();
    assert_eq!(stored.status, 201);
    let (alone, ()) = worst_of_others(&host, |answered| until_answered(&host, answered, 500));
    for connections in [4, 20] {
        let before = handled(&host);
        let attack = |answered: &AtomicU64| {
            let mut attackers: Vec<_> = (0..connections).map(|_| greedy(&host)).collect();
            for raw in &mut attackers {
                for _ in 0..STREAMS {
                    raw.get("/kv/large");
                }
                raw.send_said().expect("it is sent");
            }
            let good: usize = attackers
                .iter_mut()
                .map(|raw| raw.answers(STREAMS).expect("frames"))
                .sum();
            until_answered(&host, answered, 50);
            good
        };
        let (worst, good) = worst_of_others(&host, attack);
        let asked = connections * STREAMS;
        println!(
            "{connections} connections: {good} of {asked} large reads answered, {} refused; \
             {worst}; without them {alone}",
            asked - good,
        );
        assert!(good > 0);
        let (took, alone) = (worst.took, alone.took);
        assert!(
            took < alone * 20 + Duration::from_secs(1),
            "others took {took:?}, and {alone:?} alone"
        );
        println!("{} calls of the guest", handled(&host) - before);
        // The host can be used again as soon as the attackers are gone.
        host.wait_until("the end of the attack", |host| {
            let read = host.client().get("/kv/large");
            read.is_ok_and(|read| read.status == 200 && read.body.len() == LARGE)
        });
    }
    host.stop();
}

#[test]
fn one_connections_slow_reads_leave_threads_to_others() {
    let shard = shard_of("hostile");
    let host = shard.start();
    let mut first = greedy(&host);
    for _ in 0..60 {
        first.get("/loop");
    }
    first.send_said().expect("it is sent");
    host.wait_until("its reads to wait", |host| {
        host.metric("ostrakon_slow_reads_total") == 60
    });
    // Behind the first client's reads it would wait for a second, and be refused.
    let mut other = host.client();
    let answer = other.get("/loop").expect("an answer");
    check_run(&answer);
    assert_eq!(other.get("/get/a").expect("an answer").status, 200);
    drop(first);
    settled(&host);
    println!("60 slow reads of one connection, and 1 of another that is run meanwhile");
    host.stop();
}

/// Checks that the request was run for its whole deadline.
#[track_caller]
pub(super) fn check_run(answer: &ostrakon_tests::client::Response) {
    let code = answer.header("ostrakon-error");
    assert_eq!(
        (answer.status, code),
        (504, Some("guest-deadline")),
        "{answer:?}"
    );
}

#[test]
fn what_waits_is_not_run_once_its_client_is_gone() {
    const ASKED: u64 = 30;
    let toml = "[guest]\nread_deadline = \"3s\"\n";
    let shard = Shard::new(&config(&guest("hostile"), &[("ostrakon.toml", toml)]));
    let host = shard.start();

    // Reads: all are tried briefly, and one at a time is run for a second.
    let mut client = greedy(&host);
    for _ in 0..ASKED {
        client.get("/loop");
    }
    client.send_said().expect("it is sent");
    host.wait_until("its reads to wait", |host| {
        host.metric("ostrakon_slow_reads_total") == ASKED
    });
    drop(client);
    settled(&host);
    let (tried, late) = (ASKED, refused(&host, "slow_reads"));
    host.wait_until("all to be counted", |host| {
        handled(host) - tried + gone(host) + late == ASKED
    });
    let reads_gone = gone(&host);
    println!("reads: {reads_gone} of {ASKED} not run, {late} waited too long");
    assert!(reads_gone + late >= ASKED - 3, "{reads_gone} and {late}");
    assert!(reads_gone >= ASKED / 2, "{reads_gone}");

    // Writes: the writer runs each for 250 ms.
    let before = handled(&host);
    let mut client = greedy(&host);
    for _ in 0..ASKED {
        client.get("/loop?access=write");
    }
    client.send_said().expect("it is sent");
    host.wait_until("its writes to wait", |host| {
        host.metric("ostrakon_writer_depth") >= ASKED - 3
    });
    // Sent separately, so that it comes last: streams that arrive together may overtake each other.
    client.get("/set/last/stored");
    client.send_said().expect("it is sent");
    host.wait_until("the last to wait, too", |host| {
        // In this order none is counted twice. One is still running.
        let run = handled(host) - before;
        run + host.metric("ostrakon_writer_depth") >= ASKED
    });
    drop(client);
    settled(&host);
    host.wait_until("the writer's end", |host| {
        host.metric("ostrakon_writer_depth") == 0
    });
    let (run, writes_gone) = (handled(&host) - before, gone(&host) - reads_gone);
    println!("writes: {writes_gone} of {} not run", ASKED + 1);
    assert_eq!(run + writes_gone, ASKED + 1);
    assert!(writes_gone >= ASKED / 2, "{writes_gone}");
    let answer = host.client().get("/get/last").expect("an answer");
    assert_ne!(
        answer.text(),
        "stored",
        "the slow read must be answered last, without delaying others"
    );
    host.stop();
}

#[test]
fn requests_that_are_taken_back_at_once_are_not_queued() {
    const CONNECTIONS: usize = 8;
    const ROUNDS: usize = 10;
    let shard = shard_of("kv");
    let host = shard.start();
    let stored = host.client().put("/kv/large", &vec![b'x'; LARGE]).unwrap();
    assert_eq!(stored.status, 201);
    let (alone, ()) = worst_of_others(&host, |answered| until_answered(&host, answered, 500));
    let before = handled(&host);
    let attack = |answered: &AtomicU64| {
        let mut sent = 0;
        for connection in 0..CONNECTIONS {
            let mut raw = greedy(&host);
            // Reset immediately, or after the streams have arrived, until the host closes the
            // connection.
            let at_once = connection % 2 == 0;
            for _ in 0..ROUNDS {
                let streams: Vec<_> = (0..100).map(|_| raw.get("/kv/large")).collect();
                if !(at_once || raw.send_said().is_ok() && raw.answers(1).is_ok()) {
                    break;
                }
                for stream in streams {
                    raw.reset(stream);
                }
                sent += 100;
                if raw.send_said().is_err() {
                    break;
                }
            }
        }
        until_answered(&host, answered, 50);
        sent
    };
    let (worst, sent) = worst_of_others(&host, attack);
    settled(&host);
    let (run, gone) = (handled(&host) - before, gone(&host));
    println!(
        "{sent} taken back: {gone} counted as not run, {run} calls of the guest for these and the \
         others; {worst}; without them {alone}"
    );
    assert!(sent > 0 && gone > 0, "{gone} of {sent}");
    let most = alone.took * 20 + Duration::from_secs(1);
    assert!(worst.took < most, "{worst}; without them {alone}");
    assert_eq!(host.metric("ostrakon_writer_depth"), 0);
    let large = host.client().get("/kv/large").expect("an answer");
    assert_eq!((large.status, large.body.len()), (200, LARGE));
    host.stop();
}
