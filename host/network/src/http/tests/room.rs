//! When all connections are taken, an unused one is closed, and one with a running request is not.

use super::*;
use tokio::net::tcp::OwnedReadHalf;

const MOST: usize = 16;

fn few() -> Limits {
    Limits {
        max_connections: MOST,
        ..patient()
    }
}

/// Opens several times as many connections as the limit, each of which must be answered.
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
            // This connection may already have been closed for a newer one.
            let _sent = stream.write_all(bytes).await;
            streams.push(stream);
        }
        others_come_in(&server, held).await;
        let metrics = server.metrics.render();
        assert!(
            metrics.contains("connections_refused_total{listener=\"public\"} 0"),
            "{metrics}"
        );
        // The connection whose request ran has kept its place.
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
        // More requests than the kernel buffers. The client reads none of the answers.
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
    // The client gets a GOAWAY; a cut connection would be an error.
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

/// An h2 client and the head of a large answer to it. The client reads none of the body.
async fn asking_for_much(
    server: &Running,
) -> (
    hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    hyper::body::Incoming,
) {
    let io = TokioIo::new(server.connect().await);
    // The window has room for only a part of the answer.
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

/// Regression: such an answer was held forever, because each answer to a small request restarted
/// its timeout. The other streams of the connection may belong to other clients of a proxy.
#[tokio::test]
async fn an_answer_that_is_not_taken_is_ended_alone_whatever_is_asked_meanwhile() {
    let server = Running::new(Limits {
        idle_timeout: 10 * SHORT,
        ..patient()
    });
    let began = tokio::time::Instant::now();
    let (mut sender, large) = asking_for_much(&server).await;
    let (mut large, mut asked) = (std::pin::pin!(large), 0);
    loop {
        let answer = sender.send_request(get("/1")).await.expect("an answer");
        answer.into_body().collect().await.expect("all of it");
        asked += 1;
        // Reads nothing of the answer, and only checks whether the stream was reset.
        if server.untaken() == 0 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "the memory is still held");
        tokio::time::sleep(SHORT / 5).await;
    }
    assert!(asked > 1 && began.elapsed() >= 10 * SHORT);
    let rest = async {
        while let Some(frame) = large.as_mut().frame().await {
            frame?;
        }
        Ok::<_, hyper::Error>(())
    };
    let error = timeout(PATIENCE, rest).await.expect("its end comes");
    error.expect_err("it is reset");
    let answer = sender.send_request(get("/1")).await.expect("an answer");
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "GET /1 0"
    );
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
    assert!(began.elapsed() > 40 * SHORT, "the client was not slow");
    server.stop().await;
}

/// A connection's receiving half that is read rarely, and only a little at a time.
struct Slow {
    stream: OwnedReadHalf,
    pause: std::pin::Pin<Box<tokio::time::Sleep>>,
}

impl tokio::io::AsyncRead for Slow {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::ready!(self.pause.as_mut().poll(context));
        let length = buffer.remaining().min(64 * 1024);
        let mut part = tokio::io::ReadBuf::new(buffer.initialize_unfilled_to(length));
        let read = std::pin::Pin::new(&mut self.stream).poll_read(context, &mut part);
        std::task::ready!(read)?;
        let read = part.filled().len();
        buffer.advance(read);
        let next = tokio::time::Instant::now() + SHORT / 50;
        self.pause.as_mut().reset(next);
        std::task::Poll::Ready(Ok(()))
    }
}

/// Regression: h2 accepts hundreds of kilobytes of each answer before it sends any of them. With
/// many answers, none seemed to make progress for a long time.
#[tokio::test]
async fn a_slow_client_with_many_answers_at_once_is_not_cut() {
    const ANSWERS: usize = 64;
    let server = Running::new(Limits {
        idle_timeout: 20 * SHORT,
        ..patient()
    });
    let (stream, to_server) = server.connect().await.into_split();
    let slow = Slow {
        stream,
        pause: Box::pin(tokio::time::sleep(Duration::ZERO)),
    };
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(512 * 1024 * 1024)
        .handshake(TokioIo::new(tokio::io::join(slow, to_server)))
        .await
        .unwrap();
    tokio::spawn(connection);
    let began = tokio::time::Instant::now();
    let mut answers = tokio::task::JoinSet::new();
    for _ in 0..ANSWERS {
        sender.ready().await.unwrap();
        let answer = sender.send_request(get("/large"));
        answers.spawn(async move { answer.await?.into_body().collect().await });
    }
    while let Some(answer) = answers.join_next().await {
        let body = answer.unwrap().expect("it goes on").to_bytes();
        assert_eq!(body.len(), LARGE);
    }
    assert!(began.elapsed() > 20 * SHORT, "the client was not slow");
    server.stop().await;
}

