//! The end of a connection: sends the last answer, and drains what the client still sends.
//!
//! Closing a socket with unread input resets the connection, and a reset can discard the answer
//! before the client has read it. So the sending side is closed first, and input is read and
//! discarded until the client has closed its side, too (RFC 9112, 9.6).

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Refusal;
use super::server::down;
use super::stream::Stream;
use super::wire::Activity;

/// How long a client may go on sending: long enough for a proxy to notice that it should stop, and
/// for a client that sends everything before it reads to send a body that is not much too large.
const AT_MOST: Duration = Duration::from_secs(30);
/// How many bytes the client may still send.
const BYTES: u64 = 256 * 1024 * 1024;
/// How long the client may pause without closing its side.
const PAUSE: Duration = Duration::from_secs(5);
/// How long the client may take once the server is shut down.
const WHEN_DOWN: Duration = Duration::from_secs(1);
/// The size of the read buffer, in bytes.
const BUFFER: usize = 8 * 1024;

/// Sends a refusal, if any, to an HTTP/1 client and closes the sending side. Then drains the
/// connection until the client has closed its side or a bound is reached. The connection's place
/// may be given away at any time: nothing more is owed to the client.
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
    // The refusal fits into the socket's buffer, unless the client has taken nothing for long.
    if !matches!(timeout(PAUSE, closed).await, Ok(Ok(()))) {
        stream.forget();
        return;
    }
    // In TLS the input is not even decrypted.
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
