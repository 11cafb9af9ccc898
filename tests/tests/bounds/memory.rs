//! The memory that clients can make a host hold: the worst case of each attack, compared with the
//! maximum in deploy/README.md.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_settings::settings::Settings;
use ostrakon_tests::client::{connect, read_response};
use ostrakon_tests::h2::{
    DATA, END_HEADERS, END_STREAM, HEADERS, Raw, frame, large, many, remembered,
};
use ostrakon_tests::host::{Host, PATIENCE, Shard, config, guest};
use ostrakon_tests::memory::{self, Cgroup, status};

use super::Others;

const MIB: usize = 1 << 20;
const THREADS: usize = 2;
const STORE_CACHE: usize = 16 * MIB;
/// How much more memory a host may hold after an attack than before it: its pools have grown.
const KEPT: usize = memory::BASE / 2;
/// A deployment's settings, scaled down so that the attacks exceed each bound many times.
const SETTINGS: &str = r#"
[http]
max_connections = 200
max_heads_bytes = "8MiB"
max_bodies_bytes = "16MiB"
max_replies_bytes = "16MiB"
header_timeout = "20s"
body_timeout = "20s"
[guest]
max_memory = "16MiB"
max_reply_bytes = "9MiB"
"#;

/// A host that the kernel kills when it exceeds `most` bytes, where this machine supports that.
fn start(attack: &Attack<'_>, most: usize) -> (Shard, Host, Option<Cgroup>) {
    let files = [("ostrakon.toml", attack.settings)];
    let mut shard = Shard::new(&config(&guest(attack.guest), &files));
    shard.arguments = ["--threads", "2", "--store-cache", "16MiB"]
        .map(str::to_owned)
        .into();
    let cgroup = Cgroup::make(most);
    if let Some(cgroup) = &cgroup {
        shard.runner = cgroup.runner();
    }
    let host = shard.start();
    (shard, host, cgroup)
}

/// An attack, and which parts of the formula it uses.
pub(crate) struct Attack<'a> {
    pub(crate) name: &'a str,
    /// The host's settings.
    pub(crate) settings: &'a str,
    /// Number of concurrent connections.
    pub(crate) connections: usize,
    /// Whether it sends bodies, and whether it leaves replies unread.
    pub(crate) bodies: bool,
    pub(crate) replies: bool,
    pub(crate) guest: &'a str,
}

impl<'a> Attack<'a> {
    pub(crate) fn new(name: &'a str) -> Self {
        Self {
            name,
            settings: SETTINGS,
            connections: 190,
            bodies: false,
            replies: false,
            guest: "kv",
        }
    }
}

/// Runs an attack on a host of its own while others make requests. The host's peak must stay below
/// the formula, the increase below the formula's part for the attack, and the increase must be
/// freed afterwards.
pub(crate) fn check(attack: &Attack<'_>, run: impl FnOnce(&Host)) {
    let name = attack.name;
    let mut settings = Settings::parse(attack.settings).expect("they are valid");
    // On some systems the limit also counts what the kernel keeps for connections.
    let limit = memory::of_host(&settings, THREADS, STORE_CACHE);
    let most = memory::of_process(&settings, THREADS, STORE_CACHE);
    let (shard, host, cgroup) = start(attack, limit);
    let words = match attack.guest {
        "hostile" => ["set", "get"],
        _ => ["save", "load"],
    };
    let kept = format!("/{}/kept", words[1]);
    let others = Others::by(&host, words);
    others.warm_up();
    let before = status(host.id(), "VmRSS");
    run(&host);
    others.stop(name);
    let peak = status(host.id(), "VmHWM");
    let mib = |bytes: usize| bytes / MIB;
    // Memory is freed in steps, and the last of it possibly only after the last connection is
    // closed.
    let began = Instant::now();
    let mut after = status(host.id(), "VmRSS");
    while after > before + KEPT && began.elapsed() < PATIENCE {
        // The allocator's threads free memory only when they have work to do.
        host.client().get(&kept).expect("an answer");
        thread::sleep(Duration::from_millis(50));
        after = status(host.id(), "VmRSS");
    }
    settings.http.max_connections = attack.connections + 10;
    if !attack.replies {
        settings.http.max_replies_bytes = 0;
    }
    if !attack.bodies {
        settings.http.max_bodies_bytes = 0;
    }
    let most_added = memory::of_clients(&settings) + KEPT;
    println!(
        "{name}: {} MiB before, {} at most ({} may be added), {} {:?} after its end; the formula says {}, {}",
        mib(before),
        mib(peak),
        mib(most_added),
        mib(after),
        began.elapsed(),
        mib(most),
        if cgroup.is_some() {
            "the host did not run with this limit"
        } else {
            "this machine cannot set a limit"
        },
    );
    assert!(peak <= most, "{name}: {} MiB of {}", mib(peak), mib(most));
    assert!(
        peak <= before + most_added,
        "{name}: {} MiB more than before",
        mib(peak - before)
    );
    assert!(
        after <= before + KEPT,
        "{name}: {} MiB are not released",
        mib(after - before)
    );
    // The attacker is served like any other client afterwards.
    assert_eq!(host.client().get(&kept).expect("an answer").status, 200);
    host.stop();
    if let Some(cgroup) = cgroup {
        assert_eq!(cgroup.killed(), 0, "{name}");
    }
    drop(shard);
}

