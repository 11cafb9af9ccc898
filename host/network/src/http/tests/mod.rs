//! A server on real sockets, and its well-behaved and misbehaving clients.

mod answers;
mod dates;
mod early;
mod ending;
mod half_closed;
mod limits;
mod room;
#[cfg(target_os = "linux")]
mod send_queue;
mod strict;
mod strict_h2;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version, request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ostrakon_observe::metrics::{Listener, Metrics};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::taken::tests::LINGERS;
use super::*;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Never passes during a test, even on a busy machine.
const LONG: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_millis(50);
/// The length of the answer to `/large`.
const LARGE: usize = 1 << 20;

/// Echoes the request, except on some paths.
#[derive(Default)]
struct Echo {
    entered: Notify,
    release: Notify,
    cut: AtomicBool,
    dropped: Notify,
    leaving: Notify,
    /// Answers to `/large` that are still held.
    untaken: Arc<AtomicUsize>,
}

struct Large(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Reports if the handler's future is dropped before it is done.
struct OnDrop<'a>(&'a Echo);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.cut.store(true, Ordering::SeqCst);
        self.0.dropped.notify_one();
    }
}

impl Handler for Echo {
    fn refuse(&self, head: &mut request::Parts, _: &Caller) -> Option<Response<Bytes>> {
        match head.uri.path() {
            "/refused" => Some(SHUTTING_DOWN.response()),
            "/lingers" => Some(Response::new(Bytes::from_static(LINGERS.as_bytes()))),
            _ => None,
        }
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
        let mut response = Response::new(Bytes::from(text));
        if request.uri().path() == "/large" {
            let large = Large(vec![b'x'; LARGE], Arc::clone(&self.untaken));
            self.untaken.fetch_add(1, Ordering::SeqCst);
            *response.body_mut() = Bytes::from_owner(large);
        }
        if let Some(status) = request.uri().path().strip_prefix("/status/") {
            *response.status_mut() = status.parse().expect("a status");
        }
        if let Some(asked) = request.headers().get("host") {
            response.headers_mut().insert("asked", asked.clone());
        }
        response
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
        Self::with_clock(limits, SystemTime::now)
    }

    fn with_clock(limits: Limits, clock: fn() -> SystemTime) -> Self {
        let mut server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        server.clock = clock;
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

    /// The number of answers to `/large` that are still held.
    fn untaken(&self) -> usize {
        self.handler.untaken.load(Ordering::SeqCst)
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

    /// A connection whose request runs until it is released.
    async fn wait(&self) -> TcpStream {
        let mut stream = self.connect().await;
        stream
            .write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        timeout(PATIENCE, self.handler.entered.notified())
            .await
            .unwrap();
        stream
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

/// A refusal that a layer above HTTP defines.
const SHUTTING_DOWN: Refusal = Refusal::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "shutting-down",
    "_shutting_down_",
);

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

/// What an h2 client sends first.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The bytes of an h2 frame.
fn h2_frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [kind, flags, 0, 0, 0, stream];
    [&length[1..], &head, payload].concat()
}

/// A header block of literal fields, without indexing and without Huffman coding.
fn h2_block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("a short one"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// The next frame: its kind, flags and payload; `None` at the end of the connection.
async fn read_h2_frame(stream: &mut TcpStream) -> Option<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    let read = timeout(PATIENCE, stream.read_exact(&mut head)).await;
    read.expect("frames come").ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await.unwrap();
    Some((head[3], head[4], payload))
}
