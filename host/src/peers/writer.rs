//! The side of a connection that writes.

use std::io;

use tokio::io::{AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::frame::Frame;

const BATCH: usize = 64 << 10;

/// What a writer is to do next.
pub(super) enum Step {
    /// Write a frame, and keep a permit until it is flushed.
    Write(Frame, Option<OwnedSemaphorePermit>),
    /// Flush, and wait until there is more.
    Wait,
    /// Flush, and close our direction of the stream.
    Finish,
}

/// A source of frames to write.
pub(super) trait Source {
    /// What to do next.
    fn step(&self) -> Step;

    /// What tells that there is more to do; only the writer waits on it.
    fn more(&self) -> &Notify;
}

/// Writes what a source gives, as many frames to a flush as there are.
pub(super) async fn write<W: AsyncWrite + Unpin>(source: &impl Source, to: W) -> io::Result<()> {
    let mut to = BufWriter::with_capacity(BATCH, to);
    let mut permits = Vec::new();
    loop {
        match source.step() {
            Step::Write(frame, permit) => {
                let (head, body) = frame.encode();
                to.write_all(&head).await?;
                to.write_all(&body).await?;
                permits.extend(permit);
            }
            Step::Wait => {
                to.flush().await?;
                permits.clear();
                source.more().notified().await;
            }
            Step::Finish => {
                to.flush().await?;
                return to.shutdown().await;
            }
        }
    }
}