/// Requests over h2 whose bodies never come: 128 on each of 160 connections, each with this head.
fn streams_without_bodies(name: &str, settings: &str, block: &[u8]) {
    let attack = Attack {
        settings,
        connections: 160,
        ..Attack::new(name)
    };
    check(&attack, |host| {
        let mut held = Vec::new();
        for _ in 0..160 {
            let mut raw = Raw::connect(host.address).expect("a connection");
            // The host may close a connection that asks for too much.
            for _ in 0..128 {
                if raw.request(block, 0).is_err() {
                    break;
                }
            }
            held.push(raw);
        }
        let refused = r#"ostrakon_requests_refused_total{limit="heads"}"#;
        let open = r#"ostrakon_connections{listener="public"}"#;
        // The host closes connections for whose state it has no room.
        host.wait_until("refusals", |host| {
            host.metric(refused) > 100 || host.metric(open) < 100
        });
        println!("{} heads were refused", host.metric(refused));
    });
}

/// The host once grew from 22 to 1,176 MiB, and 1.05 GiB of that was never freed.
#[test]
fn heads_of_h2_whose_bodies_never_come_are_bounded() {
    for (of, settings) in [("", SETTINGS), (", default settings", "")] {
        let name = format!("160 connections of 128 heads of 30 KB{of}");
        streams_without_bodies(&name, settings, &large(30_000));
    }
}

#[test]
fn requests_of_tiny_heads_count_as_what_they_hold() {
    for (of, settings) in [("", SETTINGS), (", default settings", "")] {
        let name = format!("160 connections of 128 tiny heads{of}");
        streams_without_bodies(&name, settings, &large(10));
    }
}

#[test]
fn heads_of_many_short_headers_count_as_what_they_hold() {
    let name = "160 connections of 128 heads of 600 headers";
    streams_without_bodies(name, SETTINGS, &many(600));
}

/// The host once took 1,036 MiB where the formula allowed 530.
#[test]
fn heads_and_bodies_of_thousands_of_http1_clients_are_bounded() {
    const CLIENTS: usize = 9_900;
    let attack = Attack {
        settings: "",
        connections: CLIENTS,
        bodies: true,
        ..Attack::new("9,900 clients with 31 KB of head and 23 KB of body")
    };
    check(&attack, |host| {
        let sent = [head(31_000, 8_000_000), vec![b'z'; 23_000]].concat();
        let mut held = Vec::new();
        while held.len() < CLIENTS {
            match TcpStream::connect(host.address) {
                Ok(mut stream) => {
                    // The host may close a connection that it refuses before everything is sent.
                    let _sent = stream.write_all(&sent);
                    held.push(stream);
                }
                // The limit on open files of the test process may be lower. The well-behaved
                // clients need some, too.
                Err(error) => {
                    println!("{} clients and no more: {error}", held.len());
                    held.truncate(held.len() - 100);
                    break;
                }
            }
        }
        let refused = r#"ostrakon_requests_refused_total{limit="heads"}"#;
        host.wait_until("refusals", |host| host.metric(refused) > 100);
        println!("{} heads were refused", host.metric(refused));
    });
}

/// Whether the host has read everything that was sent to it, according to the kernel's table of
/// connections.
pub(crate) fn is_read(host: &Host) -> bool {
    let port = format!(":{:04X}", host.address.port());
    let table = fs::read_to_string("/proc/net/tcp").expect("the file can be read");
    table.lines().skip(1).all(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let (unsent, unread) = words[4].split_once(':').expect("two numbers");
        let is_host = words[1].ends_with(&port) && unread != "00000000";
        let is_client = words[2].ends_with(&port) && unsent != "00000000";
        !is_host && !is_client
    })
}

