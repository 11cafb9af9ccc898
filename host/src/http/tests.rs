//! A server over real sockets, and its clients, well behaved or not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version, request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::metrics::{Listener, Metrics};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough not to pass on a busy machine where it is not to pass.
const LONG: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_millis(50);

/// Answers with what it was asked, save for some paths.
#[derive(Default)]
struct Echo {
    entered: Notify,
    release: Notify,
    cut: AtomicBool,
    dropped: Notify,
    leaving: Notify,
}

/// Tells when the handler's future is dropped before it is done.
struct OnDrop<'a>(&'a Echo);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.cut.store(true, Ordering::SeqCst);
        self.0.dropped.notify_one();
    }
}

impl Handler for Echo {
    fn refuse(&self, head: &mut request::Parts, _: &Caller) -> Option<Response<Bytes>> {
        (head.uri.path() == "/refused").then(|| Refusal::ShuttingDown.response())
    }

    async fn leaving(&self) {
        self.leaving.notified().await;
    }

    async fn call(&self, request: Request<Bytes>, caller: &Caller) -> Response<Bytes> {
        assert!(caller.address().ip().is_loopback());
        match request.uri().path() {
            "/panic" => panic!("this handler panics for a test"),
            "/wait" => {
                self.entered.notify_one();
                let on_drop = OnDrop(self);
                self.release.notified().await;
                std::mem::forget(on_drop);
            }
            _ => {}
        }
        let text = format!(
            "{} {} {}",
            request.method(),
            request.uri().path(),
            request.body().len()
        );
        Response::new(Bytes::from(text))
    }
}

