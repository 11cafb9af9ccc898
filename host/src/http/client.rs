//! One request to a server of this host, for the command line and for tests.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The largest answer that is taken.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nobody at the address.
    #[error("cannot connect to {address}: check the address and whether the shard runs")]
    Connect {
        /// Whom the request was for.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The path is not one.
    #[error("{path:?} is not a path: begin it with / and percent-encode it")]
    Path {
        /// The path given.
        path: String,
        /// What is wrong with it.
        #[source]
        source: http::Error,
    },
    /// The connection ended before the answer did.
    #[error("{address} ended the connection before it had answered: try again")]
    Exchange {
        /// Whom the request was for.
        address: SocketAddr,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer did not come in time.
    #[error("{address} did not answer within {timeout:?}: try again, or allow it more time")]
    Timeout {
        /// Whom the request was for.
        address: SocketAddr,
        /// The time it had.
        timeout: Duration,
    },
}

/// Sends a request without a body; gives the answer's status and body, within `timeout`.
///
/// # Errors
/// When there is no whole answer in time.
pub async fn request(
    address: SocketAddr,
    method: Method,
    path: &str,
    timeout: Duration,
) -> Result<(StatusCode, Bytes), Error> {
    send(address, method, path, Question::default(), timeout).await
}

/// What goes with a request.
#[derive(Clone, Default)]
pub struct Question {
    /// Its body.
    pub body: Bytes,
    /// What it is allowed by: the value of its header `authorization`.
    pub authorization: Option<HeaderValue>,
}

/// As [`request`], with what goes with it.
///
/// # Errors
/// When there is no whole answer in time.
pub async fn send(
    address: SocketAddr,
    method: Method,
    path: &str,
    question: Question,
    timeout: Duration,
) -> Result<(StatusCode, Bytes), Error> {
    let answer = tokio::time::timeout(timeout, exchange(address, method, path, question)).await;
    answer.unwrap_or(Err(Error::Timeout { address, timeout }))
}

async fn exchange(
    address: SocketAddr,
    method: Method,
    path: &str,
    question: Question,
) -> Result<(StatusCode, Bytes), Error> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address.to_string())
        .body(Full::new(question.body))
        .map_err(|source| Error::Path {
            path: path.to_owned(),
            source,
        })?;
    if let Some(authorization) = question.authorization {
        request.headers_mut().insert(AUTHORIZATION, authorization);
    }
    let stream = TcpStream::connect(address)
        .await
        .map_err(|source| Error::Connect { address, source })?;
    let exchange = |source: hyper::Error| Error::Exchange {
        address,
        source: source.into(),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(exchange)?;
    let answer = async {
        let (head, body) = sender
            .send_request(request)
            .await
            .map_err(exchange)?
            .into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|source| Error::Exchange { address, source })?;
        Ok((head.status, body.to_bytes()))
    };
    // The connection ends with the answer or, where it fails, makes the answer fail: its own result
    // says nothing more.
    let (mut answer, mut connection) = (std::pin::pin!(answer), std::pin::pin!(connection));
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = &mut connection => answer.await,
    }
}