/// A head of this length, for a request with a body of `body` bytes.
fn head(length: usize, body: usize) -> Vec<u8> {
    let filler = "y".repeat(length);
    let head = format!(
        "PUT /kv/x HTTP/1.1\r\nhost: x\r\nx-large: {filler}\r\ncontent-length: {body}\r\n\r\n"
    );
    head.into_bytes()
}

#[test]
fn header_blocks_that_never_end_are_bounded() {
    check(&Attack::new("150 header blocks without an end"), |host| {
        let mut held = Vec::new();
        for _ in 0..150 {
            let mut raw = Raw::connect(host.address).expect("a connection");
            let _sent = raw.begin(&many(900));
            held.push(raw);
        }
        host.wait_until("the end of those for which there is no room", |host| {
            host.metric("ostrakon_connections{listener=\"public\"}") < 100
        });
    });
}

#[test]
fn what_h2_clients_have_remembered_is_bounded() {
    check(&Attack::new("150 tables of 107 addresses"), |host| {
        let mut held = Vec::new();
        for _ in 0..150 {
            let mut raw = Raw::connect(host.address).expect("a connection");
            for number in 0..107 {
                let sent = raw
                    .request(&remembered(number), 0)
                    .and_then(|stream| raw.frame(DATA, 1, stream, b""));
                if sent.is_err() {
                    break;
                }
            }
            held.push(raw);
        }
    });
}

/// h2's own tables grow with the number of open requests, and do not shrink.
#[test]
fn what_h2_keeps_after_many_requests_is_bounded() {
    check(
        &Attack::new("190 idle connections that had 128 requests at once"),
        |host| {
            let request = frame(HEADERS, END_HEADERS | END_STREAM, 0, &large(10));
            let mut held = Vec::new();
            for _ in 0..190 {
                let mut raw = Raw::connect(host.address).expect("a connection");
                let all: Vec<_> = (0..128_u32)
                    .flat_map(|number| {
                        let mut request = request.clone();
                        request[5..9].copy_from_slice(&(2 * number + 1).to_be_bytes());
                        request
                    })
                    .collect();
                let _sent = raw.send(&all);
                held.push(raw);
            }
            host.wait_until("the end of those for which there is no room", |host| {
                host.metric("ostrakon_connections{listener=\"public\"}") < 60
            });
            // The host soon closes the remaining connections, because they are idle.
            host.wait_until("the end of all", |host| {
                host.metric("ostrakon_connections{listener=\"public\"}") < 10
            });
        },
    );
}

#[test]
fn heads_and_bodies_of_http1_are_bounded() {
    let attack = Attack {
        bodies: true,
        ..Attack::new("190 heads of 31 KB with bodies of 1 MB in part")
    };
    check(&attack, |host| {
        let sent = [head(31_000, 1_000_000), vec![b'z'; 900_000]].concat();
        let mut held = Vec::new();
        for _ in 0..190 {
            let mut stream =
                TcpStream::connect(host.address).expect("the host accepts connections");
            stream
                .set_write_timeout(Some(Duration::from_secs(5)))
                .expect("the timeout can be set");
            let _sent = stream.write_all(&sent);
            held.push(stream);
        }
        let refused = r#"ostrakon_requests_refused_total{limit="bodies"}"#;
        host.wait_until("refusals", |host| host.metric(refused) > 20);
    });
}

#[test]
fn heads_of_http1_that_are_not_whole_are_bounded() {
    let name = "190 parts of heads of 31 KB, and 190 idle ones that had such";
    check(&Attack::new(name), |host| {
        for end in ["", "\r\n\r\n"] {
            let head = format!(
                "GET /load/x HTTP/1.1\r\nhost: x\r\nx-large: {}{end}",
                "y".repeat(31_000)
            );
            let mut held = Vec::new();
            for _ in 0..190 {
                let mut stream =
                    TcpStream::connect(host.address).expect("the host accepts connections");
                let _sent = stream.write_all(head.as_bytes());
                held.push(stream);
            }
            host.wait_until("all of it", is_read);
        }
    });
}

