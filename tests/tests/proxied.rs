//! Shards behind nginx: an early refusal reaches the client, and the proxy does not count it as a
//! failure of the shard, which would harm other clients.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_tests::client::{Client, Response};
use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::host::{CANARY, Files, config, guest};
use ostrakon_tests::nginx::Nginx;

const MIB: usize = 1024 * 1024;
const TOKEN: &str = "token-0123456789abcdef";

/// nginx with its defaults, and nginx with kept connections and without request buffering.
const KINDS: [(&str, &str); 2] = [
    ("", ""),
    (
        "keepalive 8;",
        "proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_request_buffering off;",
    ),
];

/// Sends requests that are all answered 200 while `refused` runs. None of them may fail.
fn while_others_ask(
    address: SocketAddr,
    client: impl Fn() -> Client + Sync,
    refused: impl FnOnce(),
) -> (usize, Duration) {
    assert_eq!(
        client().get("/save/others/word").expect("an answer").status,
        200
    );
    let over = AtomicBool::new(false);
    let (mut count, mut worst) = (0, Duration::ZERO);
    thread::scope(|scope| {
        let others: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let (mut count, mut worst) = (0, Duration::ZERO);
                    let mut client = client();
                    while !over.load(Ordering::Relaxed) {
                        let began = Instant::now();
                        let answer = client.get("/load/others");
                        let answer = answer.unwrap_or_else(|error| panic!("{address}: {error}"));
                        assert_eq!((answer.status, answer.text()), (200, "word"), "{answer:?}");
                        worst = worst.max(began.elapsed());
                        count += 1;
                    }
                    (count, worst)
                })
            })
            .collect();
        refused();
        over.store(true, Ordering::Relaxed);
        for other in others {
            let (asked, longest) = other.join().expect("none of the others' requests fails");
            count += asked;
            worst = worst.max(longest);
        }
    });
    (count, worst)
}

#[track_caller]
fn check(answer: &Response, status: u16, code: &str) {
    let said = (answer.status, answer.header("ostrakon-error"));
    assert_eq!(said, (status, Some(code)), "{answer:?}");
}

#[test]
fn a_body_that_is_too_large_is_answered_413_and_no_shard_is_taken_for_broken() {
    let cluster = Cluster::start(
        71,
        2,
        2,
        &config(
            &guest("kv"),
            &[("ostrakon.toml", "[cluster]\nshards = 2\n")],
        ),
    );
    let servers: Vec<_> = cluster.hosts.iter().map(|host| host.address).collect();
    for (at, (upstream, location)) in (100..).zip(KINDS) {
        let address = SocketAddr::from(([127, 7, 71, at], 8080));
        let nginx = Nginx::start(address, &servers, upstream, location);
        let (others, worst) = while_others_ask(
            address,
            || Client::new(address),
            || {
                for length in [9 * MIB, 9 * MIB, 40 * MIB, 9 * MIB] {
                    let body = vec![b'x'; length];
                    let answer = Client::new(address).put("/kv/large", &body);
                    check(&answer.expect("an answer"), 413, "body-size");
                }
            },
        );
        assert!(!nginx.log().contains("[error]"), "{}", nginx.log());
        println!(
            "{upstream:?}: 4 bodies refused, {others} requests of others, 0 failed, the worst took {worst:?}"
        );
    }
}

#[test]
fn a_missing_token_is_answered_401_though_its_body_is_long() {
    let secret = Files::from([
        ("canary-of-all".to_owned(), CANARY.into()),
        ("client-tokens".to_owned(), TOKEN.into()),
    ]);
    let files = config(
        &guest("kv"),
        &[("ostrakon.toml", "[cluster]\nshards = 2\n")],
    );
    let cluster = Cluster::start_with(72, 2, 2, &files, &secret);
    let servers: Vec<_> = cluster.hosts.iter().map(|host| host.address).collect();
    for (at, (upstream, location)) in (100..).zip(KINDS) {
        let address = SocketAddr::from(([127, 7, 72, at], 8080));
        let nginx = Nginx::start(address, &servers, upstream, location);
        let client = || Client::new(address).with_token(TOKEN);
        let (others, worst) = while_others_ask(address, client, || {
            let body = vec![b'x'; 4 * MIB];
            for _ in 0..20 {
                let answer = Client::new(address).put("/kv/large", &body);
                check(&answer.expect("an answer"), 401, "no-token");
            }
        });
        assert!(!nginx.log().contains("[error]"), "{}", nginx.log());
        println!(
            "{upstream:?}: 20 of 20 were refused, {others} requests of others, 0 failed, the worst took {worst:?}"
        );
    }
}
