//! Memory per connection, by what its client does. deploy/README.md states the maximum.

use std::io::{Read as _, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ostrakon_test_support::certificates::Authority;
use ostrakon_tests::client::Client;
use ostrakon_tests::h2::{END_STREAM, Raw, large};
use ostrakon_tests::host::{CANARY, Files, Host, Shard, config, guest};
use ostrakon_tests::memory::Socket;
use ostrakon_tests::{memory, tls};
use socket2::{Domain, Type};

use super::Others;
use super::memory::is_read;

/// Number of connections of each kind.
const COUNT: usize = 1_000;
const ASK: &[u8] = b"GET /load/x HTTP/1.1\r\nhost: x\r\n\r\n";

/// Opens `COUNT` connections of a kind and holds them until their memory is measured.
fn check<C>(host: &Host, kind: &str, connect: impl Fn() -> C) {
    let before = memory::status(host.id(), "VmRSS");
    let held: Vec<_> = (0..COUNT).map(|_| connect()).collect();
    host.wait_until("all of it", |host| {
        is_read(host)
            && host.metric("ostrakon_requests_in_flight") == 0
            && host.metric("ostrakon_connections{listener=\"public\"}") >= COUNT as u64
    });
    let each = memory::status(host.id(), "VmRSS").saturating_sub(before) / COUNT;
    let most = memory::CONNECTION;
    println!("{kind}: {} of {} KiB", each >> 10, most >> 10);
    assert!(each <= most, "{kind}: {each} bytes");
    drop(held);
    host.wait_until("the end of all", |host| {
        host.metric("ostrakon_connections{listener=\"public\"}") == 0
    });
}

fn plain(host: &Host, bytes: &[u8], is_answered: bool) -> TcpStream {
    let mut stream = TcpStream::connect(host.address).expect("the host accepts connections");
    stream.write_all(bytes).expect("the bytes can be sent");
    if is_answered {
        assert_ne!(stream.read(&mut [0; 1024]).expect("an answer"), 0);
    }
    stream
}

/// Each kind has a host of its own: memory that one kind had freed would be reused by the next.
#[test]
fn a_connection_takes_no_more_than_the_formula_says() {
    let settings = (
        "ostrakon.toml",
        "[http]\nheader_timeout = \"10m\"\nbody_timeout = \"10m\"\nmax_heads_bytes = \"1GiB\"",
    );
    let files = config(&guest("kv"), &[settings]);
    let part = [
        b"GET / HTTP/1.1\r\nhost: x\r\nx-large: ".as_slice(),
        &[b'y'; 15_000],
    ]
    .concat();
    let with_body = b"PUT /kv/x HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n";
    let cases: &[(&str, &[u8], bool)] = &[
        ("HTTP/1, silent", b"", false),
        ("HTTP/1, idle", ASK, true),
        ("HTTP/1, 15 KB of a head", &part, false),
        ("HTTP/1, a body that does not come", with_body, false),
    ];
    for (kind, bytes, is_answered) in cases {
        let host = Shard::new(&files).start();
        check(&host, kind, || plain(&host, bytes, *is_answered));
        host.stop();
    }
    for (kind, streams, flags) in [
        ("h2, without a request", 0, 0),
        ("h2, idle after a request", 1, END_STREAM),
        ("h2, idle after 8 requests", 8, END_STREAM),
    ] {
        let host = Shard::new(&files).start();
        // Memory for further concurrent streams is counted separately.
        check(&host, kind, || {
            let mut raw = Raw::connect(host.address).expect("a connection");
            for _ in 0..streams {
                raw.request(&large(10), flags).expect("it is sent");
            }
            raw
        });
        host.stop();
    }
    // HTTP's buffers grow to the largest reply head, and stay that large.
    let hostile = config(&guest("hostile"), &[settings]);
    let path = "/header-enormous?n=30000";
    let host = Shard::new(&hostile).start();
    check(&host, "HTTP/1, idle after 30 KB of reply headers", || {
        let mut client = host.client();
        let answer = client.get(path).expect("an answer");
        assert_eq!(answer.header("x-long").map(str::len), Some(30_000));
        client
    });
    host.stop();
    let host = Shard::new(&hostile).start();
    check(&host, "h2, idle after 30 KB of reply headers", || {
        let mut raw = Raw::connect(host.address).expect("a connection");
        raw.get(path);
        raw.send_said().expect("it is sent");
        raw.answers(1).expect("an answer");
        raw
    });
    host.stop();
    let authority = Authority::new("a");
    let in_a_day = SystemTime::now() + Duration::from_hours(24);
    let issued = authority.issue(&["127.0.0.1".to_owned()], in_a_day);
    let mut shard = Shard::new(&files);
    let secrets = Files::from([
        ("canary-of-all".to_owned(), CANARY.into()),
        ("tls.crt".to_owned(), issued.certificate.into_bytes()),
        ("tls.key".to_owned(), issued.key.into_bytes()),
    ]);
    shard.secrets.publish(&secrets).expect("published");
    let host = shard.start();
    let client = tls::client(&authority, None, b"http/1.1");
    check(&host, "HTTPS, idle", || {
        let mut client = Client::new(host.address).over_tls(client.clone());
        let answer = client.get("/load/x").expect("an answer");
        assert!(answer.status < 500, "{answer:?}");
        client
    });
    host.stop();
}

/// A client that sends requests until nothing more can be sent, and reads no reply. All buffers on
/// the way fill up.
fn fill(mut stream: TcpStream, bytes: &[u8]) -> TcpStream {
    stream.set_nonblocking(true).expect("it can be");
    let full = Duration::from_millis(200);
    let mut since = Instant::now();
    for _ in 0..500_000 {
        if stream.write(bytes).is_ok() {
            since = Instant::now();
        } else if since.elapsed() > full {
            break;
        } else {
            thread::sleep(Duration::from_millis(1));
        }
    }
    stream
}

/// A connection whose client's system takes little before the client reads.
fn small_window(host: &Host) -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_recv_buffer_size(4096)?;
    socket.connect(&host.address.into())?;
    Ok(socket.into())
}

