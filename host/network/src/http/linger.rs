//! The end of a connection: the last word to its client, and what that still sends.
//!
//! Closing with input that nobody has read resets the connection, and a reset takes away what the
//! client has not read yet: the answer. So the sending side is closed first, and what comes is
//! read and thrown away until the client has closed its side, too (RFC 9112, 9.6).

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Refusal;
use super::server::down;
use super::stream::Stream;
use super::wire::Activity;

/// How long a client may go on sending: as long as a proxy takes to see that it is to stop, and a
/// client that reads nothing before it has sent all to send what is not much too large.
const AT_MOST: Duration = Duration::from_secs(30);
/// How much it may send.
const BYTES: u64 = 256 * 1024 * 1024;
/// How long it may send nothing, without closing its side.
const PAUSE: Duration = Duration::from_secs(5);
/// How long it may take once the server is shut down.
const WHEN_DOWN: Duration = Duration::from_secs(1);
/// The memory that reading takes.
const BUFFER: usize = 8 * 1024;

/// Sends a refusal to an HTTP/1 client, if there is one, and closes the sending side; the rest when
/// the client has done so, too, or a bound is reached. Whoever has the connection's place may take it
/// away at any time: nothing more is owed to its client.
pub(super) async fn close(
    stream: Stream,
    last_words: Option<Refusal>,
    activity: &Activity,
    mut shutdown: watch::Receiver<bool>,
) {
    activity.lingers();
    let is_down = async {
        down(&mut shutdown).await;
        sleep(WHEN_DOWN).await;
    };
    tokio::select! {
        _read_or_overdue = timeout(AT_MOST, discard(stream, last_words)) => {}
        () = is_down => {}
    }
}

async fn discard(mut stream: Stream, last_words: Option<Refusal>) {
    let closed = async {
        if let Some(refusal) = last_words {
            stream.write_all(&refusal.http1()).await?;
        }
        stream.shutdown().await
    };
    // It fits into the socket's buffer, unless the client has taken nothing for long.
    if !matches!(timeout(PAUSE, closed).await, Ok(Ok(()))) {
        stream.forget();
        return;
    }
    // In TLS it is not even decrypted.
    let mut socket = stream.into_socket();
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut left = BYTES;
    while let Ok(Ok(read @ 1..)) = timeout(PAUSE, socket.read_buf(&mut buffer)).await {
        buffer.clear();
        left = left.saturating_sub(read as u64);
        if left == 0 {
            return;
        }
    }
}
