//! Clients that speak h2: they can send many requests at once and read none of the replies.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ostrakon_tests::h2::{HEADERS, RST_STREAM};
use ostrakon_tests::host::{Host, PATIENCE};

use super::large_reads::{greedy, until_answered, worst_of_others};
use super::{check_refused, others_are_served, shard};

/// The replies to `count` requests on an h2 connection of their own. The client accepts one byte of
/// each body.
async fn ask_and_take_nothing(
    host: &Host,
    path: &str,
    count: usize,
) -> Vec<hyper::Response<hyper::body::Incoming>> {
    let stream = tokio::net::TcpStream::connect(host.address).await;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let handshake = builder
        .initial_stream_window_size(1)
        .handshake(TokioIo::new(stream.expect("a connection")));
    let (mut sender, connection) = handshake.await.expect("h2");
    tokio::spawn(connection);
    let mut answers = Vec::new();
    for _ in 0..count {
        let request = Request::get(format!("http://{}{path}", host.address))
            .body(Full::<Bytes>::default())
            .expect("a request");
        sender.ready().await.expect("the connection is open");
        answers.push(sender.send_request(request).await.expect("an answer"));
    }
    answers
}

#[test]
fn replies_that_nobody_takes_are_bounded_and_others_go_on() {
    /// The size of a value. Each reply is slightly larger, because of its headers.
    const VALUE: usize = 60_000;
    const LIMIT: usize = 1 << 20;
    /// The replies that each connection gets: half of the remaining room, which leaves as much for
    /// others.
    const SHARES: [usize; 6] = [8, 4, 2, 1, 1, 1];
    /// The replies that fit in all; then there is no room for another.
    const FIT: usize = LIMIT / VALUE;
    const ASKED: usize = SHARES[0] + 3;
    let limits = "max_replies_bytes = \"1MiB\"\n[guest]\nmax_reply_bytes = \"512KiB\"";
    let host = shard(limits).start();
    let stored = host.client().put("/kv/large", &vec![b'x'; VALUE]).unwrap();
    assert!(stored.status < 300, "{stored:?}");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be created");
    let refused = |answer: &&hyper::Response<_>| {
        let code = answer.headers().get("ostrakon-error");
        assert!(code.is_none_or(|code| answer.status() == 503 && code == "replies"));
        code.is_some()
    };
    let others = |answered: &AtomicU64| {
        // Like a proxy that uses one connection for all its clients: it gets half, and leaves half.
        let mut held = runtime.block_on(ask_and_take_nothing(&host, "/kv/large", ASKED));
        until_answered(&host, answered, 50);
        for share in &SHARES[1..] {
            let more = ask_and_take_nothing(&host, "/kv/large", share + 3);
            held.extend(runtime.block_on(more));
            until_answered(&host, answered, 50);
        }
        held
    };
    let (worst, held) = worst_of_others(&host, others);
    let mut answers = held.iter();
    let fit = SHARES.map(|share| {
        let asked = if share == SHARES[0] { ASKED } else { share + 3 };
        let answers = answers.by_ref().take(asked);
        answers.filter(|answer| !refused(answer)).count()
    });
    assert_eq!((fit, fit.iter().sum::<usize>()), (SHARES, FIT));
    let beyond = runtime.block_on(ask_and_take_nothing(&host, "/kv/large", 1));
    assert!(refused(&&beyond[0]));
    // Writes are run as long as there is any room, and each is answered; then they are refused.
    let mut rest = Vec::new();
    loop {
        let told = runtime.block_on(ask_and_take_nothing(&host, "/save/rest/word", 1));
        if refused(&&told[0]) {
            break;
        }
        rest.extend(told);
        assert!(rest.len() < VALUE / 4, "every response must hold memory");
    }
    for path in ["/load/others", "/save/never/stored"] {
        check_refused(&host.client().get(path).expect("an answer"), 503, "replies");
    }
    let told = rest.len();
    runtime.block_on(async {
        drop(rest);
        // Gives the connections time to tell the host.
        tokio::time::sleep(Duration::from_millis(200)).await;
    });
    // The room that is left is enough for small requests.
    host.wait_until("the end of some", |host| {
        host.client()
            .get("/load/others")
            .is_ok_and(|r| r.status != 503)
    });
    others_are_served(&host);
    drop((held, runtime));
    host.wait_until("the end of all", |host| {
        host.client()
            .get("/kv/large")
            .is_ok_and(|r| r.status == 200)
    });
    assert_ne!(host.client().get("/load/never").unwrap().text(), "stored");
    let refused = host.metric(r#"ostrakon_requests_refused_total{limit="replies"}"#);
    assert!(refused >= (3 * SHARES.len() + 4) as u64, "{refused}");
    println!(
        "{FIT} responses of {VALUE} bytes were held, and {told} of writes; {refused} refused; {worst}"
    );
    host.stop();
}

/// Each reply ends by itself, whatever else its client requests meanwhile.
#[test]
fn answers_that_are_not_taken_are_ended_and_others_go_on() {
    const CLIENTS: usize = 4;
    const ANSWERS: usize = 20;
    let host = shard("idle_timeout = \"1s\"").start();
    let stored = host.client().put("/kv/large", &vec![b'x'; 60_000]).unwrap();
    assert!(stored.status < 300, "{stored:?}");
    let end = || {
        let mut raw = greedy(&host);
        let mut large: Vec<_> = (0..ANSWERS).map(|_| raw.get("/kv/large")).collect();
        let began = Instant::now();
        let mut asked = 0;
        while !large.is_empty() {
            assert!(
                began.elapsed() < PATIENCE,
                "{} responses are held",
                large.len()
            );
            let small = raw.get("/load/other-0");
            raw.send_said().expect("it is sent");
            loop {
                let (kind, stream, _) = raw.next_frame().expect("a frame");
                if kind == RST_STREAM {
                    large.retain(|one| *one != stream);
                } else if (kind, stream) == (HEADERS, small) {
                    break;
                }
            }
            asked += 1;
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(
            began.elapsed() >= Duration::from_secs(1),
            "the streams were reset too early"
        );
        asked
    };
    let (worst, asked) = worst_of_others(&host, |answered| {
        until_answered(&host, answered, 50);
        let asked: Vec<usize> = std::thread::scope(|scope| {
            let clients = [(); CLIENTS].map(|()| scope.spawn(end));
            clients
                .map(|one| one.join().expect("no thread panics"))
                .into()
        });
        until_answered(&host, answered, 50);
        asked.iter().sum::<usize>()
    });
    println!(
        "{} unread responses were reset, while their clients made {asked} more requests; {worst}",
        CLIENTS * ANSWERS
    );
    assert!(worst.took < Duration::from_secs(10), "{worst}");
    host.stop();
}

#[test]
fn h2_with_prior_knowledge_is_served_on_the_same_port() {
    let shard = shard("");
    let host = shard.start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be created");
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(host.address)
            .await
            .expect("the host accepts connections");
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.expect("h2");
        tokio::spawn(connection);
        for action in ["save", "load"] {
            // All of the requests are in flight at once, on one connection.
            let answers: Vec<_> = (0..100)
                .map(|key| {
                    let path = match action {
                        "save" => format!("/save/h2-{key}/word-{key}"),
                        _ => format!("/load/h2-{key}"),
                    };
                    let request = Request::get(format!("http://{}{path}", host.address))
                        .body(Full::<Bytes>::default())
                        .expect("a request");
                    let mut sender = sender.clone();
                    tokio::spawn(async move {
                        sender.ready().await.expect("the connection is open");
                        let answer = sender.send_request(request).await.expect("an answer");
                        let status = answer.status();
                        let body = answer.into_body().collect().await.expect("a body");
                        (status, body.to_bytes())
                    })
                })
                .collect();
            for (key, answer) in answers.into_iter().enumerate() {
                let (status, body) = answer.await.expect("no thread panics");
                assert_eq!(status, 200);
                assert_eq!(body, format!("word-{key}"));
            }
        }
    });
    others_are_served(&host);
    host.stop();
}
