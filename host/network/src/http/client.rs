//! A client that sends one request to a server of this host, for the command line and for tests.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::net::TcpStream;

/// The largest accepted answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server accepts connections at the address.
    #[error("cannot connect to {address}: check the address and whether the shard runs")]
    Connect {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the address of {authority} cannot be found: check the name")]
    Resolve {
        /// The host and port that were given.
        authority: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{path:?} is not a path: begin it with / and percent-encode it")]
    Path {
        path: String,
        #[source]
        source: http::Error,
    },
    /// The connection ended before the answer was complete.
    #[error("{address} ended the connection before it had answered: try again")]
    Exchange {
        address: SocketAddr,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer did not arrive in time.
    #[error("{authority} did not answer within {timeout:?}: try again, or allow it more time")]
    Timeout {
        /// The host and port that were given.
        authority: String,
        timeout: Duration,
    },
}

/// Sends a request without a body. Returns the answer's status and body, if it arrives within
/// `timeout`.
///
/// # Errors
/// When no complete answer arrives in time.
pub async fn request(
    address: SocketAddr,
    method: Method,
    path: &str,
    timeout: Duration,
) -> Result<(StatusCode, Bytes), Error> {
    let authority = address.to_string();
    send(&authority, method, path, Question::default(), timeout).await
}

/// The body and credentials of a request.
#[derive(Clone, Default)]
pub struct Question {
    pub body: Bytes,
    pub authorization: Option<HeaderValue>,
}

/// As [`request`], but to a host and port by name, with a body and credentials.
///
/// # Errors
/// When no complete answer arrives in time.
pub async fn send(
    authority: &str,
    method: Method,
    path: &str,
    question: Question,
    timeout: Duration,
) -> Result<(StatusCode, Bytes), Error> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .body(question.body)
        .map_err(|source| Error::Path {
            path: path.to_owned(),
            source,
        })?;
    if let Some(authorization) = question.authorization {
        request.headers_mut().insert(AUTHORIZATION, authorization);
    }
    let asking = async {
        let (stream, address) = connect(authority).await?;
        // If this future is dropped before the answer arrives, the connection is reset. A mere end
        // of the sending side would not tell the server that the client has stopped waiting.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        exchange(stream, address, authority, request).await
    };
    let answer = tokio::time::timeout(timeout, asking).await;
    answer.unwrap_or_else(|_| {
        let authority = authority.to_owned();
        Err(Error::Timeout { authority, timeout })
    })
}

/// Sends a request to a host and port by name. Returns the answer's status and body. The caller
/// must bound the time.
///
/// # Errors
/// When no complete answer arrives.
pub async fn deliver(
    authority: &str,
    request: Request<Bytes>,
) -> Result<(StatusCode, Bytes), Error> {
    let (stream, address) = connect(authority).await?;
    exchange(stream, address, authority, request).await
}

async fn connect(authority: &str) -> Result<(TcpStream, SocketAddr), Error> {
    let unresolved = |source| Error::Resolve {
        authority: authority.to_owned(),
        source,
    };
    let found = tokio::net::lookup_host(authority)
        .await
        .map_err(&unresolved)?;
    let mut failed = unresolved(std::io::ErrorKind::NotFound.into());
    // A name can have addresses on which no server listens.
    for address in found {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok((stream, address)),
            Err(source) => failed = Error::Connect { address, source },
        }
    }
    Err(failed)
}

async fn exchange(
    stream: TcpStream,
    address: SocketAddr,
    authority: &str,
    mut request: Request<Bytes>,
) -> Result<(StatusCode, Bytes), Error> {
    let host = HeaderValue::try_from(authority).expect("a host and port make a header");
    request.headers_mut().insert(HOST, host);
    let exchange = |source: hyper::Error| Error::Exchange {
        address,
        source: source.into(),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(exchange)?;
    let answer = async {
        let (head, body) = sender
            .send_request(request.map(Full::new))
            .await
            .map_err(exchange)?
            .into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|source| Error::Exchange { address, source })?;
        Ok((head.status, body.to_bytes()))
    };
    // The connection ends with the answer, or its failure makes the answer fail, so its own result
    // adds nothing.
    let (mut answer, mut connection) = (std::pin::pin!(answer), std::pin::pin!(connection));
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = &mut connection => answer.await,
    }
}