struct Running {
    address: SocketAddr,
    handler: Arc<Echo>,
    limits: LiveLimits,
    metrics: Arc<Metrics>,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Running {
    fn new(limits: Limits) -> Self {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (shutdown, down) = watch::channel(false);
        let address = server.local_addr();
        let handler = Arc::new(Echo::default());
        let limits: LiveLimits = Arc::new(ArcSwap::from_pointee(limits));
        let metrics = Arc::new(Metrics::new("test"));
        let run = server.run(
            Arc::clone(&handler),
            Arc::clone(&limits),
            Arc::clone(&metrics),
            (Listener::Public, plain()),
            down,
        );
        Self {
            address,
            handler,
            limits,
            metrics,
            shutdown,
            task: tokio::spawn(run),
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes, then reads until the server closes.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        read_to_end(&mut stream).await
    }

    async fn is_well(&self) {
        let answer = client::request(self.address, Method::GET, "/well", PATIENCE)
            .await
            .unwrap();
        assert_eq!(answer, (StatusCode::OK, Bytes::from_static(b"GET /well 0")));
    }

    async fn h2(&self) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
        let io = TokioIo::new(self.connect().await);
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
            .await
            .unwrap();
        tokio::spawn(connection);
        sender
    }

    async fn stop(self) {
        self.shutdown.send(true).unwrap();
        timeout(PATIENCE, self.task)
            .await
            .expect("the server stops")
            .unwrap()
            .unwrap();
        assert!(
            self.metrics
                .render()
                .contains("ostrakon_connections{listener=\"public\"} 0\n")
        );
    }
}

fn patient() -> Limits {
    Limits {
        header_timeout: LONG,
        body_timeout: LONG,
        idle_timeout: LONG,
        ..Limits::default()
    }
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("the server closes")
        .unwrap();
    String::from_utf8(answer).unwrap()
}

/// Reads one answer whose body is `length` bytes.
async fn read_answer(stream: &mut TcpStream, length: usize) -> String {
    let mut answer = Vec::new();
    loop {
        let head = answer.windows(4).position(|window| window == b"\r\n\r\n");
        if head.is_some_and(|head| answer.len() >= head + 4 + length) {
            return String::from_utf8(answer).unwrap();
        }
        let read = timeout(PATIENCE, stream.read_buf(&mut answer))
            .await
            .expect("an answer comes")
            .unwrap();
        assert!(
            read > 0,
            "closed after {:?}",
            String::from_utf8_lossy(&answer)
        );
    }
}

/// Checks a refusal as HTTP/1 sends it.
#[track_caller]
fn check_refusal(answer: &str, refusal: Refusal) {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {answer:?}"));
    assert!(
        head.starts_with(&format!("HTTP/1.1 {}", refusal.status())),
        "{answer}"
    );
    assert!(
        head.contains(&format!("ostrakon-error: {}", refusal.code())),
        "{answer}"
    );
    assert!(head.contains("\r\ncontent-type: text/plain"), "{answer}");
    assert!(
        head.contains(&format!("\r\ncontent-length: {}", refusal.text().len())),
        "{answer}"
    );
    assert!(head.contains("\r\ndate: "), "{answer}");
    assert!(head.contains("\r\nconnection: close"), "{answer}");
    assert_eq!(body, refusal.text());
}

#[tokio::test]
async fn a_request_is_answered_and_the_connection_kept() {
    let server = Running::new(patient());
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream
            .write_all(b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello")
            .await
            .unwrap();
        let answer = read_answer(&mut stream, 9).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nPOST /a 5"), "{answer}");
        assert!(answer.contains("\r\ndate: "), "{answer}");
        assert!(!answer.contains("server:"), "{answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Running::new(patient());
    let answer = server
        .exchange(
            b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\nPOST /2 HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc\
              GET /3 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        )
        .await;
    let bodies: Vec<usize> = ["GET /1 0", "POST /2 3", "GET /3 0"]
        .map(|body| answer.find(body).unwrap())
        .into();
    assert!(bodies.is_sorted(), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3);
    server.stop().await;
}

#[tokio::test]
async fn h2_is_served_on_the_same_port_to_those_who_begin_with_it() {
    let server = Running::new(patient());
    let mut sender = server.h2().await;
    let calls = (0..50).map(|n| {
        let body = Full::new(Bytes::from(vec![0; n]));
        let request = Request::post(format!("http://x/{n}")).body(body).unwrap();
        sender.send_request(request)
    });
    for (n, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
        let response = call.await.unwrap();
        assert_eq!(response.version(), Version::HTTP_2);
        assert!(response.headers().contains_key("date"));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, format!("POST /{n} {n}"));
    }
    drop(sender);
    server.stop().await;
}

#[tokio::test]
async fn the_preface_of_h2_may_come_byte_by_byte() {
    let server = Running::new(patient());
    let mut stream = server.connect().await;
    stream.set_nodelay(true).unwrap();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0" {
        stream.write_all(&[*byte]).await.unwrap();
    }
    let mut frame = [0; 9];
    timeout(PATIENCE, stream.read_exact(&mut frame))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(frame[3], 4, "the server's settings come first");
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn head_is_answered_with_the_length_and_without_the_body() {
    let server = Running::new(patient());
    let answer = server
        .exchange(b"HEAD /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    assert!(answer.contains("\r\ncontent-length: 9\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");

    let request = Request::head("http://x/a").body(Full::default()).unwrap();
    let response = server.h2().await.send_request(request).await.unwrap();
    assert_eq!(response.headers()["content-length"], "9");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "");
    server.stop().await;
}

#[tokio::test]
async fn malformed_requests_are_answered_400_and_closed() {
    let server = Running::new(patient());
    for malformed in [
        &b"nonsense\r\n\r\n"[..],
        b"GET / HTTP/3.7\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ] {
        let answer = server.exchange(malformed).await;
        check_refusal(&answer, Refusal::BadRequest);
    }
    server.is_well().await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_malformed_after_a_good_request_is_refused_after_its_answer() {
    let server = Running::new(patient());
    let answer = server
        .exchange(b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\nnonsense\r\n\r\n")
        .await;
    let (first, second) = answer.split_once("GET /1 0").unwrap();
    assert!(first.starts_with("HTTP/1.1 200 OK"), "{answer}");
    check_refusal(second, Refusal::BadRequest);
    server.stop().await;
}

#[tokio::test]
async fn a_handler_may_refuse_before_the_body_is_read() {
    let server = Running::new(patient());
    let answer = server
        .exchange(
            b"POST /refused HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\nconnection: close\r\n\r\n",
        )
        .await;
    check_refusal(&answer, Refusal::ShuttingDown);
    assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    server.stop().await;
}

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
    check_refusal(&server.exchange(line.as_bytes()).await, Refusal::HeaderSize);
    let just_fits = format!(
        "GET / HTTP/1.1\r\nconnection: close\r\nx: {}\r\n\r\n",
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
        // The drip may find the connection closed before the answer is read: that is a reset.
        let _closed_or_reset = timeout(PATIENCE, read.read_to_string(&mut answer))
            .await
            .unwrap();
        drip.abort();
        if beginning != "PRI * HTT" {
            check_refusal(&answer, Refusal::HeaderTime);
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
    check_refusal(&read_to_end(&mut stream).await, Refusal::HeaderTime);
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_is_said_to_be_too_large_is_refused_before_it_is_sent() {
    let server = Running::new(Limits {
        max_body_bytes: 10,
        ..patient()
    });
    let head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 11\r\nexpect: 100-continue\r\n\r\n";
    check_refusal(&server.exchange(head).await, Refusal::BodySize);
    let fits = b"POST / HTTP/1.1\r\ncontent-length: 10\r\nconnection: close\r\n\r\n0123456789";
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
    check_refusal(&server.exchange(&chunks).await, Refusal::BodySize);

    let body = Full::new(Bytes::from(vec![0; 5_000_000]));
    let request = Request::post("http://x/").body(body).unwrap();
    let response = server.h2().await.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(response.headers()["ostrakon-error"], "body-size");
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
    check_refusal(&server.exchange(post).await, Refusal::Bodies);
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
    check_refusal(&answer, Refusal::BodyTime);
    server.stop().await;
}

#[tokio::test]
async fn idle_connections_are_closed_of_either_protocol_used_or_not() {
    let server = Running::new(Limits {
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
    // Writes until the server is cut off from taking more, which a reset tells.
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
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect().await;
        stream
            .write_all(b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        read_answer(&mut stream, 8).await;
        kept.push(stream);
    }
    let answer = server.exchange(b"GET /2 HTTP/1.1\r\nhost: x\r\n\r\n").await;
    check_refusal(&answer, Refusal::Connections);
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
    drop(kept);
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

#[tokio::test]
async fn a_client_that_goes_away_ends_its_request_only() {
    let server = Running::new(patient());
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    timeout(PATIENCE, server.handler.entered.notified())
        .await
        .unwrap();
    drop(stream);
    timeout(PATIENCE, server.handler.dropped.notified())
        .await
        .expect("the request is dropped");
    assert!(server.handler.cut.load(Ordering::SeqCst));

    let mut stream = server.connect().await;
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf")
        .await
        .unwrap();
    drop(stream);
    server.is_well().await;
    server.stop().await;
}

#[tokio::test]
async fn a_handler_that_panics_is_answered_500_and_the_connection_goes_on() {
    let server = Running::new(patient());
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /panic HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let answer = read_answer(&mut stream, Refusal::Internal.text().len()).await;
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    assert!(answer.contains("ostrakon-error: internal"), "{answer}");
    stream
        .write_all(b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert!(
        read_answer(&mut stream, 8)
            .await
            .starts_with("HTTP/1.1 200")
    );
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn shutting_down_finishes_what_is_in_flight_and_closes_what_is_idle() {
    let server = Running::new(patient());
    let mut silent = server.connect().await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    read_answer(&mut idle, 8).await;
    let mut sender = server.h2().await;
    let over_h2 = Request::get("http://x/wait").body(Full::default()).unwrap();
    let over_h2 = tokio::spawn(sender.send_request(over_h2));
    timeout(PATIENCE, server.handler.entered.notified())
        .await
        .unwrap();
    let mut busy = server.connect().await;
    busy.write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    timeout(PATIENCE, server.handler.entered.notified())
        .await
        .unwrap();

    server.shutdown.send(true).unwrap();
    assert_eq!(read_to_end(&mut silent).await, "");
    assert_eq!(read_to_end(&mut idle).await, "");
    assert!(
        TcpStream::connect(server.address).await.is_err(),
        "nothing more is accepted"
    );
    assert!(!server.task.is_finished(), "requests are in flight");

    server.handler.release.notify_one();
    server.handler.release.notify_one();
    let answer = read_to_end(&mut busy).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("GET /wait 0"),
        "{answer}"
    );
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    let response = timeout(PATIENCE, over_h2).await.unwrap().unwrap().unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "GET /wait 0"
    );
    drop((sender, silent, idle, busy));
    server.stop().await;
}

#[tokio::test]
async fn the_client_says_what_went_wrong() {
    let nobody = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = nobody.local_addr();
    let error = client::request(address, Method::GET, "/", SHORT)
        .await
        .unwrap_err();
    assert!(matches!(error, client::Error::Timeout { .. }), "{error}");
    drop(nobody);
    let error = client::request(address, Method::GET, "/", PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, client::Error::Connect { .. }), "{error}");
    let error = client::request(address, Method::GET, "no path\n", PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, client::Error::Path { .. }), "{error}");
}

#[tokio::test]
async fn an_h2_client_is_told_to_go_elsewhere_while_it_is_still_answered() {
    let server = Running::new(patient());
    let mut sender = server.h2().await;
    let request = |path| Request::get(path).body(Full::default()).unwrap();
    let waiting = tokio::spawn(sender.send_request(request("http://x/wait")));
    server.handler.entered.notified().await;
    server.handler.leaving.notify_one();
    server.handler.release.notify_one();
    let response = timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    // Nothing more is to be sent on this connection.
    let told = async {
        while sender.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, told).await.expect("it is told");
    // Others are served on.
    server.is_well().await;
    server.stop().await;
}
