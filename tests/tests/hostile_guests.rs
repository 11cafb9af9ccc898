//! Guests that misbehave, one misdeed per line: the client's reply, while other clients load and
//! save all the time and are not harmed.
//!
//! Requests do not call `owner` while there is one shard. Its errors are found before a generation
//! goes live, like those of `describe`, `check` and `migrate`: see the test `refusals`.

use std::cell::RefCell;
use std::io::{Read as _, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_tests::client::Client;
use ostrakon_tests::host::{Host, Shard, config, guest};
use ostrakon_tests::load::under_load;
use ostrakon_tests::memory::status;

/// What the client gets.
enum Seen {
    /// A status that the host sets, and its code.
    Refusal(u16, &'static str),
    /// Status 200 with this body.
    Body(&'static str),
}
use Seen::{Body, Refusal};

const TRAPPED: Seen = Refusal(500, "guest-trapped");
const MEMORY: Seen = Refusal(500, "guest-memory");
const REPLY: Seen = Refusal(500, "guest-reply");
const DEADLINE: Seen = Refusal(504, "guest-deadline");

const MISDEEDS: &[(&str, Seen)] = &[
    // A trap, in any export.
    ("/trap", TRAPPED),
    ("/trap?access=write", TRAPPED),
    ("/trap?at=here", TRAPPED),
    ("/trap?at=everywhere", TRAPPED),
    ("/trap?at=route", TRAPPED),
    ("/trap?at=gather", TRAPPED),
    ("/panic", TRAPPED),
    ("/panic?access=write", TRAPPED),
    // An endless loop.
    ("/loop", DEADLINE),
    ("/loop?access=write", DEADLINE),
    ("/loop?at=here", DEADLINE),
    ("/loop?at=everywhere", DEADLINE),
    ("/loop?at=route", DEADLINE),
    ("/loop?at=gather", DEADLINE),
    // Memory up to the limit, and memory that is never freed.
    ("/memory", MEMORY),
    ("/memory?access=write", MEMORY),
    ("/memory?at=route", MEMORY),
    ("/leak", Body("1 MiB")),
    // Recursion to the end of either stack.
    ("/stack", TRAPPED),
    ("/stack?access=write", TRAPPED),
    ("/stack?at=route", TRAPPED),
    ("/stack-memory", TRAPPED),
    ("/stack-memory?access=write", TRAPPED),
    // Replies that cannot be sent.
    ("/reply-enormous", REPLY),
    ("/reply-enormous?access=write", REPLY),
    ("/reply-enormous?at=gather", REPLY),
    ("/headers-many", REPLY),
    ("/headers-many?access=write", REPLY),
    ("/header-enormous", REPLY),
    ("/header-bad-name", REPLY),
    ("/header-empty-name", REPLY),
    ("/header-bad-value", REPLY),
    ("/header-forbidden", REPLY),
    ("/header-chunked", REPLY),
    ("/header-ostrakon", REPLY),
    ("/status", REPLY),
    ("/status?n=0", REPLY),
    ("/status?n=199", REPLY),
    ("/status?n=600", REPLY),
    ("/status?n=65535", REPLY),
    // Writes beyond the bounds, and writes where only reads are allowed.
    ("/write", Body("read-only")),
    ("/write-many", Body("read-only")),
    ("/delete", Body("read-only")),
    ("/delete-many", Body("read-only")),
    ("/write?at=here", TRAPPED),
    ("/store?at=here", TRAPPED),
    ("/shard", TRAPPED),
    ("/secret?at=route", TRAPPED),
    ("/key-enormous?access=write", Body("key-size 1024")),
    ("/key-empty?access=write", Body("key-size 1024")),
    ("/value-enormous?access=write", Body("value-size 9437184")),
    (
        "/partition-enormous?access=write&partition=large",
        Body("partition-full 16777216"),
    ),
    (
        "/scan-enormous?access=write&partition=scanned&n=4",
        Body("4 entries, 4194300 bytes"),
    ),
    // More than fits into one call of the host, or into the host's memory.
    ("/value-enormous?access=write&n=41943040", MEMORY),
    ("/reply-enormous?n=41943040", MEMORY),
    ("/batch-enormous", MEMORY),
    ("/handles", MEMORY),
    ("/handles?access=write", MEMORY),
    // A write that fails stores nothing: the end of the test checks that.
    ("/write-then-trap?access=write&partition=half", TRAPPED),
    ("/write-then-panic?access=write&partition=half", TRAPPED),
    ("/write-then-loop?access=write&partition=half", DEADLINE),
    ("/write-then-status?access=write&partition=half", REPLY),
    (
        "/write-then-discard?access=write&partition=half",
        Body("behaved"),
    ),
    // Too much for the log.
    ("/log-flood", Body("10000 lines")),
    ("/log-long", Body("1 MiB")),
    ("/log-lines", Body("several lines in one")),
];

fn hostile() -> Host {
    // Writes get a long deadline: this test is about bounds, not about the machine's speed.
    let toml = "guest.write_deadline = \"1s\"\nguest.log_lines_per_second = 50";
    Shard::new(&config(&guest("hostile"), &[("ostrakon.toml", toml)])).start()
}

/// A well-behaved client: saves a value and loads it.
fn save_and_load(client: &mut Client, worker: usize, number: u64) {
    let set = client.get(&format!("/set/good-{worker}/{number}"));
    let set = set.expect("an answer");
    assert_eq!(set.status, 200, "{set:?}");
    let get = client
        .get(&format!("/get/good-{worker}"))
        .expect("an answer");
    assert_eq!((get.status, get.text()), (200, &*number.to_string()));
}

#[test]
fn each_misdeed_is_answered_clearly_and_harms_nobody_else() {
    let host = hostile();
    let (requests, ()) = under_load(host.address, 2, save_and_load, |answered| {
        let mut client = host.client();
        for (path, expected) in MISDEEDS {
            let before = answered.load(Ordering::Relaxed);
            let response = client
                .get(path)
                .unwrap_or_else(|error| panic!("{path}: {error}"));
            let seen = (response.status, response.header("ostrakon-error"));
            match expected {
                Refusal(status, code) => {
                    assert_eq!(seen, (*status, Some(*code)), "{path}: {}", response.text());
                }
                Body(body) => {
                    assert_eq!((seen, response.text()), ((200, None), *body), "{path}");
                }
            }
            assert_eq!(response.generation(), 1, "{path}");
            assert_eq!(response.header("x-smuggled"), None, "{path}");
            // The others are served after each misdeed, not only at the end.
            host.wait_until("another client's answer", |_| {
                answered.load(Ordering::Relaxed) > before
            });
        }
        assert_eq!(client.get("/get/half").expect("an answer").text(), "");
    });
    for reason in ["trap", "deadline", "memory"] {
        let dropped = format!("ostrakon_instances_dropped_total{{reason=\"{reason}\"}}");
        assert!(host.metric(&dropped) > 0, "none is dropped for {reason}");
    }
    println!(
        "{} misdeeds, {} requests of others meanwhile: 0 failed",
        MISDEEDS.len(),
        2 * requests
    );
}

/// What a guest makes the host do in one call, and the outcome.
struct Attack {
    path: &'static str,
    seen: Seen,
}

const fn attack(path: &'static str, seen: Seen) -> Attack {
    Attack { path, seen }
}

/// The deadline is far more than any of these takes, even on a slow machine.
const OF_BYTES: &[Attack] = &[
    attack("/get-many?partition=large&n=100", MEMORY),
    attack("/get-many?partition=large&n=300", MEMORY),
    attack("/get-many?partition=large&n=900", MEMORY),
    attack("/get-many?partition=large&n=300&access=write", MEMORY),
    attack("/delete-all?access=write&partition=none", MEMORY),
];

/// Each of these exceeds its deadline, even on a fast machine.
const OF_TIME: &[Attack] = &[
    attack("/delete-all?access=write&partition=none&n=600000", DEADLINE),
    attack("/set-all?access=write&partition=none&n=340000", DEADLINE),
    attack("/set-and-delete?access=write&partition=none", DEADLINE),
    attack("/set-tiny?access=write&partition=none", DEADLINE),
];

/// How many calls of one attack run at once.
const AT_ONCE: usize = 4;

/// A value of 9 MiB, read 900 times in one call, once took 5.9 GiB, and 28 s with a deadline of 1
/// s. With 300 reads, other clients waited 3.7 s.
#[test]
fn what_the_host_does_for_a_guest_is_bounded_in_bytes() {
    have_the_host_do(OF_BYTES, Duration::from_secs(1));
}

/// Deleting a million keys once took three times a write's deadline.
#[test]
fn what_the_host_does_for_a_guest_is_bounded_in_time() {
    have_the_host_do(OF_TIME, Duration::from_millis(100));
}

/// Runs each attack alone and then several times at once, while other clients save and load.
#[expect(clippy::print_stdout, reason = "a load test says what it counted")]
fn have_the_host_do(attacks: &[Attack], deadline: Duration) {
    let toml = format!("guest.write_deadline = \"{}ms\"", deadline.as_millis());
    let settings = [("ostrakon.toml", toml.as_str())];
    let shard = Shard::new(&config(&guest("hostile"), &settings));
    let host = shard.start();
    let set = host.client().get("/value?access=write&partition=large");
    assert_eq!(set.expect("an answer").text(), "ok");
    let before = resident(&host);
    let others = Waits::default();
    let load = |client: &mut Client, worker, number| {
        others.of(|| save_and_load(client, worker, number));
    };
    let (requests, ()) = under_load(host.address, 2, load, |_| {
        for attack in attacks {
            let make = || {
                let response = host.client().get(attack.path).expect("an answer");
                let Refusal(status, code) = attack.seen else {
                    unreachable!("none of them succeeds");
                };
                let seen = (response.status, response.header("ostrakon-error"));
                let text = response.text();
                assert_eq!(seen, (status, Some(code)), "{}: {text}", attack.path);
            };
            let (alone, together) = (Waits::default(), Waits::default());
            alone.of(make);
            thread::scope(|scope| {
                for _ in 0..AT_ONCE {
                    scope.spawn(|| together.of(make));
                }
            });
            println!(
                "{}: {:?} of {deadline:?}; {AT_ONCE} at once: {:?}; {} MiB resident at most so far",
                attack.path,
                alone.worst(),
                together.worst(),
                resident(&host),
            );
            // Far more than it takes, even on a busy machine.
            let most = deadline + Duration::from_millis(1500);
            assert!(alone.worst() < most, "{}", attack.path);
        }
    });
    let peak = resident(&host);
    println!(
        "{} attacks, {} requests of others meanwhile: 0 failed, {:?} at most; {before} MiB before, {peak} MiB at most",
        (1 + AT_ONCE) * attacks.len(),
        2 * requests,
        others.worst()
    );
    assert!(others.worst() < Duration::from_secs(3));
    // As in deploy/README.md: an instance for each call, the same again for what the call copies,
    // and the changes of one write.
    let most = before + AT_ONCE * (64 + 64) + 8 * 16;
    assert!(peak < most, "{before} MiB, then {peak} of {most}");
}

/// The longest of many waits.
#[derive(Default)]
struct Waits(AtomicU64);

impl Waits {
    fn of<T>(&self, act: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = act();
        let micros = u64::try_from(began.elapsed().as_micros()).expect("the number is small");
        self.0.fetch_max(micros, Ordering::Relaxed);
        done
    }

    fn worst(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// The peak memory of a host's process, in MiB.
fn resident(host: &Host) -> usize {
    status(host.id(), "VmHWM") >> 20
}

/// Queued writes were once run however many replies were held. Each made a large reply that its
/// client did not read.
#[test]
fn writes_that_wait_are_not_run_where_replies_hold_too_much() {
    const REPLY: usize = 8_000_000;
    const WRITES: usize = 24;
    /// Two replies stay below the bound, and three exceed it.
    const FIT: usize = 3;
    let toml = "[http]\nmax_replies_bytes = '16MiB'\n\
        [guest]\nmax_reply_bytes = '8MiB'\nwrite_deadline = '1s'\n\
        [writer]\nmax_wait = '30s'";
    let host = Shard::new(&config(&guest("hostile"), &[("ostrakon.toml", toml)])).start();
    let ask = |target: &str| {
        let mut stream = TcpStream::connect(host.address).expect("the host accepts connections");
        let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it is asked");
        stream
    };
    // While the bound is exceeded, other clients are answered or refused at once. Before and after,
    // they are answered.
    let (others, refusals) = (Waits::default(), AtomicU64::new(0));
    let load = |client: &mut Client, _: usize, _: u64| {
        let answer = others.of(|| client.get("/label").expect("an answer"));
        if answer.header("ostrakon-error") == Some("replies") {
            refusals.fetch_add(1, Ordering::Relaxed);
        } else {
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    };
    let (requests, (clients, heads)) = under_load(host.address, 2, load, |answered| {
        host.wait_until("others' answers", |_| {
            answered.load(Ordering::Relaxed) > 100
        });
        assert_eq!(refusals.load(Ordering::Relaxed), 0);
        let _busy = ask("/loop?access=write");
        let behind = RefCell::new(Vec::new());
        host.wait_until("the writer is busy", |host| {
            behind.borrow_mut().push(ask("/set/behind/it"));
            host.metric("ostrakon_writer_depth") > 0
        });
        let clients: Vec<_> = (0..WRITES)
            .map(|_| ask(&format!("/reply-enormous?access=write&n={REPLY}")))
            .collect();
        // Reads the head of each reply, and nothing more.
        let heads = clients.iter().map(|mut client| {
            let mut head = [0; 512];
            let read = client.read(&mut head).expect("an answer");
            String::from_utf8_lossy(&head[..read]).into_owned()
        });
        let heads: Vec<_> = heads.collect();
        (clients, heads)
    });
    let begin = |text: &str| heads.iter().filter(|head| head.starts_with(text)).count();
    let (run, refused) = (begin("HTTP/1.1 200 "), begin("HTTP/1.1 503 "));
    // Each thread can finish one more write between two checks of the bound.
    let threads = thread::available_parallelism().map_or(2, usize::from);
    assert!((FIT - 1..=FIT + threads).contains(&run), "{run}: {heads:?}");
    assert_eq!(run + refused, WRITES, "{heads:?}");
    let codes = heads
        .iter()
        .filter(|head| head.contains("ostrakon-error: replies"));
    assert_eq!(codes.count(), refused);
    println!(
        "{WRITES} writes waited: {run} were run, {refused} refused; {requests} of others, 0 failed, {} of \
         them refused for want of room, the worst took {:?}",
        refusals.into_inner(),
        others.worst()
    );
    assert!(others.worst() < Duration::from_secs(3));
    drop(clients);
    host.wait_until("replies are let go", |host| {
        host.client()
            .get("/label")
            .is_ok_and(|reply| reply.status == 200)
    });
    host.stop();
}

#[test]
fn an_instance_that_has_grown_or_has_served_long_is_replaced() {
    let toml = "guest.max_requests_per_instance = 10";
    let host = Shard::new(&config(&guest("hostile"), &[("ostrakon.toml", toml)])).start();
    let mut client = host.client();
    for _ in 0..100 {
        assert_eq!(client.get("/label").expect("an answer").status, 200);
    }
    let dropped = |reason| {
        let series = format!("ostrakon_instances_dropped_total{{reason=\"{reason}\"}}");
        host.metric(&series)
    };
    // One instance existed before, and one more was begun.
    assert!(
        (9..=10).contains(&dropped("requests")),
        "{}",
        dropped("requests")
    );
    drop(client);

    let host = hostile();
    let mut client = host.client();
    for _ in 0..40 {
        assert_eq!(client.get("/leak").expect("an answer").status, 200);
    }
    let series = "ostrakon_instances_dropped_total{reason=\"memory\"}";
    assert!(
        host.metric(series) > 0,
        "no instance was dropped for its 40 MiB"
    );
}

/// A call that was cut off leaves memory in a state in which it must not be reused.
#[test]
fn clients_that_leave_a_call_harm_no_other() {
    let host = hostile();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(host.address).expect("the host accepts connections");
        let request = "GET /loop HTTP/1.1\r\nhost: x\r\n\r\n";
        stream
            .write_all(request.as_bytes())
            .expect("the bytes can be sent");
    }
    let mut client = host.client();
    for number in 0..200 {
        save_and_load(&mut client, 0, number);
    }
}

#[test]
fn what_a_guest_logs_is_bounded_and_cannot_be_taken_for_lines_of_the_host() {
    let host = hostile();
    let mut client = host.client();
    for path in ["/log-flood", "/log-long", "/log-lines"] {
        assert_eq!(client.get(path).expect("an answer").status, 200);
        // Waits for a new second, so that the next attack's log lines have a limit of their own.
        host.wait_until("a line of a new second", |host| {
            let _ = host.client().get("/log-lines");
            let marks = host.log().matches("fake line").count();
            marks > 0
        });
    }
    let dropped = host.metric("ostrakon_log_lines_dropped_total");
    let log = host.stop();
    let floods = log.matches("flood").count();
    assert!(
        (1..=50).contains(&floods),
        "{floods} lines of the flood were logged"
    );
    assert!(dropped >= 9_950, "{dropped} dropped");
    for line in log.lines() {
        let parsed = serde_json::from_str::<serde_json::Value>(line);
        assert!(parsed.is_ok(), "a guest forged a line: {line:?}");
        assert!(line.len() < 8 << 10, "a line of {} bytes", line.len());
    }
    println!("{floods} lines logged, {dropped} dropped and counted");
}

#[test]
fn an_endless_loop_does_not_hold_up_reads() {
    let host = hostile();
    let load = |client: &mut Client, _: usize, _: u64| {
        let response = client.get("/label").expect("an answer");
        assert_eq!(response.status, 200);
    };
    // Replies that other clients got while as many requests as there are processors looped, each
    // for its whole deadline of 1 s.
    let loops = thread::available_parallelism().map_or(2, usize::from);
    for path in ["/loop", "/loop?at=route", "/loop?access=write"] {
        let (_, meanwhile) = under_load(host.address, 2, load, |answered| {
            let before = answered.load(Ordering::Relaxed);
            thread::scope(|scope| {
                for _ in 0..loops {
                    scope.spawn(|| {
                        let response = host.client().get(path).expect("an answer");
                        assert_eq!(response.status, 504, "{path}");
                    });
                }
            });
            answered.load(Ordering::Relaxed) - before
        });
        println!("{meanwhile} reads were answered during {loops} of {path}");
        assert!(meanwhile > 200, "{meanwhile} reads during {path}");
    }
}
