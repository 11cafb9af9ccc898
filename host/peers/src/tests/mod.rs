//! Tests over real sockets, and over pipes in memory where the clock is paused.

mod attacks;
mod going_away;
mod greeting;
mod handshakes;
mod in_flight;
mod killed;
mod liveness;
mod names;
mod pool;
mod requests;
mod revocation;
mod secrecy;
mod tls;
mod versions;

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

use super::handshake::{self, Greeted, Party};
use super::hello::Hello;
use super::*;

/// A handler made from a function.
pub(super) struct Answers<F>(pub F);

impl<F, A> Handler for Answers<F>
where
    F: Fn(Bytes) -> A + Send + Sync + 'static,
    A: Future<Output = Bytes> + Send + 'static,
{
    fn call(&self, _peer: Identity, body: Bytes) -> impl Future<Output = Bytes> + Send {
        (self.0)(body)
    }
}

pub(super) struct Echo;

impl Handler for Echo {
    async fn call(&self, _peer: Identity, body: Bytes) -> Bytes {
        body
    }
}

pub(super) fn endpoint(ordinal: u32) -> Endpoint {
    let identity = Identity {
        ordinal,
        incarnation: 7,
        store: 0xfeed_beef,
    };
    Endpoint::new(identity, fixed(Credentials::default()))
}

/// Credentials that never change.
pub(super) fn fixed(credentials: Credentials) -> watch::Receiver<Arc<Credentials>> {
    watch::channel(Arc::new(credentials)).1
}

pub(super) fn token(text: &str) -> Token {
    Token::new(format!("{text:-<32}").into_bytes()).unwrap()
}

pub(super) fn with_tokens(ordinal: u32, tokens: &[&str]) -> Endpoint {
    Endpoint {
        credentials: fixed(Credentials {
            tokens: list(tokens),
            ..Credentials::default()
        }),
        ..endpoint(ordinal)
    }
}

pub(super) fn list(tokens: &[&str]) -> Tokens {
    Tokens::new(tokens.iter().map(|text| token(text)).collect())
}

/// Only the connecting side's part of a handshake.
pub(super) async fn greet(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    endpoint: &Endpoint,
) -> Result<Greeted, HandshakeError> {
    let credentials = Arc::clone(&endpoint.credentials.borrow());
    handshake::connect(stream, &Party::new(endpoint, &credentials), None).await
}

/// Only the accepting side's part of a handshake.
pub(super) async fn welcome(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    endpoint: &Endpoint,
) -> Result<Greeted, HandshakeError> {
    let credentials = Arc::clone(&endpoint.credentials.borrow());
    handshake::accept(stream, &Party::new(endpoint, &credentials), |_| Ok(())).await
}

pub(super) fn hello(endpoint: &Endpoint) -> Hello {
    let credentials = Arc::clone(&endpoint.credentials.borrow());
    Hello::of(&Party::new(endpoint, &credentials)).unwrap()
}

/// One end of a stream in memory whose other end is served.
pub(super) struct Piped {
    pub stream: DuplexStream,
    pub stop: watch::Sender<bool>,
    pub serving: JoinHandle<Result<(), ServeError>>,
}

pub(super) fn piped<H: Handler>(room: usize, endpoint: Endpoint, handler: H) -> Piped {
    let (stream, there) = tokio::io::duplex(room);
    let (stop, signal) = watch::channel(false);
    let handler = Arc::new(handler);
    let serving = tokio::spawn(async move { serve(there, &endpoint, handler, signal).await });
    Piped {
        stream,
        stop,
        serving,
    }
}

/// A listener that serves each stream it accepts.
pub(super) struct Server {
    pub address: String,
    pub shutdown: watch::Sender<bool>,
    pub ends: mpsc::UnboundedReceiver<Result<(), ServeError>>,
    pub task: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start<H: Handler>(endpoint: Endpoint, handler: H) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (shutdown, signal) = watch::channel(false);
        let (sender, ends) = mpsc::unbounded_channel();
        let endpoint = Arc::new(endpoint);
        let handler = Arc::new(handler);
        let task = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            let mut stop = signal.clone();
            loop {
                let (stream, _) = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap(),
                    _ = stop.wait_for(|stop| *stop) => break,
                };
                let endpoint = Arc::clone(&endpoint);
                let handler = Arc::clone(&handler);
                let signal = signal.clone();
                let sender = sender.clone();
                serving.spawn(async move {
                    let end = serve(stream, &endpoint, handler, signal).await;
                    let _ = sender.send(end);
                });
            }
            drop(listener);
            while serving.join_next().await.is_some() {}
        });
        Self {
            address,
            shutdown,
            ends,
            task,
        }
    }

    /// A handle that drops all of the server's streams without closing them.
    pub(super) fn killer(&self) -> AbortHandle {
        self.task.abort_handle()
    }
}

pub(super) async fn connect(server: &Server, endpoint: &Endpoint) -> Connection {
    let stream = TcpStream::connect(&server.address).await.unwrap();
    Connection::open(stream, endpoint, None).await.unwrap()
}

/// The outcomes of both sides of a handshake over a socket.
pub(super) async fn shake(
    connecting: &Endpoint,
    accepting: Endpoint,
    wanted: Option<u32>,
) -> (Result<Connection, HandshakeError>, Result<(), ServeError>) {
    let mut server = Server::start(accepting, Echo).await;
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let connection = Connection::open(stream, connecting, wanted).await;
    if let Ok(connection) = &connection {
        let answer = connection.request(Bytes::from_static(b"hello")).await;
        assert_eq!(answer.unwrap(), "hello");
        server.shutdown.send_replace(true);
    }
    (connection, server.ends.recv().await.unwrap())
}

/// A body that encodes a number, and the number in a body.
pub(super) fn body(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

pub(super) fn number(body: &[u8]) -> u64 {
    u64::from_be_bytes(body[..8].try_into().unwrap())
}
