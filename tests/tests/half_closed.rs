//! Clients that close their sending side after their request, as `nc -N` does, still get their
//! reply.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, SystemTime};

use ostrakon_test_support::certificates::Authority;
use ostrakon_tests::client::{Response, connect, read_response};
use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::host::{CANARY, Files, Shard, config, guest};
use ostrakon_tests::tls;
use rustls::{ClientConnection, StreamOwned};

/// Reads `count` replies, and then the end of the stream.
#[track_caller]
fn answers(stream: impl Read, count: usize) -> Vec<Response> {
    let mut stream = BufReader::new(stream);
    let answers = (0..count).map(|_| read_response(&mut stream, false).expect("an answer"));
    let answers: Vec<_> = answers.collect();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("a clean end");
    assert_eq!(rest, b"");
    answers
}

#[track_caller]
fn ask(address: SocketAddr, request: &str, count: usize) -> Vec<Response> {
    let mut stream = connect(address).expect("a connection").into_inner();
    stream
        .write_all(request.as_bytes())
        .expect("the bytes can be sent");
    stream.shutdown(Shutdown::Write).expect("it is closed");
    answers(stream, count)
}

fn put(key: &str) -> String {
    format!("PUT /kv/{key} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1")
}

#[test]
fn each_request_is_answered_and_each_write_stored_on_all_shards_and_ports() {
    let files = config(
        &guest("kv"),
        &[("ostrakon.toml", "[cluster]\nshards = 3\n")],
    );
    let cluster = Cluster::start(73, 3, 3, &files);
    let mut count = 0;
    // Two of three keys belong to another shard, so their requests are forwarded.
    for (number, host) in (0..60).zip(cluster.hosts.iter().cycle()) {
        let key = format!("half-{number}");
        let answer = &ask(host.address, &put(&key), 1)[0];
        assert_eq!(answer.status, 201, "{answer:?}");
        let both = format!("{}GET /kv/{key} HTTP/1.1\r\nhost: x\r\n\r\n", put(&key));
        let both = ask(host.address, &both, 2);
        assert_eq!((both[0].status, both[1].text()), (204, "1"));
        let read = cluster.hosts[0].client().get(&format!("/kv/{key}"));
        assert_eq!(read.expect("an answer").text(), "1", "{key} is stored");
        count += 4;
    }
    for host in &cluster.hosts {
        for path in ["/livez", "/metrics", "/status"] {
            let answer = &ask(
                host.admin,
                &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"),
                1,
            )[0];
            assert_eq!(answer.status, 200, "{path}");
            count += 1;
        }
    }
    println!("{count} requests, 0 failed");
}

#[test]
fn over_tls_too_whether_its_end_is_told_or_not() {
    let authority = Authority::new("public");
    let issued = authority.issue(
        &["127.0.0.1".to_owned()],
        SystemTime::now() + Duration::from_hours(1),
    );
    let mut shard = Shard::new(&config(&guest("kv"), &[]));
    let files = Files::from([
        ("canary-of-all".to_owned(), CANARY.into()),
        ("tls.crt".to_owned(), issued.certificate.as_bytes().to_vec()),
        ("tls.key".to_owned(), issued.key.as_bytes().to_vec()),
    ]);
    shard.secrets.publish(&files).expect("published");
    let host = shard.start();
    let client = tls::client(&authority, None, b"http/1.1");
    for number in 0..20 {
        for is_told in [true, false] {
            let socket = connect(host.address).expect("a connection").into_inner();
            let name = host.address.ip().into();
            let connection = ClientConnection::new(client.clone(), name).expect("a client");
            let mut stream = StreamOwned::new(connection, socket);
            let key = format!("tls-{number}-{is_told}");
            stream
                .write_all(put(&key).as_bytes())
                .expect("the bytes can be sent");
            if is_told {
                stream.conn.send_close_notify();
            }
            stream.flush().expect("it is sent");
            let socket: &TcpStream = &stream.sock;
            socket.shutdown(Shutdown::Write).expect("it is closed");
            let answer = read_response(&mut BufReader::new(&mut stream), false);
            let answer = answer.unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!(answer.status, 201, "{answer:?}");
        }
    }
    println!("40 requests, 0 failed");
    host.stop();
}
