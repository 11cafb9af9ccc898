//! Clients that are slow, too large, too many, not HTTP, or gone: the replies that each gets, and
//! that others are served meanwhile.

mod large_reads;
mod over_h2;
mod through_shards;

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ostrakon_tests::client::{Response, connect, read_response};
use ostrakon_tests::host::{Host, PATIENCE, Shard, config, guest};

/// How long the hosts here wait for a slow client.
const SHORT: Duration = Duration::from_secs(1);
const MAX_HEADERS: usize = 8 * 1024;
const MAX_BODY: usize = 64 * 1024;

/// A shard of the key/value guest with small limits, and further lines of `[http]`.
fn shard(more: &str) -> Shard {
    let settings = format!(
        "[http]\nmax_header_bytes = \"8KiB\"\nmax_body_bytes = \"64KiB\"\nheader_timeout = \"1s\"\n\
         body_timeout = \"1s\"\n{more}"
    );
    Shard::new(&config(&guest("kv"), &[("ostrakon.toml", &settings)]))
}

/// Checks that well-behaved clients can save and load on connections of their own.
#[track_caller]
fn others_are_served(host: &Host) {
    let mut clients = [host.client(), host.client()];
    let began = Instant::now();
    for round in 0..25 {
        let word = format!("word-{round}");
        let [one, other] = &mut clients;
        let saved = one.get(&format!("/save/others/{word}")).expect("an answer");
        assert_eq!((saved.status, saved.text()), (200, word.as_str()));
        let loaded = other.get("/load/others").expect("an answer");
        assert_eq!((loaded.status, loaded.text()), (200, word.as_str()));
    }
    // They are served in their turn, not after the hostile clients.
    let took = began.elapsed();
    assert!(took < 25 * SHORT, "50 requests took {took:?}");
}

/// Reads the reply of a connection that the host then closes.
#[track_caller]
fn last_answer(mut stream: BufReader<TcpStream>) -> Response {
    let response = read_response(&mut stream, false).expect("an answer");
    assert_eq!(response.header("connection"), Some("close"), "{response:?}");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("a clean end");
    assert_eq!(rest, b"", "after {response:?}");
    response
}

#[track_caller]
fn check_refused(response: &Response, status: u16, code: &str) {
    let found = (response.status, response.header("ostrakon-error"));
    assert_eq!(found, (status, Some(code)), "{response:?}");
}

fn open(host: &Host, bytes: &[u8]) -> BufReader<TcpStream> {
    let mut stream = connect(host.address).expect("a connection");
    stream
        .get_mut()
        .write_all(bytes)
        .expect("the bytes can be sent");
    stream
}

/// Sends a byte every 20 ms until the host answers, which must be soon after `SHORT`.
#[track_caller]
fn drip(mut streams: Vec<BufReader<TcpStream>>) -> Vec<Response> {
    let began = Instant::now();
    for stream in &streams {
        let pace =
            Duration::from_millis(20) / u32::try_from(streams.len()).expect("the number is small");
        stream
            .get_ref()
            .set_read_timeout(Some(pace))
            .expect("the timeout can be set");
    }
    let mut answers = Vec::new();
    while !streams.is_empty() {
        assert!(began.elapsed() < PATIENCE, "the slow requests do not end");
        let mut waiting = Vec::new();
        for mut stream in streams {
            // The host may just have closed the connection, with its reply on the way.
            let _ = stream.get_mut().write_all(b"x");
            match stream.get_ref().peek(&mut [0]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => waiting.push(stream),
                _ => {
                    stream
                        .get_ref()
                        .set_read_timeout(Some(PATIENCE))
                        .expect("the timeout can be set");
                    answers.push(read_response(&mut stream, false).expect("an answer"));
                }
            }
        }
        streams = waiting;
    }
    answers
}

#[test]
fn headers_that_come_byte_by_byte_are_answered_408() {
    let shard = shard("");
    let host = shard.start();
    let began = Instant::now();
    let slow: Vec<_> = (0..20)
        .map(|_| open(&host, b"GET /load/a HTTP/1.1\r\nhost: a\r\nx-slow: "))
        .collect();
    others_are_served(&host);
    for answer in drip(slow) {
        check_refused(&answer, 408, "header-time");
    }
    assert!(began.elapsed() >= SHORT);
    others_are_served(&host);
    assert_eq!(
        host.metric("ostrakon_requests_refused_total{limit=\"header_time\"}"),
        20
    );
    host.stop();
}

#[test]
fn a_body_that_comes_byte_by_byte_is_answered_408_and_not_stored() {
    let shard = shard("");
    let host = shard.start();
    let slow: Vec<_> = (0..20)
        .map(|client| {
            let head = format!(
                "PUT /kv/slow-{client} HTTP/1.1\r\nhost: a\r\ncontent-length: 60000\r\n\r\n"
            );
            open(&host, head.as_bytes())
        })
        .collect();
    others_are_served(&host);
    for answer in drip(slow) {
        check_refused(&answer, 408, "body-time");
    }
    others_are_served(&host);
    let mut client = host.client();
    let keys = client.get("/allKeys").expect("an answer");
    assert_eq!(keys.text(), "others");
    host.stop();
}

