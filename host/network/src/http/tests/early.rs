//! A response to a request that has not arrived completely reaches the client, whatever the client
//! still sends.

use super::*;

const MIB: usize = 1024 * 1024;

/// Sends everything before it reads anything, as some clients do.
async fn send_all_then_read(server: &Running, head: &str, body: usize) -> String {
    let mut stream = server.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = vec![b'x'; 64 * 1024];
    let mut left = body;
    while left > 0 {
        let part = &chunk[..left.min(chunk.len())];
        let sent = timeout(PATIENCE, stream.write_all(part)).await;
        sent.expect("it is taken").expect("it is not reset");
        left -= part.len();
    }
    read_to_end(&mut stream).await
}

#[tokio::test]
async fn early_answers_arrive_however_much_is_sent_before_they_are_read() {
    let limits = Limits {
        max_body_bytes: 8 * MIB,
        max_header_bytes: 16 * 1024,
        ..patient()
    };
    let server = Running::new(limits);
    let with = |path: &str, more: &str, length: usize| {
        format!("PUT {path} HTTP/1.1\r\nhost: x\r\n{more}content-length: {length}\r\n\r\n")
    };
    let chunked = "PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1000000\r\n";
    let long = "y".repeat(70_000);
    let mut count = 0;
    for (head, body, refusal) in [
        // Refused by a handler, as for a missing token.
        (with("/refused", "", 4 * MIB), 4 * MIB, SHUTTING_DOWN),
        (with("/a", "", 9 * MIB), 9 * MIB, refusals::BODY_SIZE),
        (chunked.to_owned(), 9 * MIB, refusals::BODY_SIZE),
        (
            with("/a", &format!("x: {long}\r\n"), 4 * MIB),
            4 * MIB,
            refusals::HEADER_SIZE,
        ),
        (
            with(&format!("/{long}"), "", 4 * MIB),
            4 * MIB,
            refusals::HEADER_SIZE,
        ),
        (
            with("/a", "no header\r\n", 4 * MIB),
            4 * MIB,
            refusals::BAD_REQUEST,
        ),
        (
            with("/a", "host: y\r\n", 4 * MIB),
            4 * MIB,
            refusals::BAD_REQUEST,
        ),
        (
            with("/a", "transfer-encoding: gzip, chunked\r\n", 0),
            4 * MIB,
            refusals::NOT_IMPLEMENTED,
        ),
        (
            with("/a", "expect: 100-continue\r\n", 9 * MIB),
            9 * MIB,
            refusals::BODY_SIZE,
        ),
        (
            with("/refused", "expect: 100-continue\r\n", 10),
            10,
            SHUTTING_DOWN,
        ),
    ] {
        for _ in 0..5 {
            let answer = send_all_then_read(&server, &head, body).await;
            check_refusal(&answer, refusal);
            count += 1;
        }
        server.is_well().await;
    }
    println!("{count} early answers, 0 lost");
    server.stop().await;
}

#[tokio::test]
async fn a_refusal_for_want_of_memory_arrives_though_more_is_sent() {
    let server = Running::new(Limits {
        max_bodies_bytes: 6 * MIB,
        ..patient()
    });
    let head = |path| format!("PUT {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 4194304\r\n\r\n");
    let mut held = server.connect().await;
    held.write_all(head("/wait").as_bytes()).await.unwrap();
    held.write_all(&vec![b'x'; 4 * MIB]).await.unwrap();
    server.handler.entered.notified().await;
    for _ in 0..5 {
        let answer = send_all_then_read(&server, &head("/a"), 4 * MIB).await;
        check_refusal(&answer, refusals::BODIES);
    }
    server.handler.release.notify_one();
    read_answer(&mut held, "PUT /wait 4194304".len()).await;
    drop(held);
    server.stop().await;
}

