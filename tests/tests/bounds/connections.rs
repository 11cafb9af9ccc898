//! What a connection takes of memory, by what its client does: deploy/README.md says the most.

use std::io::{Read as _, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use ostrakon_test_support::certificates::Authority;
use ostrakon_tests::client::Client;
use ostrakon_tests::host::{CANARY, Files, Host, Shard, config, guest};
use ostrakon_tests::{memory, tls};

use super::memory::{is_read, status};
use super::raw::{END_STREAM, Raw, large};

/// How many of each kind there are.
const COUNT: usize = 1_000;
const ASK: &[u8] = b"GET /load/x HTTP/1.1\r\nhost: x\r\n\r\n";

/// Opens so many connections of a kind, which are held until what they take is known.
fn check<C>(host: &Host, kind: &str, connect: impl Fn() -> C) {
    let before = status(host, "VmRSS:");
    let held: Vec<_> = (0..COUNT).map(|_| connect()).collect();
    host.wait_until("all of it", |host| {
        is_read(host)
            && host.metric("ostrakon_requests_in_flight") == 0
            && host.metric("ostrakon_connections{listener=\"public\"}") >= COUNT as u64
    });
    let each = status(host, "VmRSS:").saturating_sub(before) / COUNT;
    let most = memory::CONNECTION;
    println!("{kind}: {} of {} KiB", each >> 10, most >> 10);
    assert!(each <= most, "{kind}: {each} bytes");
    drop(held);
    host.wait_until("the end of all", |host| {
        host.metric("ostrakon_connections{listener=\"public\"}") == 0
    });
}

fn plain(host: &Host, bytes: &[u8], is_answered: bool) -> TcpStream {
    let mut stream = TcpStream::connect(host.address).expect("a connection");
    stream.write_all(bytes).expect("it is sent");
    if is_answered {
        assert_ne!(stream.read(&mut [0; 1024]).expect("an answer"), 0);
    }
    stream
}

/// Each on a host of its own: what one kind has taken and given back would be taken again.
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
        // What more of them at once keep is counted apart.
        check(&host, kind, || {
            let mut raw = Raw::connect(host.address).expect("a connection");
            for _ in 0..streams {
                raw.request(&large(10), flags).expect("it is sent");
            }
            raw
        });
        host.stop();
    }
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
