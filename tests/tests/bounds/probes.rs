//! The admin port while other clients hold all of its connections.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ostrakon_tests::host::{Host, Shard, config, guest};
use ostrakon_tests::memory::{self, ADMIN_CONNECTIONS, Socket, status};

use super::{Others, TOO_LONG};

/// As many connections as the port allows, and more.
const HELD: [usize; 2] = [ADMIN_CONNECTIONS, 400];

/// Sends probes and scrapes, each on a connection of its own, as the kubelet and Prometheus do.
#[track_caller]
fn probes_are_answered(host: &Host, count: usize, held: &str) {
    let mut worst = Duration::ZERO;
    for _ in 0..25 {
        for path in ["/livez", "/readyz", "/metrics"] {
            let began = Instant::now();
            let answer = host.admin("GET", path).expect("an answer");
            assert_eq!(answer.status, 200, "{held}: {path}: {answer:?}");
            worst = worst.max(began.elapsed());
        }
    }
    println!("{count} {held}: 75 probes, 0 failed, the worst wait {worst:?}");
    assert!(worst < TOO_LONG, "{held}: {worst:?}");
}

#[test]
fn probes_are_answered_whatever_holds_the_admin_port() {
    let shard = Shard::new(&config(&guest("kv"), &[]));
    let host = shard.start();
    let others = Others::start(&host);
    let metrics = b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n";
    let many = metrics.repeat(200);
    let cases: &[(&str, &[u8], bool)] = &[
        ("silent connections", b"", false),
        (
            "connections with a part of a head",
            b"GET /livez HTTP/1.1\r\nhost: ",
            false,
        ),
        (
            "idle connections",
            b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n",
            true,
        ),
        ("connections that take no answer", &many, false),
    ];
    let each = HELD
        .iter()
        .flat_map(|count| cases.iter().map(move |case| (*count, case)));
    for (count, (held, bytes, answered)) in each {
        let mut streams = Vec::new();
        for _ in 0..count {
            let Ok(mut stream) = TcpStream::connect(host.admin) else {
                continue;
            };
            let timeout = Some(Duration::from_millis(20));
            stream
                .set_write_timeout(timeout)
                .expect("the timeout can be set");
            // The oldest connections are closed in favour of the newest.
            let _sent = stream.write_all(bytes);
            if *answered {
                let _answered = stream.read(&mut [0]);
            }
            streams.push(stream);
        }
        probes_are_answered(&host, count, held);
        drop(streams);
    }
    others.stop("the admin port is held");
    host.stop();
}

#[test]
fn a_client_of_the_admin_port_that_says_nothing_is_closed_after_a_few_seconds() {
    let shard = Shard::new(&config(&guest("kv"), &[]));
    let host = shard.start();
    let mut silent = TcpStream::connect(host.admin).expect("the host accepts connections");
    silent
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("the timeout can be set");
    let began = Instant::now();
    assert_eq!(silent.read(&mut [0]).expect("a clean end"), 0);
    println!("closed after {:?}", began.elapsed());
    host.stop();
}

/// Sends these bytes on each connection, reads nothing, and returns the connections.
fn hold(host: &Host, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(host.admin).expect("a connection");
        let timeout = Some(Duration::from_millis(20));
        stream.set_write_timeout(timeout).expect("a timeout");
        // The host may refuse the connection or stop reading.
        let _sent = stream.write_all(bytes);
        held.push(stream);
    }
    held
}

#[test]
fn clients_of_the_admin_port_take_no_more_than_the_formula_says() {
    let part_of_a_head = [
        b"GET /livez HTTP/1.1\r\nhost: a\r\nx: ".as_slice(),
        &[b'y'; 15_000],
    ];
    let scrape = b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n";
    let component = b"POST /plan?shards=3 HTTP/1.1\r\nhost: a\r\ncontent-length: 4000000\r\n\r\n";
    let component = [component.as_slice(), &vec![b'z'; 3_900_000]];
    for (name, bytes) in [
        ("long heads", part_of_a_head.concat()),
        ("scrapes that are not read", scrape.repeat(2_000)),
        ("components that do not end", component.concat()),
    ] {
        let host = Shard::new(&config(&guest("kv"), &[])).start();
        let others = Others::start(&host);
        others.warm_up();
        let before = status(host.id(), "VmRSS");
        let held = hold(&host, 6 * ADMIN_CONNECTIONS, &bytes);
        // Connections that were evicted may take a moment to end, in the kernel too; those that are
        // not read stay open for longer than this waits.
        host.wait_until("an end of those beyond the limit", |host| {
            host.metric("ostrakon_connections{listener=\"admin\"}") <= ADMIN_CONNECTIONS as u64
        });
        let sockets = Socket::accepted_at(host.admin.port());
        probes_are_answered(&host, held.len(), name);
        others.stop(name);
        let added = status(host.id(), "VmHWM").saturating_sub(before);
        let kernel: usize = sockets.iter().map(|socket| socket.kept).sum();
        println!(
            "{name}: {} of {} KiB in the process, {} KiB in the kernel for {} connections",
            added >> 10,
            memory::ADMIN >> 10,
            kernel >> 10,
            sockets.len()
        );
        assert!(added <= memory::ADMIN, "{name}: {added} bytes");
        assert!(
            kernel <= ADMIN_CONNECTIONS * memory::SOCKET,
            "{name}: {kernel} bytes in the kernel"
        );
        host.stop();
    }
}
