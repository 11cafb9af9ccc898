//! The accepting side of a connection.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

use super::cause::Cause;
use super::endpoint::Endpoint;
use super::frame::Frame;
use super::handler::Handler;
use super::handshake;
use super::handshake_error::HandshakeError;
use super::outbox::Outbox;
use super::session::Session;
use super::writer;

const FAREWELL: Duration = Duration::from_secs(1);

/// The reason why serving a connection ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The handshake failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The connection failed later.
    #[error(transparent)]
    Connection(#[from] Cause),
}

/// Serves one stream until the other side closes it, or until `shutdown`
/// turns true and all that was asked is answered.
///
/// Dropping the future ends the connection and the requests it works on.
///
/// # Errors
/// When the handshake or the connection fails.
pub async fn serve<S, H>(
    mut stream: S,
    endpoint: &Endpoint,
    handler: Arc<H>,
    shutdown: watch::Receiver<bool>,
) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let admit = |peer: &_| handler.admit(peer);
    let greeted = match handshake::accept(&mut stream, endpoint, admit).await {
        Ok(greeted) => greeted,
        Err(error) => {
            if error.is_ours() {
                tracing::warn!(%error, "handshake with peer failed");
            } else {
                tracing::debug!(%error, "handshake with peer failed");
            }
            return Err(error.into());
        }
    };
    let peer = greeted.peer;
    let mut buffer = greeted.buffer;
    let (mut from, to) = tokio::io::split(stream);
    let outbox = Outbox::new();
    let mut writing = pin!(writer::write(&*outbox, to));
    let session = Session::new(peer, &endpoint.settings, handler, Arc::clone(&outbox));
    let end = tokio::select! {
        end = session.run(&mut buffer, &mut from, shutdown) => end,
        written = &mut writing => Err(written.err().map_or(Cause::Closed, Cause::from)),
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
            // Closing with bytes unread would reset the stream, and the other
            // side might lose the last frames.
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
