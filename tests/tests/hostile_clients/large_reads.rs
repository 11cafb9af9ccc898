//! Clients that ask for much at once on one connection: others take turns with them, and what is
//! not wanted any more is not run.

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ostrakon_tests::client::{Client, connect};
use ostrakon_tests::host::{Host, Shard, config, guest};
use ostrakon_tests::load::under_load;

pub(super) const LARGE: usize = 8 << 20;
/// As many as an h2 connection may have open.
pub(super) const STREAMS: usize = 128;

const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;

/// An h2 connection that is said what no good client says, by a client that takes no byte of any
/// body.
pub(super) struct Raw {
    stream: BufReader<TcpStream>,
    to_send: Vec<u8>,
    next: u32,
}

impl Raw {
    pub(super) fn open(host: &Host) -> Self {
        let mut raw = Self {
            stream: connect(host.address).expect("a connection"),
            to_send: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            next: 1,
        };
        // Of a body, no byte may be sent.
        raw.frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
        raw
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("it is short");
        self.to_send.extend_from_slice(&length.to_be_bytes()[1..]);
        self.to_send.extend_from_slice(&[kind, flags]);
        self.to_send.extend_from_slice(&stream.to_be_bytes());
        self.to_send.extend_from_slice(payload);
    }

    /// `GET path`, on a stream of its own.
    pub(super) fn get(&mut self, path: &str) -> u32 {
        // GET, http, and the authority and path as they are.
        let mut block = vec![0x82, 0x86, 0x01, 1, b'a', 0x04];
        block.push(u8::try_from(path.len()).expect("it is short"));
        block.extend_from_slice(path.as_bytes());
        let stream = self.next;
        self.next += 2;
        self.frame(HEADERS, 0x5, stream, &block);
        stream
    }

    /// Takes a request back.
    fn reset(&mut self, stream: u32) {
        self.frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    }

    /// Sends what was said; whether the host still takes it.
    pub(super) fn send(&mut self) -> bool {
        let sent = std::mem::take(&mut self.to_send);
        self.stream.get_mut().write_all(&sent).is_ok()
    }

    /// Waits for so many answers; gives how many are 200.
    pub(super) fn answers(&mut self, count: usize) -> usize {
        self.answers_if_any(count).expect("a frame")
    }

    /// The same of a host that may have had enough of this client, and have left it.
    fn answers_if_any(&mut self, count: usize) -> io::Result<usize> {
        let (mut answers, mut good) = (0, 0);
        while answers < count {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head)?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.stream.read_exact(&mut payload)?;
            if head[3] == HEADERS {
                answers += 1;
                // 200 has a number of its own.
                good += usize::from(payload[0] == 0x88);
            }
        }
        Ok(good)
    }
}

/// A shard of a guest, with the settings that it has by itself.
fn shard_of(name: &str) -> Shard {
    Shard::new(&config(&guest(name), &[]))
}

/// What others wait for at most, who save and load while something goes on, and are all answered
/// well.
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

/// What others waited for.
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

/// Waits until others were answered so many times more.
pub(super) fn until_answered(host: &Host, answered: &AtomicU64, more: u64) {
    let enough = answered.load(Ordering::Relaxed) + more;
    host.wait_until("others' answers", |_| {
        answered.load(Ordering::Relaxed) >= enough
    });
}

/// The metric of calls of `handle`.
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
            let mut attackers: Vec<_> = (0..connections).map(|_| Raw::open(&host)).collect();
            for raw in &mut attackers {
                for _ in 0..STREAMS {
                    raw.get("/kv/large");
                }
                assert!(raw.send());
            }
            let good: usize = attackers.iter_mut().map(|raw| raw.answers(STREAMS)).sum();
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
            "{took:?}, alone {alone:?}"
        );
        println!("{} calls of the guest", handled(&host) - before);
        // It can be asked again as soon as they are gone.
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
    let mut greedy = Raw::open(&host);
    for _ in 0..60 {
        greedy.get("/loop");
    }
    assert!(greedy.send());
    host.wait_until("its reads to wait", |host| {
        host.metric("ostrakon_slow_reads_total") == 60
    });
    // It would wait for a second, and be refused, behind the others'.
    let mut other = host.client();
    let answer = other.get("/loop").expect("an answer");
    check_run(&answer);
    assert_eq!(other.get("/get/a").expect("an answer").status, 200);
    drop(greedy);
    settled(&host);
    println!("60 slow reads of one connection, and 1 of another that is run meanwhile");
    host.stop();
}

/// It was run for as long as it may be.
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

    // Reads: all are tried for a moment, one at a time is run for a second.
    let mut client = Raw::open(&host);
    for _ in 0..ASKED {
        client.get("/loop");
    }
    assert!(client.send());
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

    // Writes: the lane runs each for 250 ms.
    let before = handled(&host);
    let mut client = Raw::open(&host);
    for _ in 0..ASKED {
        client.get("/loop?access=write");
    }
    assert!(client.send());
    host.wait_until("its writes to wait", |host| {
        host.metric("ostrakon_lane_depth") >= ASKED - 3
    });
    // Sent by itself, so that it comes after those: streams of one moment may overtake each other.
    client.get("/set/last/stored");
    assert!(client.send());
    host.wait_until("the last to wait, too", |host| {
        // In this order none is counted twice; one is being run.
        let run = handled(host) - before;
        run + host.metric("ostrakon_lane_depth") >= ASKED
    });
    drop(client);
    settled(&host);
    host.wait_until("the lane's end", |host| {
        host.metric("ostrakon_lane_depth") == 0
    });
    let (run, writes_gone) = (handled(&host) - before, gone(&host) - reads_gone);
    println!("writes: {writes_gone} of {} not run", ASKED + 1);
    assert_eq!(run + writes_gone, ASKED + 1);
    assert!(writes_gone >= ASKED / 2, "{writes_gone}");
    let answer = host.client().get("/get/last").expect("an answer");
    assert_ne!(
        answer.text(),
        "stored",
        "it came last, and nobody waited for it"
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
            let mut raw = Raw::open(&host);
            // In one go, or after they have come, until the host has had enough of it.
            let at_once = connection % 2 == 0;
            for _ in 0..ROUNDS {
                let streams: Vec<_> = (0..100).map(|_| raw.get("/kv/large")).collect();
                if !(at_once || raw.send() && raw.answers_if_any(1).is_ok()) {
                    break;
                }
                for stream in streams {
                    raw.reset(stream);
                }
                sent += 100;
                if !raw.send() {
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
    assert_eq!(host.metric("ostrakon_lane_depth"), 0);
    let large = host.client().get("/kv/large").expect("an answer");
    assert_eq!((large.status, large.body.len()), (200, LARGE));
    host.stop();
}
