//! The limits on clients: bytes, times and connections.

use super::*;

#[tokio::test]
async fn headers_that_are_too_large_are_answered_431() {
    let server = Running::new(Limits {
        max_header_bytes: 1024,
        ..patient()
    });
    let line = format!(
        "GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n",
        "y".repeat(100_000)
    );
    check_refusal(
        &server.exchange(line.as_bytes()).await,
        refusals::HEADER_SIZE,
    );
    let just_fits = format!(
        "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: {}\r\n\r\n",
        "y".repeat(900)
    );
    assert!(
        server
            .exchange(just_fits.as_bytes())
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert!(
        server
            .metrics
            .render()
            .contains(r#"requests_refused_total{limit="header_size"} 1"#)
    );

    let request = Request::get("http://x/")
        .header("x", "y".repeat(1_500))
        .body(Full::default())
        .unwrap();
    let response = server.h2().await.send_request(request).await.unwrap();
    assert_eq!(response.status(), 431);
    server.is_well().await;
    server.stop().await;
}

#[tokio::test]
async fn headers_that_drip_are_answered_408_though_each_byte_is_in_time() {
    let server = Running::new(Limits {
        header_timeout: Duration::from_millis(200),
        ..patient()
    });
    for beginning in ["G", "GET / HTTP/1.1\r\n", "PRI * HTT"] {
        let (mut read, mut write) = server.connect().await.into_split();
        let drip = tokio::spawn(async move {
            write.write_all(beginning.as_bytes()).await.unwrap();
            let mut every = tokio::time::interval(Duration::from_millis(20));
            loop {
                every.tick().await;
                if write.write_all(b"a").await.is_err() {
                    return;
                }
            }
        });
        let mut answer = String::new();
        // If the server has already closed the connection, the dripping client gets a reset before
        // it reads the answer.
        let _closed_or_reset = timeout(PATIENCE, read.read_to_string(&mut answer))
            .await
            .unwrap();
        drip.abort();
        if beginning != "PRI * HTT" {
            check_refusal(&answer, refusals::HEADER_TIME);
        }
    }
    server.is_well().await;
    server.stop().await;
}

#[tokio::test]
async fn the_second_requests_headers_have_a_deadline_too() {
    let server = Running::new(Limits {
        header_timeout: SHORT,
        ..patient()
    });
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    read_answer(&mut stream, 8).await;
    stream.write_all(b"GET /2").await.unwrap();
    check_refusal(&read_to_end(&mut stream).await, refusals::HEADER_TIME);
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_is_said_to_be_too_large_is_refused_before_it_is_sent() {
    let server = Running::new(Limits {
        max_body_bytes: 10,
        ..patient()
    });
    let head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 11\r\nexpect: 100-continue\r\n\r\n";
    check_refusal(&server.exchange(head).await, refusals::BODY_SIZE);
    let fits =
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\nconnection: close\r\n\r\n0123456789";
    assert!(server.exchange(fits).await.ends_with("POST / 10"));
    assert!(
        server
            .metrics
            .render()
            .contains(r#"requests_refused_total{limit="body_size"} 1"#)
    );
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_turns_out_too_large_is_refused_though_it_is_still_sent() {
    let server = Running::new(Limits {
        max_body_bytes: 10,
        ..patient()
    });
    let mut chunks = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..10_000 {
        chunks.extend_from_slice(b"4\r\nabcd\r\n");
    }
    chunks.extend_from_slice(b"0\r\n\r\n");
    check_refusal(&server.exchange(&chunks).await, refusals::BODY_SIZE);

    let body = Full::new(Bytes::from(vec![0; 5_000_000]));
    let request = Request::post("http://x/").body(body).unwrap();
    let response = server.h2().await.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(response.headers()["ostrakon-error"], "body-size");
    server.stop().await;
}

/// Regression: the framing of chunks was counted as part of a head. A connection that uploaded in
/// small chunks was refused, and others with it, for as long as it lived.
#[tokio::test]
async fn small_chunks_do_not_count_as_heads() {
    let server = Running::new(Limits {
        // Less than the smallest amount by which a connection's buffer is counted.
        max_heads_bytes: 16 * 1024,
        ..patient()
    });
    // Much more than one read returns.
    let upload = chunked("/", 10_000);
    let mut stream = server.connect().await;
    for _ in 0..5 {
        stream.write_all(&upload).await.unwrap();
        let answer = read_answer(&mut stream, "POST / 10000".len()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("POST / 10000"), "{answer}");
        server.is_well().await;
    }
    server.stop().await;
}

/// The same for the body of a refused request, which the server reads and discards.
#[tokio::test]
async fn small_chunks_of_a_refused_request_do_not_count_as_heads() {
    let server = Running::new(Limits {
        max_heads_bytes: 16 * 1024,
        ..patient()
    });
    let upload = chunked("/refused", 4_000);
    let mut stream = server.connect().await;
    for _ in 0..10 {
        stream.write_all(&upload).await.unwrap();
        let answer = read_answer(&mut stream, SHUTTING_DOWN.text().len()).await;
        assert!(answer.contains("ostrakon-error: shutting-down"), "{answer}");
        // A busy machine may not have read the body within the short time allowed.
        if answer.contains("connection: close") {
            stream = server.connect().await;
        }
    }
    let of_heads = r#"requests_refused_total{limit="heads"} 0"#;
    assert!(server.metrics.render().contains(of_heads));
    server.stop().await;
}

/// A request whose body has this many chunks of one byte.
fn chunked(path: &str, chunks: usize) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    format!("{head}{}0\r\n\r\n", "1\r\na\r\n".repeat(chunks)).into_bytes()
}

/// The parts of a body that are not data are limited, too.
#[tokio::test]
async fn a_flood_of_chunk_extensions_or_trailers_is_refused() {
    let server = Running::new(patient());
    let head = "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let long = "y".repeat(200_000);
    let floods = [
        format!("{head}1;{long}\r\na\r\n0\r\n\r\n"),
        format!("{head}{}0\r\n\r\n", "1;abcdefgh\r\na\r\n".repeat(20_000)),
        format!("{head}1\r\na\r\n0\r\nx: {long}\r\n\r\n"),
        format!("{head}1\r\na\r\n0\r\n{}\r\n", "x: y\r\n".repeat(20_000)),
    ];
    for flood in floods {
        check_refusal(
            &server.exchange(flood.as_bytes()).await,
            refusals::BAD_REQUEST,
        );
    }
    server.is_well().await;
    server.stop().await;
}

#[tokio::test]
async fn bodies_that_are_too_large_together_are_refused_until_others_are_done() {
    let server = Running::new(Limits {
        max_bodies_bytes: 10,
        ..patient()
    });
    let mut held = server.connect().await;
    held.write_all(b"POST /wait HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\n012345")
        .await
        .unwrap();
    server.handler.entered.notified().await;
    let post = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nconnection: close\r\n\r\n01234";
    check_refusal(&server.exchange(post).await, refusals::BODIES);
    server.handler.release.notify_one();
    read_answer(&mut held, "POST /wait 6".len()).await;
    assert!(server.exchange(post).await.ends_with("POST / 5"));
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_answered_408() {
    let server = Running::new(Limits {
        body_timeout: SHORT,
        ..patient()
    });
    let answer = server
        .exchange(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab")
        .await;
    check_refusal(&answer, refusals::BODY_TIME);
    server.stop().await;
}

#[tokio::test]
async fn idle_connections_are_closed_of_either_protocol_used_or_not() {
    let server = Running::new(Limits {
        first_byte_timeout: SHORT,
        idle_timeout: SHORT,
        ..patient()
    });
    let mut silent = server.connect().await;
    assert_eq!(read_to_end(&mut silent).await, "");

    let mut used = server.connect().await;
    used.write_all(b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    read_answer(&mut used, 8).await;
    assert_eq!(read_to_end(&mut used).await, "");

    let io = TokioIo::new(server.connect().await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    let over = tokio::spawn(connection);
    let request = Request::get("http://x/1")
        .body(Full::<Bytes>::default())
        .unwrap();
    sender.send_request(request).await.unwrap();
    timeout(PATIENCE, over)
        .await
        .expect("the server closes")
        .unwrap()
        .unwrap();

    let mut mute = server.connect().await;
    mute.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut frames = Vec::new();
    timeout(PATIENCE, mute.read_to_end(&mut frames))
        .await
        .expect("the server closes")
        .unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answers_is_cut() {
    let server = Running::new(Limits {
        idle_timeout: SHORT,
        ..patient()
    });
    let mut stream = server.connect().await;
    let requests = b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
    // Writes until the server cuts the connection, which shows as a reset.
    let cut = timeout(PATIENCE, async {
        while stream.write_all(&requests).await.is_ok() {}
    })
    .await;
    assert!(cut.is_ok(), "the server closes");
    server.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so_and_the_limit_is_live() {
    let server = Running::new(Limits {
        max_connections: 2,
        ..patient()
    });
    let mut busy = Vec::new();
    for _ in 0..2 {
        busy.push(server.wait().await);
    }
    let answer = server.exchange(b"GET /2 HTTP/1.1\r\nhost: x\r\n\r\n").await;
    check_refusal(&answer, refusals::CONNECTIONS);
    assert!(answer.contains("\r\nretry-after: 1\r\n"));
    assert!(
        server
            .metrics
            .render()
            .contains(r#"connections_refused_total{listener="public"} 1"#)
    );

    server.limits.store(Arc::new(Limits {
        max_connections: 3,
        ..patient()
    }));
    server.is_well().await;
    for mut stream in busy {
        server.handler.release.notify_one();
        read_answer(&mut stream, "GET /wait 0".len()).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn thousands_of_silent_connections_do_not_keep_others_waiting() {
    let server = Running::new(patient());
    let mut silent = Vec::new();
    for _ in 0..2_000 {
        silent.push(server.connect().await);
    }
    for _ in 0..20 {
        server.is_well().await;
    }
    assert!(
        server
            .metrics
            .render()
            .contains("ostrakon_connections{listener=\"public\"} 20")
    );
    server.stop().await;
    drop(silent);
}
