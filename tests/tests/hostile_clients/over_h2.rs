//! Clients that speak h2: they can ask for much at once and take none of it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ostrakon_tests::host::Host;

use super::{check_refused, others_are_served, shard};

/// The answers to so many requests on an h2 connection of their own: of each body, one byte may be
/// sent.
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
    const VALUE: usize = 60_000;
    const LIMIT: usize = 1 << 20;
    /// In all, and of one connection.
    const FIT: usize = LIMIT / VALUE;
    const SHARE: usize = LIMIT / 4 / VALUE;
    const CONNECTIONS: usize = FIT / SHARE + 1;
    const ASKED: usize = SHARE + 3;
    let limits = "max_replies_bytes = \"1MiB\"\n[guest]\nmax_reply_bytes = \"512KiB\"";
    let host = shard(limits).start();
    for (key, length) in [("large", VALUE), ("rest", LIMIT - FIT * VALUE)] {
        let value = vec![b'x'; length];
        let stored = host.client().put(&format!("/kv/{key}"), &value).unwrap();
        assert!(stored.status < 300, "{stored:?}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let (held, rest) = runtime.block_on(async {
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            held.extend(ask_and_take_nothing(&host, "/kv/large", ASKED).await);
        }
        (held, ask_and_take_nothing(&host, "/kv/rest", 1).await)
    });
    let refused = |answer: &&hyper::Response<_>| {
        let code = answer.headers().get("ostrakon-error");
        assert!(code.is_none_or(|code| answer.status() == 503 && code == "replies"));
        code.is_some()
    };
    // Each connection has its share of it, and the last one what was left.
    let connections = held.chunks(ASKED);
    let fit = connections.map(|answers| ASKED - answers.iter().filter(refused).count());
    let mut expected = [SHARE; CONNECTIONS];
    expected[CONNECTIONS - 1] = FIT - SHARE * (CONNECTIONS - 1);
    assert_eq!(fit.collect::<Vec<_>>(), expected);
    // All is held now, to the last byte: nothing is run any more that would have to be told of.
    assert!(!refused(&&rest[0]));
    for path in ["/load/others", "/save/never/stored"] {
        check_refused(&host.client().get(path).expect("an answer"), 503, "replies");
    }
    runtime.block_on(async {
        drop(rest);
        // Its connection says so.
        tokio::time::sleep(Duration::from_millis(200)).await;
    });
    // What is left is enough for those that ask for little.
    host.wait_until("the end of one", |host| {
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
    assert!(
        refused >= (CONNECTIONS * ASKED - FIT + 2) as u64,
        "{refused}"
    );
    println!("{FIT} replies of {VALUE} bytes were held, {refused} refused");
    host.stop();
}

#[test]
fn h2_with_prior_knowledge_is_served_on_the_same_port() {
    let shard = shard("");
    let host = shard.start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(host.address)
            .await
            .expect("a connection");
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.expect("h2");
        tokio::spawn(connection);
        for action in ["save", "load"] {
            // All of them are under way at once, on one connection.
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
                let (status, body) = answer.await.expect("no panic");
                assert_eq!(status, 200);
                assert_eq!(body, format!("word-{key}"));
            }
        }
    });
    others_are_served(&host);
    host.stop();
}