/// The host's unsent and unread bytes on a connection, according to the kernel's table of
/// connections.
#[cfg(target_os = "linux")]
pub(super) fn queues(server: &Running, client: &TcpStream) -> [usize; 2] {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ports = [server.address.port(), client.local_addr().unwrap().port()];
    let ends = ports.map(|port| format!(":{port:04X}"));
    // Columns of a row: the two addresses, the state, and the bytes to send and to read.
    let found = table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, local, remote, _, queues, ..] = &fields[..] else {
            return None;
        };
        let is_it = local.ends_with(&ends[0]) && remote.ends_with(&ends[1]);
        is_it.then(|| queues.split_once(':').unwrap())
    });
    let number = |text| usize::from_str_radix(text, 16).unwrap();
    found.map_or([0; 2], |(unsent, unread)| [number(unsent), number(unread)])
}

/// Regression: the kernel kept megabytes per connection, which only the container's memory limit
/// counted.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_system_keeps_little_of_what_a_client_does_not_take() {
    const MOST: usize = 192 * 1024;
    let server = Running::new(patient());
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    let request = b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let (mut most, began) = (0, tokio::time::Instant::now());
    while most == 0 || began.elapsed() < 10 * SHORT {
        most = most.max(queues(&server, &stream)[0]);
        assert!(began.elapsed() < PATIENCE, "nothing is sent");
        tokio::time::sleep(SHORT / 10).await;
    }
    assert!(most < MOST, "{most}");
    drop(stream);
    server.stop().await;
}

/// The same for bytes that arrive while the request runs: the kernel enlarges the buffer of a busy
/// sender.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_system_keeps_little_of_what_the_host_does_not_read() {
    const MOST: usize = 128 * 1024;
    let server = Running::new(patient());
    let mut stream = server.connect().await;
    let body = vec![b'x'; 8 * 1024 * 1024];
    for _ in 0..4 {
        let head = format!(
            "POST /1 HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        read_answer(&mut stream, format!("POST /1 {}", body.len()).len()).await;
    }
    let wait = b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(wait).await.unwrap();
    timeout(PATIENCE, server.handler.entered.notified())
        .await
        .unwrap();
    let sent = timeout(10 * SHORT, stream.write_all(&body)).await;
    assert!(sent.is_err(), "the client could send everything");
    let [_, unread] = queues(&server, &stream);
    assert!((1..MOST).contains(&unread), "{unread}");
    server.handler.release.notify_one();
    drop(stream);
    server.stop().await;
}

/// The memory of an answer is counted through its body. Regression: if no body was sent, the memory
/// was no longer counted at once. HPACK's table can also keep a header for as long as the
/// connection lives.
#[tokio::test]
async fn an_answer_without_a_body_counts_until_its_headers_are_taken_and_no_longer() {
    const LARGE_ONES: usize = 16;
    const HEADS: usize = 20;
    let server = Running::new(patient());
    let head = || {
        let request = Request::head("http://x/large");
        request.body(Full::<Bytes>::default()).unwrap()
    };
    // With a client that reads, the answers are sent at once.
    let mut sender = server.h2().await;
    for _ in 0..3 {
        let answer = sender.send_request(head()).await.expect("an answer");
        assert_eq!(answer.headers()["content-length"], LARGE.to_string());
        assert!(answer.headers().contains_key("date"));
    }
    let began = tokio::time::Instant::now();
    while server.untaken() > 0 {
        assert!(
            began.elapsed() < PATIENCE,
            "{} bytes are held",
            server.untaken()
        );
        tokio::time::sleep(SHORT / 10).await;
    }
    // With a client that reads nothing, the answers wait once its connection is full.
    let (stream, to_server) = server.connect().await.into_split();
    let reading = Arc::new(AtomicBool::new(true));
    let stuck = Stuck {
        stream,
        reading: Arc::clone(&reading),
    };
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1 << 30)
        .initial_connection_window_size(1 << 30)
        .handshake(TokioIo::new(tokio::io::join(stuck, to_server)))
        .await
        .unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(get("/1")).await.expect("an answer");
    answer.into_body().collect().await.expect("all of it");
    reading.store(false, Ordering::SeqCst);
    let mut asked = tokio::task::JoinSet::new();
    for number in 0..LARGE_ONES + HEADS {
        let is_large = number < LARGE_ONES;
        let request = if is_large { get("/large") } else { head() };
        asked.spawn(sender.send_request(request));
        if number + 1 == LARGE_ONES {
            let all_wait = async {
                while server.untaken() < LARGE_ONES {
                    tokio::time::sleep(SHORT / 10).await;
                }
            };
            timeout(PATIENCE, all_wait).await.expect("they are held");
            tokio::time::sleep(4 * SHORT).await;
        }
    }
    let all = async {
        while server.untaken() < LARGE_ONES + HEADS {
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    timeout(PATIENCE, all).await.expect("all are held");
    tokio::time::sleep(4 * SHORT).await;
    assert_eq!(server.untaken(), LARGE_ONES + HEADS);
    drop((asked, sender));
    server.stop().await;
}

/// A connection's receiving half that stops reading when told to.
struct Stuck {
    stream: OwnedReadHalf,
    reading: Arc<AtomicBool>,
}

impl tokio::io::AsyncRead for Stuck {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if !self.reading.load(Ordering::SeqCst) {
            return std::task::Poll::Pending;
        }
        std::pin::Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}