#[test]
fn a_connection_that_says_nothing_is_closed_after_the_idle_time() {
    let shard = shard("idle_timeout = \"1s\"\n");
    let host = shard.start();
    let began = Instant::now();
    let mut silent = open(&host, b"");
    let mut used = open(&host, b"GET /load/a HTTP/1.1\r\nhost: a\r\n\r\n");
    read_response(&mut used, false).expect("an answer");
    others_are_served(&host);
    for stream in [&mut silent, &mut used] {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("a clean end");
        assert_eq!(rest, b"");
        assert!(began.elapsed() >= SHORT);
    }
    others_are_served(&host);
    host.stop();
}

#[test]
fn headers_and_bodies_over_their_limit_are_answered_431_and_413_however_they_are_sent() {
    let shard = shard("");
    let host = shard.start();

    for size in [MAX_HEADERS + 1, 512 * 1024] {
        let filler = "x".repeat(size);
        let head = format!("GET /load/a HTTP/1.1\r\nhost: a\r\nx-large: {filler}\r\n\r\n");
        let mut stream = connect(host.address).expect("a connection");
        // The host need not read everything.
        let _ = stream.get_mut().write_all(head.as_bytes());
        check_refused(&last_answer(stream), 431, "header-size");
        others_are_served(&host);
    }

    let put = "PUT /kv/large HTTP/1.1\r\nhost: a\r\n";
    // Refused for its `content-length`, before the body is sent.
    let stream = open(
        &host,
        format!("{put}content-length: 99999999999\r\n\r\n").as_bytes(),
    );
    check_refused(&last_answer(stream), 413, "body-size");
    // One byte more than allowed, and no `content-length`.
    let chunk = format!("{MAX_BODY:x}\r\n{}\r\n1\r\ny\r\n", "x".repeat(MAX_BODY));
    let stream = open(
        &host,
        format!("{put}transfer-encoding: chunked\r\n\r\n{chunk}").as_bytes(),
    );
    check_refused(&last_answer(stream), 413, "body-size");
    others_are_served(&host);

    // Requests exactly at the limits are allowed.
    let mut client = host.client();
    assert_eq!(
        client.get("/kv/large").expect("an answer").status,
        404,
        "the value must not be stored"
    );
    let body = vec![b'x'; MAX_BODY];
    assert_eq!(
        client.put("/kv/large", &body).expect("an answer").status,
        201
    );
    assert!(client.get("/kv/large").expect("an answer").body == body);
    host.stop();
}

#[test]
fn two_thousand_idle_connections_hold_nobody_up() {
    let shard = shard("idle_timeout = \"5m\"\n");
    let host = shard.start();
    let mut idle: Vec<_> = (0..2000)
        .map(|client| {
            let mut stream = connect(host.address).expect("a connection");
            // Half of the connections have been used before.
            if client % 2 == 0 {
                ask(&mut stream, "/load/idle").expect("an answer");
            }
            stream
        })
        .collect();
    host.wait_until("2,000 connections", |host| {
        host.metric("ostrakon_connections{listener=\"public\"}") >= 2000
    });
    others_are_served(&host);
    for stream in &mut idle {
        let response = ask(stream, "/load/others").expect("an answer");
        assert_eq!(response.text(), "word-24");
    }
    println!("2,000 idle connections, each of them still good");
    drop(idle);
    others_are_served(&host);
    host.stop();
}

fn ask(stream: &mut BufReader<TcpStream>, path: &str) -> io::Result<Response> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes())?;
    read_response(stream, false)
}

#[test]
fn what_is_not_http_is_answered_400_and_closed() {
    let shard = shard("");
    let host = shard.start();
    let cases: &[&[u8]] = &[
        b"\r\n\r\nnothing at all\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: a\r\n\r\n",
        b"GET / \xff\xfe\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client says hello",
        b"GET / HTTP/1.1\r\nhost: a\r\nno colon here\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nsp ace: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nnul: \0\r\n\r\n",
        b"PUT /kv/bad HTTP/1.1\r\nhost: a\r\ncontent-length: many\r\n\r\n",
        b"PUT /kv/bad HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"PUT /kv/bad HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"PUT /kv/bad HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\nab",
        b"PUT /kv/bad HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nnot a length\r\n",
        b"PUT /kv/bad HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        b"GET * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    ];
    for case in cases {
        let response = last_answer(open(&host, case));
        let shown = String::from_utf8_lossy(case);
        assert_eq!(response.status, 400, "{shown:?}: {response:?}");
        assert_eq!(
            response.header("ostrakon-error"),
            Some("bad-request"),
            "{shown:?}"
        );
    }
    others_are_served(&host);
    let keys = host.client().get("/allKeys").expect("an answer");
    assert_eq!(keys.text(), "others", "a bad request stored something");
    println!("{} kinds of what is not HTTP", cases.len());
    host.stop();
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let shard = shard("");
    let host = shard.start();
    let pairs: Vec<String> = (0..200)
        .map(|word| {
            format!(
                "GET /save/pipe/{word} HTTP/1.1\r\nhost: a\r\n\r\n\
                 GET /load/pipe HTTP/1.1\r\nhost: a\r\n\r\n"
            )
        })
        .collect();
    let requests = pairs.concat();
    let mut stream = open(&host, requests.as_bytes());
    others_are_served(&host);
    for word in 0..200 {
        for what in ["saved", "loaded"] {
            let response = read_response(&mut stream, false).expect("an answer");
            assert_eq!(response.status, 200);
            assert_eq!(response.text(), word.to_string(), "{what}");
        }
    }
    host.stop();
}

