//! Writes a guest's standard output and error to the log, line by line.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use super::log::Lines;

/// The length at which an unfinished line is written, in bytes.
const MAX_PENDING: usize = 4 << 10;

/// The limit on the bytes in one write.
const MAX_WRITE: usize = 64 << 10;

/// One of the two streams; clones write to the same line.
#[derive(Clone)]
pub(super) struct LogStream {
    lines: Lines,
    level: tracing::Level,
    /// A std mutex: never held over an await.
    pending: Arc<Mutex<Vec<u8>>>,
}

impl LogStream {
    pub(super) fn new(lines: Lines, level: tracing::Level) -> Self {
        Self {
            lines,
            level,
            pending: Arc::default(),
        }
    }

    fn push(&self, bytes: &[u8]) {
        let mut pending = self.pending.lock().expect("no holder of this lock panics");
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            pending.extend_from_slice(&piece[..piece.len().min(MAX_PENDING)]);
            if piece.ends_with(b"\n") || pending.len() >= MAX_PENDING {
                self.lines
                    .write(self.level, &String::from_utf8_lossy(&pending));
                pending.clear();
            }
        }
    }
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > MAX_WRITE {
            return Err(StreamError::trap(
                "more was written than `check-write` allows",
            ));
        }
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_WRITE)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

impl AsyncWrite for LogStream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use ostrakon_observe::metrics::Metrics;

    use super::*;
    use crate::log::GuestLog;

    #[test]
    fn no_more_is_written_at_once_than_is_allowed() {
        let metrics = Arc::new(Metrics::new("test"));
        let log = Arc::new(GuestLog::new("test".to_owned(), 1, metrics));
        let mut stream = LogStream::new(Lines::new(log), tracing::Level::INFO);
        let allowed = stream.check_write().expect("it is open");
        let lines = |count| Bytes::from(vec![b'\n'; count]);
        stream.write(lines(allowed)).expect("it is allowed");
        stream
            .write(lines(allowed + 1))
            .expect_err("it is too much");
    }
}