/// The part of a head that arrives together with the request before it was counted neither then nor
/// later.
#[test]
fn heads_of_http1_behind_other_requests_are_bounded() {
    const CONNECTIONS: usize = 190;
    let load = "GET /load/x HTTP/1.1\r\nhost: x\r\n";
    let large = "y".repeat(30_000);
    for (before, body) in [
        ("a request", String::new()),
        ("a body", "content-length: 2000\r\n".to_owned()),
    ] {
        let name = format!("{CONNECTIONS} parts of heads of 31 KB, each behind {before}");
        check(&Attack::new(&name), |host| {
            let first = format!("{load}{body}\r\n");
            let body = "z".repeat(if body.is_empty() { 0 } else { 2000 });
            // As much behind the request as the host reads at once; then the rest of the head
            // except its end.
            let part = format!("{load}x-large: {large}");
            let (with, later) = part.split_at(14_000 - body.len());
            let mut held = Vec::new();
            for _ in 0..CONNECTIONS {
                let mut stream =
                    TcpStream::connect(host.address).expect("the host accepts connections");
                let _sent = stream.write_all(format!("{first}{body}{with}").as_bytes());
                held.push(stream);
            }
            host.wait_until("all of it", is_read);
            for mut stream in &held {
                let _sent = stream.write_all(later.as_bytes());
            }
            // All the heads together exceed the bound.
            let refused = r#"ostrakon_requests_refused_total{limit="heads"}"#;
            host.wait_until("refusals", |host| host.metric(refused) > 20);
            println!("{} heads were refused", host.metric(refused));
        });
    }
}

/// Reply heads that wait for an h2 client that reads nothing were not counted at all.
#[test]
fn reply_headers_that_nobody_takes_are_bounded() {
    const CONNECTIONS: usize = 160;
    let name = format!("{CONNECTIONS} connections of 128 answers with 30 KB of headers");
    let attack = Attack {
        connections: CONNECTIONS,
        replies: true,
        guest: "hostile",
        ..Attack::new(&name)
    };
    check(&attack, |host| {
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut raw = Raw::connect(host.address).expect("a connection");
            // The first replies fill the buffers on the way to the client, and the others wait.
            for _ in 0..128 {
                raw.get("/header-enormous?n=30000");
            }
            raw.send_said().expect("it is sent");
            held.push(raw);
        }
        let refused = r#"ostrakon_requests_refused_total{limit="replies"}"#;
        // The two other clients may each have a request in flight. How many answers the system's buffers
        // take on the way differs from run to run.
        host.wait_until("refusals", |host| {
            host.metric("ostrakon_requests_in_flight") <= 2 && host.metric(refused) > 0
        });
        println!("{} answers were refused", host.metric(refused));
    });
}

/// The framing of a body in chunks of one byte was counted as head.
#[test]
fn bodies_of_tiny_chunks_count_as_bodies_and_hold_nobody_up() {
    const CONNECTIONS: usize = 150;
    const BODIES: usize = 3;
    let name = format!("{CONNECTIONS} connections of {BODIES} bodies of 5,000 chunks of a byte");
    let attack = Attack {
        bodies: true,
        ..Attack::new(&name)
    };
    check(&attack, |host| {
        let head = b"PUT /kv/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
        let body = [&head[..], &b"1\r\nx\r\n".repeat(5_000), b"0\r\n\r\n"].concat();
        thread::scope(|scope| {
            for _ in 0..CONNECTIONS {
                scope.spawn(|| {
                    let mut stream = connect(host.address).expect("a connection");
                    for _ in 0..BODIES {
                        stream
                            .get_mut()
                            .write_all(&body)
                            .expect("the bytes can be sent");
                        let answer = read_response(&mut stream, false).expect("an answer");
                        assert!(answer.status < 300, "{answer:?}");
                    }
                });
            }
        });
        let refused = r#"ostrakon_requests_refused_total{limit="heads"}"#;
        assert_eq!(host.metric(refused), 0);
    });
}

#[test]
fn bodies_that_drip_on_h2_end_and_their_streams_with_them() {
    let settings = SETTINGS.replace("20s", "1s");
    let shard = Shard::new(&config(&guest("kv"), &[("ostrakon.toml", &settings)]));
    let host = shard.start();
    let others = Others::start(&host);
    let mut raw = Raw::connect(host.address).expect("a connection");
    let streams: Vec<_> = (0..100)
        .map(|_| raw.request(&large(100), 0).expect("it is sent"))
        .collect();
    let refused = r#"ostrakon_requests_refused_total{limit="body_time"}"#;
    let began = Instant::now();
    while host.metric(refused) < 100 {
        assert!(began.elapsed() < PATIENCE, "{} ended", host.metric(refused));
        for stream in &streams {
            let _sent = raw.frame(DATA, 0, *stream, b"x");
        }
        thread::sleep(Duration::from_millis(100));
    }
    println!("100 streams that dripped ended after {:?}", began.elapsed());
    others.stop("100 streams drip");
    host.stop();
}
