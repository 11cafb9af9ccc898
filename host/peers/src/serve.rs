//! The accepting side of a connection.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ostrakon_network::tls;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::cause::Cause;
use super::credentials::revoked;
use super::endpoint::{Endpoint, Identity};
use super::frame::Frame;
use super::handshake::{self, Greeted, Party};
use super::handshake_error::HandshakeError;
use super::outbox::Outbox;
use super::session::Session;

/// How many bytes are read ahead to recognise TLS.
const PEEKED: usize = 1 << 10;
const FAREWELL: Duration = Duration::from_secs(1);

pub trait Handler: Send + Sync + 'static {
    /// Decides whether a peer may stay after a successful handshake. The peer is told the reason
    /// of a refusal.
    ///
    /// # Errors
    /// The reason of the refusal.
    fn admit(&self, peer: &Identity) -> Result<(), String> {
        let _ = peer;
        Ok(())
    }

    /// Answers one request. The future is dropped if the connection ends, or if the other side
    /// cancels the request.
    fn call(&self, peer: Identity, body: Bytes) -> impl Future<Output = Bytes> + Send;
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The connection failed after the handshake.
    #[error(transparent)]
    Connection(#[from] Cause),
}

/// A stream whose other side has authenticated.
enum Known<S> {
    Plain(S, Greeted),
    Tls(Box<tls::Stream<S>>, Greeted),
}

/// Serves one stream until the other side closes it, or until `shutdown` turns true and all
/// requests are answered. The other side's first byte decides whether the stream uses TLS; the
/// credentials decide whether it may.
///
/// Dropping the future ends the connection and the requests that it is working on.
///
/// # Errors
/// When the handshake or the connection fails.
pub async fn serve<S, H>(
    stream: S,
    endpoint: &Endpoint,
    handler: Arc<H>,
    shutdown: watch::Receiver<bool>,
) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let mut place = endpoint.backlog.enter(endpoint.settings.max_greeting);
    let stream = BufReader::with_capacity(PEEKED, stream);
    let known = tokio::select! {
        known = greet(stream, endpoint, &*handler) => known,
        () = place.lost() => Err(HandshakeError::CrowdedOut),
    };
    drop(place);
    match known {
        Ok(Known::Plain(stream, greeted)) => {
            attend(stream, greeted, endpoint, handler, shutdown).await
        }
        Ok(Known::Tls(stream, greeted)) => {
            attend(stream, greeted, endpoint, handler, shutdown).await
        }
        Err(error) => {
            if error.is_ours() {
                tracing::warn!(%error, "handshake with peer failed");
            } else {
                tracing::debug!(%error, "handshake with peer failed");
            }
            Err(error.into())
        }
    }
}

async fn greet<S, H>(
    mut stream: BufReader<S>,
    endpoint: &Endpoint,
    handler: &H,
) -> Result<Known<BufReader<S>>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
{
    let admit = |peer: &_| handler.admit(peer);
    let credentials = Arc::clone(&endpoint.credentials.borrow());
    let mut us = Party::new(endpoint, &credentials);
    let first = us.in_time(async { Ok(stream.fill_buf().await?.first().copied()) });
    match (first.await?, &credentials.tls) {
        (Some(tls::FIRST_BYTE), None) => Err(HandshakeError::PlainHere),
        (Some(tls::FIRST_BYTE), Some(mutual)) => {
            let accepted = async {
                match mutual.accept(stream).await {
                    Ok(secured) => Ok(secured),
                    Err((problem, stream)) => {
                        if let Some(stream) = stream {
                            part(stream).await;
                        }
                        Err(HandshakeError::Tls(problem))
                    }
                }
            };
            let secured = us.in_time(accepted).await?;
            (us.chain, us.binding) = (Some(secured.chain), Some(secured.binding));
            let mut stream = Box::new(secured.stream);
            let greeted = handshake::accept(&mut stream, &us, admit).await?;
            Ok(Known::Tls(stream, greeted))
        }
        (Some(_), _) if !credentials.takes_plain() => Err(HandshakeError::PlainThere),
        (Some(_), _) => {
            let greeted = handshake::accept(&mut stream, &us, admit).await?;
            Ok(Known::Plain(stream, greeted))
        }
        (None, _) => Err(HandshakeError::Closed),
    }
}

/// Gives the other side time to read the last message. Closing a socket with unread bytes would
/// reset the stream, and the message might be lost.
async fn part<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let last = async {
        stream.shutdown().await?;
        let mut sink = [0; 1024];
        while stream.read(&mut sink).await? > 0 {}
        std::io::Result::Ok(())
    };
    let _ = timeout(FAREWELL, last).await;
}

async fn attend<S, H>(
    stream: S,
    greeted: Greeted,
    endpoint: &Endpoint,
    handler: Arc<H>,
    shutdown: watch::Receiver<bool>,
) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
{
    let peer = greeted.peer;
    let mut buffer = greeted.buffer;
    let (mut from, to) = tokio::io::split(stream);
    let outbox = Arc::new(Outbox::default());
    let mut writing = pin!(outbox.write(to));
    let session = Session::new(peer, &endpoint.settings, handler, Arc::clone(&outbox));
    let (sender, revocation) = watch::channel(false);
    let revoked = async {
        revoked(endpoint.credentials.clone(), greeted.shown).await;
        sender.send_replace(true);
        sleep(endpoint.settings.revoked_timeout).await;
    };
    let leave = async {
        tokio::select! {
            () = fired(shutdown) => {}
            () = fired(revocation) => {}
        }
    };
    let end = tokio::select! {
        biased;
        end = session.run(&mut buffer, &mut from, leave) => end,
        written = &mut writing => Err(written.err().map_or(Cause::Closed, Cause::from)),
        () = revoked => Err(Cause::Revoked),
    };
    let farewell = match &end {
        Ok(()) => true,
        Err(cause) => {
            tracing::debug!(peer = peer.ordinal, error = %cause, "connection from peer ended");
            cause.told().is_some_and(|reason| {
                outbox.push(Frame::Closing(Bytes::from(reason)), None);
                true
            })
        }
    };
    if farewell {
        outbox.finish();
        let last = async {
            writing.await?;
            // Closing a socket with unread bytes would reset the stream, and the other side might
            // lose the last frames.
            let mut sink = [0; 1024];
            while from.read(&mut sink).await? > 0 {}
            std::io::Result::Ok(())
        };
        let _ = timeout(FAREWELL, last).await;
    }
    match end {
        Ok(()) | Err(Cause::Closed) => Ok(()),
        Err(cause) => Err(cause.into()),
    }
}

async fn fired(mut signal: watch::Receiver<bool>) {
    let fired = signal.wait_for(|fired| *fired).await.is_ok();
    if !fired {
        // The sender is gone, so the signal can no longer come.
        std::future::pending::<()>().await;
    }
}