#[test]
fn a_client_that_goes_in_mid_write_leaves_the_whole_of_it_or_nothing() {
    let shard = shard("");
    let host = shard.start();
    let body = |letter: u8| vec![letter; MAX_BODY];
    let mut client = host.client();
    let put = client.put("/kv/cut", &body(b'a')).expect("an answer");
    assert_eq!(put.status, 201);
    let (mut before, mut stored) = (b'a', 0);
    // The body of a complete request consists of one lower-case letter, that of a partial one of
    // capitals.
    let mut check = |host: &Host, round: usize| {
        let seen = host.client().get("/kv/cut").expect("an answer").body;
        let letter = seen[0];
        assert!(
            letter.is_ascii_lowercase(),
            "round {round}: only a part is stored"
        );
        assert!(seen == body(letter), "round {round}: a mix is stored");
        stored += usize::from(letter != before);
        before = letter;
    };
    for round in 0..100 {
        let whole = round % 4 != 0;
        let letter = u8::try_from(round % 25).expect("a letter");
        let body = body(letter + if whole { b'b' } else { b'B' });
        let head = format!("PUT /kv/cut HTTP/1.1\r\nhost: a\r\ncontent-length: {MAX_BODY}\r\n\r\n");
        let sent = [head.as_bytes(), &body].concat();
        let missing = if whole { 0 } else { 1 + round * 500 };
        drop(open(&host, &sent[..sent.len() - missing]));
        if round % 10 == 0 {
            others_are_served(&host);
        }
        check(&host, round);
        // The writer works first in, first out, so most of the writes before this one are done when
        // it is.
        client.get("/save/flush/x").expect("an answer");
        check(&host, round);
    }
    host.stop();
    let host = shard.start();
    check(&host, 100);
    println!("100 clients gone in mid-write: {stored} writes stored whole, none in part");
    host.stop();
}

#[test]
fn connections_over_the_limit_get_the_places_of_idle_ones() {
    let shard = shard("max_connections = 20\n");
    let host = shard.start();
    let mut held: Vec<_> = (0..20).map(|_| open(&host, b"")).collect();
    for stream in &mut held {
        ask(stream, "/save/held/x").expect("an answer");
    }
    let mut new: Vec<_> = (0..10).map(|_| open(&host, b"")).collect();
    for stream in &mut new {
        assert_eq!(ask(stream, "/load/held").expect("an answer").text(), "x");
    }
    // Only the oldest connections were closed, and cleanly.
    for (at, stream) in held.iter_mut().enumerate() {
        if at < 10 {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).expect("a clean end");
            assert_eq!(rest, b"", "client {at}");
        } else {
            assert_eq!(ask(stream, "/load/held").expect("an answer").text(), "x");
        }
    }
    let refused = host.metric("ostrakon_connections_refused_total{listener=\"public\"}");
    assert_eq!(refused, 0);
    others_are_served(&host);
    host.stop();
}

#[test]
fn connections_over_the_limit_are_answered_503_where_all_have_requests_and_those_go_on() {
    const ANSWERS: usize = 300;
    let settings = ("ostrakon.toml", "[http]\nmax_connections = 20\n");
    let shard = Shard::new(&config(&guest("kv"), &[settings]));
    let host = shard.start();
    let large = vec![b'x'; MAX_BODY];
    host.client().put("/kv/large", &large).expect("an answer");
    // More replies than the kernel buffers, so the host is in the middle of sending them.
    let asked = b"GET /kv/large HTTP/1.1\r\nhost: a\r\n\r\n".repeat(ANSWERS);
    let mut held: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = open(&host, &asked);
            read_response(&mut stream, false).expect("an answer");
            stream
        })
        .collect();
    for _ in 0..10 {
        let refused = last_answer(open(&host, b""));
        check_refused(&refused, 503, "connections");
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    for stream in &mut held {
        for _ in 1..ANSWERS {
            let answer = read_response(stream, false).expect("an answer");
            assert!(answer.status == 200 && answer.body == large);
        }
    }
    // Connections that have become idle make room.
    others_are_served(&host);
    host.stop();
}