#[tokio::test]
async fn a_refusal_for_its_slowness_arrives_though_more_is_sent() {
    let server = Running::new(Limits {
        header_timeout: SHORT,
        body_timeout: SHORT,
        ..patient()
    });
    for (head, refusal) in [
        ("GET / HTTP/1.1\r\n", refusals::HEADER_TIME),
        (
            "PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 8000000\r\n\r\n",
            refusals::BODY_TIME,
        ),
    ] {
        let mut stream = server.connect().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        // The refusal has arrived.
        stream.readable().await.unwrap();
        for _ in 0..256 {
            let sent = timeout(PATIENCE, stream.write_all(&[b'x'; 16 * 1024])).await;
            sent.expect("it is taken").expect("it is not reset");
        }
        check_refusal(&read_to_end(&mut stream).await, refusal);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_connection_goes_on_after_a_refusal_whose_body_was_small() {
    let server = Running::new(patient());
    let mut stream = server.connect().await;
    for body in [&b""[..], b"012345678", &vec![b'x'; 60_000]] {
        let length = body.len();
        let head = format!("PUT /refused HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let text = SHUTTING_DOWN.text();
        let answer = read_answer(&mut stream, text.len()).await;
        assert!(answer.ends_with(text), "{answer}");
        assert!(!answer.contains("connection: close"), "{answer}");
    }
    stream
        .write_all(b"GET /1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    assert!(read_to_end(&mut stream).await.ends_with("GET /1 0"));
    server.stop().await;
}

#[tokio::test]
async fn who_asks_before_it_sends_is_refused_without_being_told_to_send() {
    let server = Running::new(Limits {
        max_body_bytes: 10,
        ..patient()
    });
    for (path, length, refusal) in [
        ("/refused", 5, SHUTTING_DOWN),
        ("/a", 11, refusals::BODY_SIZE),
    ] {
        let head = format!(
            "PUT {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n\r\n"
        );
        check_refusal(&server.exchange(head.as_bytes()).await, refusal);
    }
    let mut stream = server.connect().await;
    stream
        .write_all(
            b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n",
        )
        .await
        .unwrap();
    let told = read_answer(&mut stream, 0).await;
    assert_eq!(told, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"01234").await.unwrap();
    assert!(read_answer(&mut stream, 8).await.ends_with("PUT /a 5"));
    drop(stream);
    server.stop().await;
}

/// Sends without end, from a task of its own, and reads nothing.
async fn flood(server: &Running) -> JoinHandle<()> {
    let mut stream = server.connect().await;
    let head = b"PUT /refused HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999999\r\n\r\n";
    stream.write_all(head).await.unwrap();
    stream.readable().await.unwrap();
    tokio::spawn(async move { while stream.write_all(&[b'x'; 16 * 1024]).await.is_ok() {} })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_send_for_ever_make_room_for_others_and_hold_nobody_up() {
    const MOST: usize = 8;
    let server = Running::new(Limits {
        max_connections: MOST,
        ..patient()
    });
    let mut floods = Vec::new();
    for _ in 0..4 * MOST {
        floods.push(flood(&server).await);
    }
    let mut worst = Duration::ZERO;
    for _ in 0..50 {
        let began = std::time::Instant::now();
        server.is_well().await;
        worst = worst.max(began.elapsed());
    }
    println!(
        "50 requests among {} clients that send for ever, the worst took {worst:?}",
        4 * MOST
    );
    assert!(worst < PATIENCE / 4, "{worst:?}");
    // All but the newest connections have been cut off by now.
    let cut = async {
        for flood in floods.drain(..3 * MOST) {
            flood.await.unwrap();
        }
    };
    timeout(PATIENCE, cut).await.expect("the oldest made room");
    let refused = r#"connections_refused_total{listener="public"} 0"#;
    assert!(
        server.metrics.render().contains(refused),
        "a connection was rejected"
    );
    // The wait for the rest is short.
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_takes_no_notice_is_not_waited_for_for_long() {
    let server = Running::new(patient());
    let mut silent = server.connect().await;
    let head = b"PUT /refused HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999999\r\n\r\n";
    silent.write_all(head).await.unwrap();
    let over = async {
        let none = "ostrakon_connections{listener=\"public\"} 0\n";
        while !server.metrics.render().contains(none) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    server.is_well().await;
    timeout(PATIENCE, over).await.expect("its place is free");
    server.stop().await;
    drop(silent);
}

#[tokio::test]
async fn what_h2_discards_is_given_back_and_the_connection_goes_on() {
    let server = Running::new(Limits {
        max_body_bytes: MIB,
        ..patient()
    });
    let mut sender = server.h2().await;
    for round in 0..100 {
        // Together, many times the connection's window.
        let (path, length, status) = match round % 2 {
            0 => ("http://x/refused", 400_000, 503),
            _ => ("http://x/a", 2 * MIB, 413),
        };
        let body = Full::new(Bytes::from(vec![0; length]));
        let request = Request::post(path).body(body).unwrap();
        sender.ready().await.expect("the connection goes on");
        let answer = timeout(PATIENCE, sender.send_request(request)).await;
        let answer = answer
            .expect("it is answered")
            .expect("its answer is not lost");
        assert_eq!(answer.status(), status, "round {round}");
        let text = answer
            .into_body()
            .collect()
            .await
            .expect("all of it")
            .to_bytes();
        assert!(!text.is_empty());
        let request = Request::get("http://x/1").body(Full::default()).unwrap();
        let answer = timeout(PATIENCE, sender.send_request(request)).await;
        assert_eq!(answer.unwrap().unwrap().status(), StatusCode::OK);
    }
    drop(sender);
    server.stop().await;
}

#[tokio::test]
async fn an_h2_connection_that_is_to_end_is_closed_after_its_last_answer_was_taken() {
    for _ in 0..20 {
        let server = Running::new(patient());
        let mut sender = server.h2().await;
        let body = Full::new(Bytes::from(vec![0; 4 * MIB]));
        let request = Request::post("http://x/refused").body(body).unwrap();
        let answer = sender.send_request(request);
        server.handler.leaving.notify_one();
        let answer = timeout(PATIENCE, answer).await.expect("it is answered");
        let answer = answer.expect("its answer is not lost");
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        answer.into_body().collect().await.expect("all of it");
        drop(sender);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_client_that_ends_its_h2_request_at_the_head_of_the_answer_gets_all_of_it() {
    let server = Running::new(patient());
    let fields = [
        (":method", "PUT"),
        (":scheme", "http"),
        (":path", "/lingers"),
        (":authority", "x"),
        ("content-length", "100000"),
    ];
    for _ in 0..5 {
        let mut stream = server.connect().await;
        let request = [H2_PREFACE, &h2_frame(1, 4, 1, &h2_block(&fields))].concat();
        stream.write_all(&request).await.unwrap();
        let mut text = Vec::new();
        loop {
            let frame = read_h2_frame(&mut stream).await;
            match frame.expect("the connection goes on") {
                (0, flags, payload) => {
                    text.extend(payload);
                    if flags & 1 == 1 {
                        break;
                    }
                }
                // With 0 of the bytes that it announced, as curl 7.88 does.
                (1, ..) => stream.write_all(&h2_frame(0, 1, 1, b"")).await.unwrap(),
                (3, _, reason) => panic!("the stream is reset: {reason:?}"),
                _ => {}
            }
        }
        assert_eq!(String::from_utf8(text).unwrap(), LINGERS);
    }
    server.stop().await;
}
