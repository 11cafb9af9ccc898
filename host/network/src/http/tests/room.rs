//! Where all connections are taken, who uses none gives way, and whose request is run does not.

use super::*;

const MOST: usize = 16;

fn few() -> Limits {
    Limits {
        max_connections: MOST,
        ..patient()
    }
}

/// Many times as many as there may be, each of which must be answered.
async fn others_come_in(server: &Running, held: &str) {
    let began = std::time::Instant::now();
    for _ in 0..3 * MOST {
        server.is_well().await;
    }
    let took = began.elapsed();
    assert!(took < PATIENCE, "{held}: {took:?}");
    println!("{held}: {} new clients in {took:?}, 0 refused", 3 * MOST);
}

#[tokio::test]
async fn connections_that_use_their_place_for_nothing_give_way_to_new_ones() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let slow: &[(&str, &[u8])] = &[
        ("silent", b""),
        ("a part of a head", b"GET / HTTP/1.1\r\nhost: "),
        (
            "no body",
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n",
        ),
        ("idle", b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\n"),
        ("a part of h2's preface", b"PRI * HTTP/2"),
        ("h2 without a request", preface),
    ];
    for (held, bytes) in slow {
        let server = Running::new(few());
        let busy = server.wait().await;
        let mut streams = Vec::new();
        for _ in 0..2 * MOST {
            let mut stream = server.connect().await;
            // It may have been the one to give way.
            let _sent = stream.write_all(bytes).await;
            streams.push(stream);
        }
        others_come_in(&server, held).await;
        let metrics = server.metrics.render();
        assert!(
            metrics.contains("connections_refused_total{listener=\"public\"} 0"),
            "{metrics}"
        );
        // The one whose request was run has kept its place.
        let mut busy = busy;
        server.handler.release.notify_one();
        read_answer(&mut busy, "GET /wait 0".len()).await;
        drop(streams);
        server.stop().await;
    }
}

#[tokio::test]
async fn answers_that_are_not_taken_give_way_as_patience_ends() {
    let server = Running::new(Limits {
        answer_patience: Duration::ZERO,
        ..few()
    });
    let mut streams = Vec::new();
    for _ in 0..MOST {
        let mut stream = server.connect().await;
        // As much as the system buffers on the way, and more; none of the answers is read.
        let requests = b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\n".repeat(500);
        let full = async { while stream.write_all(&requests).await.is_ok() {} };
        let _full = timeout(Duration::from_millis(300), full).await;
        streams.push(stream);
    }
    others_come_in(&server, "answers that nobody takes").await;
    drop(streams);
    server.stop().await;
}

#[tokio::test]
async fn an_idle_h2_connection_that_gives_way_is_told_to_go() {
    let server = Running::new(Limits {
        max_connections: 1,
        ..patient()
    });
    let io = TokioIo::new(server.connect().await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    let over = tokio::spawn(connection);
    let request = Request::get("http://x/1")
        .body(Full::<Bytes>::default())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "GET /1 0"
    );
    server.is_well().await;
    // By a GOAWAY: a connection that is cut is an error.
    timeout(PATIENCE, over)
        .await
        .expect("it ends")
        .unwrap()
        .unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_says_nothing_is_closed_long_before_one_that_has_been_served() {
    let server = Running::new(Limits {
        first_byte_timeout: SHORT,
        ..patient()
    });
    let mut used = server.connect().await;
    used.write_all(b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    read_answer(&mut used, 8).await;
    let mut silent = server.connect().await;
    assert_eq!(read_to_end(&mut silent).await, "");
    used.write_all(b"GET /2 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    read_answer(&mut used, 8).await;
    server.stop().await;
}

/// A client of h2, and the head of a large answer to it, of which nothing is taken.
async fn asking_for_much(
    server: &Running,
) -> (
    hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    hyper::body::Incoming,
) {
    let io = TokioIo::new(server.connect().await);
    // It makes room for a part of the answer only, until somebody takes that.
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(64 * 1024)
        .handshake(io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let large = sender.send_request(get("/large")).await.unwrap();
    (sender, large.into_body())
}

fn get(path: &str) -> Request<Full<Bytes>> {
    let request = Request::get(format!("http://x{path}"));
    request.body(Full::default()).unwrap()
}

/// It was never cut: each answer to something small began its time anew.
#[tokio::test]
async fn a_client_that_does_not_take_one_answer_is_cut_though_it_takes_others() {
    let server = Running::new(Limits {
        idle_timeout: 10 * SHORT,
        ..patient()
    });
    let (mut sender, large) = asking_for_much(&server).await;
    let asked = timeout(PATIENCE, async {
        let mut asked = 0;
        while let Ok(answer) = sender.send_request(get("/1")).await
            && answer.into_body().collect().await.is_ok()
        {
            asked += 1;
            tokio::time::sleep(SHORT / 5).await;
        }
        asked
    });
    let asked = asked.await.expect("it is cut");
    assert!(asked > 0, "nothing was answered meanwhile");
    drop(large);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_takes_its_answer_slowly_is_not_cut() {
    let server = Running::new(Limits {
        idle_timeout: 40 * SHORT,
        ..patient()
    });
    let began = tokio::time::Instant::now();
    let (_sender, mut large) = asking_for_much(&server).await;
    let mut taken = 0;
    while let Some(frame) = large.frame().await {
        taken += frame.expect("it goes on").into_data().unwrap().len();
        tokio::time::sleep(SHORT).await;
    }
    assert_eq!(taken, LARGE);
    assert!(began.elapsed() > 40 * SHORT, "it was not slow");
    server.stop().await;
}
