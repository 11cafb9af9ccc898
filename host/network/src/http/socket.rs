//! A client's socket. It leaves nothing with the system when it is dropped.
//!
//! By default, the system keeps what was sent on a closed socket, up to the size of its send
//! buffer, until the client has taken it or minutes have passed. Clients that connect, ask, take
//! nothing and make the host close the connection could collect any amount of memory that way,
//! which the container is charged for. So a socket whose client has not taken everything is reset
//! when it is dropped. Whoever wants the client to have its last answer waits for that first.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What the system still holds for a client, seen from outside the connection.
#[derive(Debug, Default)]
pub(super) struct SendQueue(
    /// The socket's descriptor, until the socket is closed. A std mutex, held only briefly.
    Mutex<Option<RawFd>>,
);

impl SendQueue {
    fn lock(&self) -> MutexGuard<'_, Option<RawFd>> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// How many bytes the client's system has not acknowledged; the end of the stream counts as
    /// one. Zero before a socket is there, and after it is closed.
    #[expect(unsafe_code, reason = "no crate here asks this in safe Rust")]
    pub(super) fn untaken(&self) -> usize {
        let descriptor = self.lock();
        let Some(descriptor) = *descriptor else {
            return 0;
        };
        let mut bytes: libc::c_int = 0;
        // SAFETY: the request writes one int, and `bytes` is one. The descriptor is the socket's:
        // it is forgotten before the socket is closed, and the lock is held until the call is over.
        let asked = unsafe { libc::ioctl(descriptor, libc::TIOCOUTQ, &raw mut bytes) };
        if asked == 0 {
            usize::try_from(bytes).unwrap_or(0)
        } else {
            0
        }
    }
}

#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    queue: Arc<SendQueue>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, queue: Arc<SendQueue>) -> Self {
        *queue.lock() = Some(stream.as_raw_fd());
        Self { stream, queue }
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn queue(&self) -> &SendQueue {
        &self.queue
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.queue.untaken() > 0 {
            // The system then discards its buffer, and tells the client.
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
        *self.queue.lock() = None;
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