/// A name, how a client of this kind connects, and the bytes that it then sends repeatedly.
type Kind<'a> = (&'a str, &'a (dyn Fn() -> TcpStream + Sync), &'a [u8]);

/// The kernel kept megabytes for a connection, and the formula did not count them.
#[test]
fn what_the_system_keeps_for_a_connection_is_no_more_than_the_formula_says() {
    const CLIENTS: usize = 20;
    const VALUE: usize = 4 << 20;
    let host = Shard::new(&config(&guest("kv"), &[])).start();
    let stored = host.client().put("/kv/large", &vec![b'x'; VALUE]);
    assert_eq!(stored.expect("an answer").status, 201);
    let ask = b"GET /kv/large HTTP/1.1\r\nhost: x\r\n\r\n";
    let fresh = || TcpStream::connect(host.address).expect("the host accepts connections");
    // The kernel grows the buffers of a connection that has sent and received much.
    let used = || {
        let mut stream = fresh();
        let head = format!("PUT /kv/used HTTP/1.1\r\nhost: x\r\ncontent-length: {VALUE}\r\n\r\n");
        stream
            .write_all(head.as_bytes())
            .expect("the bytes can be sent");
        stream.write_all(&vec![b'x'; VALUE]).expect("it is sent");
        stream.write_all(ask).expect("the bytes can be sent");
        let mut taken = 0;
        while taken < VALUE {
            taken += stream.read(&mut vec![0; 1 << 20]).expect("an answer");
        }
        stream
    };
    let others = Others::start(&host);
    others.warm_up();
    let cases: [Kind<'_>; 3] = [
        ("that ask on", &fresh, &ask.repeat(1000)),
        ("that had much before", &used, &ask.repeat(1000)),
        ("that ask byte by byte", &fresh, b"\n"),
    ];
    for (kind, connect, bytes) in cases {
        let held: Vec<_> = thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    scope.spawn(|| {
                        let mut stream = connect();
                        stream.set_nodelay(true).expect("it can be");
                        stream.write_all(ask).expect("the bytes can be sent");
                        fill(stream, bytes)
                    })
                })
                .collect();
            let held = clients
                .into_iter()
                .map(|one| one.join().expect("no thread panics"));
            held.collect()
        });
        let sockets = Socket::accepted_at(host.address.port());
        assert!(sockets.len() >= CLIENTS, "{}", sockets.len());
        let most = |of: fn(&Socket) -> usize| sockets.iter().map(of).max().expect("there is one");
        let (kept, most) = (most(|one| one.kept), most(|one| one.most));
        println!(
            "{CLIENTS} clients {kind}: {} KiB buffered for one, {} at most, of {}",
            kept >> 10,
            most >> 10,
            memory::SOCKET >> 10
        );
        assert!(kept > 64 << 10, "{kind}: nothing was buffered");
        assert!(kept <= memory::SOCKET && most <= memory::SOCKET, "{kind}");
        drop(held);
    }
    others.stop("clients that take nothing and send on");
    host.stop();
}

/// Regression: the kernel kept up to 192 KiB for each connection that was closed to make room, for
/// minutes, and the formula did not count them.
#[test]
fn what_closed_connections_leave_with_the_system_is_within_the_formula() {
    const PLACES: usize = 16;
    const CLIENTS: usize = 240;
    // One in eight more may have been told to end.
    const MOST: usize = (PLACES + PLACES / 8) * memory::SOCKET;
    let settings = (
        "ostrakon.toml",
        "[http]\nmax_connections = 16\nbody_timeout = \"500ms\"",
    );
    let host = Shard::new(&config(&guest("kv"), &[settings])).start();
    let stored = host.client().put("/kv/much", &vec![b'x'; 120 << 10]);
    assert_eq!(stored.expect("an answer").status, 201);
    let ask = b"GET /kv/much HTTP/1.1\r\nhost: x\r\n\r\n";
    let began = Instant::now();
    let (mut held, mut most, mut refused) = (Vec::new(), 0, 0);
    while held.len() < CLIENTS {
        let asking = small_window(&host).map(|mut stream| {
            let sent = stream.write_all(ask);
            let timeout = Some(Duration::from_secs(30));
            stream.set_read_timeout(timeout).expect("it can be set");
            let mut start = [0; 12];
            (sent.is_ok() && stream.read_exact(&mut start).is_ok()).then_some((stream, start))
        });
        match asking.expect("the host accepts connections") {
            Some((stream, start)) if start.ends_with(b"200") => held.push(stream),
            // All have begun to take an answer a moment ago.
            Some(_) | None => {
                refused += 1;
                thread::sleep(Duration::from_millis(10));
            }
        }
        let kept = Socket::accepted_at(host.address.port());
        most = most.max(kept.iter().map(|socket| socket.kept).sum());
        assert!(
            began.elapsed() < Duration::from_mins(2),
            "{} came in",
            held.len()
        );
    }
    println!(
        "{CLIENTS} clients that take nothing, {refused} more refused, over {PLACES} places: {} of {} KiB in the kernel at most",
        most >> 10,
        MOST >> 10
    );
    assert!(most > PLACES * (64 << 10), "nothing was held: {most} bytes");
    assert!(most <= MOST, "{most} bytes");
    drop(held);
    host.stop();
}
