//! The end of a connection: sends the last answer, and drains what the client still sends.
//!
//! Closing a socket with unread input resets the connection, and a reset can discard the answer
//! before the client has read it. So the sending side is closed first, and input is read and
//! discarded until the client has closed its side, too (RFC 9112, 9.6).

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::Refusal;
use super::server::down;
use super::socket::Socket;
use super::stream::Stream;
use super::wire::Activity;

/// How long a client may take nothing, or go on sending: long enough for a proxy to notice that it should stop, and
/// for a client that sends everything before it reads to send a body that is not much too large.
const AT_MOST: Duration = Duration::from_secs(30);
/// How many bytes the client may still send.
const BYTES: u64 = 256 * 1024 * 1024;
/// How long the client may pause without closing its side.
const PAUSE: Duration = Duration::from_secs(5);
/// How long the client may take once the server is shut down.
const WHEN_DOWN: Duration = Duration::from_secs(1);
/// How long to wait before checking again whether the client has taken everything; doubled each
/// time, up to the second.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(100);
/// The size of the read buffer, in bytes.
const BUFFER: usize = 8 * 1024;

/// Sends a refusal, if any, to an HTTP/1 client and closes the sending side. Then drains the
/// connection until the client has closed its side or a bound is reached, and waits until its
/// system has taken everything. The connection's place may be given away as soon as nothing more
/// is owed to the client.
pub(super) async fn close(
    stream: Stream,
    last_words: Option<Refusal>,
    activity: &Activity,
    shutdown: watch::Receiver<bool>,
) {
    activity.lingers();
    let is_down = async |pause| {
        down(&mut shutdown.clone()).await;
        sleep(pause).await;
    };
    let socket = tokio::select! {
        socket = end(stream, last_words) => socket,
        () = is_down(WHEN_DOWN) => return,
    };
    let Some(mut socket) = socket else {
        return;
    };
    tokio::select! {
        _read_or_overdue = timeout(AT_MOST, discard(&mut socket)) => {}
        () = is_down(WHEN_DOWN) => {}
    }
    tokio::select! {
        () = taken(&socket) => {}
        () = is_down(PAUSE) => {}
    }
}

/// Closes the sending side, in TLS too. Returns `None` if the client takes nothing.
async fn end(mut stream: Stream, last_words: Option<Refusal>) -> Option<Socket> {
    let closed = async {
        if let Some(refusal) = last_words {
            stream.write_all(&refusal.http1()).await?;
        }
        stream.shutdown().await
    };
    // The refusal fits into the socket's buffer, unless the client has taken nothing for long.
    match timeout(PAUSE, closed).await {
        Ok(Ok(())) => Some(stream.into_socket()),
        Ok(Err(_)) | Err(_) => None,
    }
}

/// Reads what the client still sends. In TLS it is not even decrypted.
async fn discard(socket: &mut Socket) {
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

/// Waits until the client's system has acknowledged everything, or nothing for long: a client that
/// closed its sending side may still be reading.
async fn taken(socket: &Socket) {
    let (mut left, mut since) = (socket.queue().untaken(), Instant::now());
    let mut pause = FIRST_LOOK;
    while left > 0 && since.elapsed() < AT_MOST {
        sleep(pause).await;
        pause = (pause * 2).min(LAST_LOOK);
        let now = socket.queue().untaken();
        if now < left {
            since = Instant::now();
        }
        left = now;
    }
}
