//! A client's stream, with or without TLS.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::socket::Socket;
use crate::tls::ServerStream;

/// The interval of keep-alive probes, and how many a client may leave unanswered.
const PROBE: Duration = Duration::from_secs(1);
const PROBES: u32 = 5;

/// A plain or a TLS stream; the first byte decides which.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(Socket),
    Tls(Box<ServerStream<Socket>>),
}

impl Stream {
    /// The underlying socket, for bytes whose content no longer matters.
    pub(super) fn into_socket(self) -> Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.into_inner().0,
        }
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket.stream(),
            Self::Tls(stream) => stream.get_ref().0.stream(),
        }
    }

    /// Waits until the client has sent bytes or closed its sending side.
    ///
    /// # Errors
    /// When the client has reset the connection.
    pub(super) fn poll_sent(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        let peeked = self.socket().poll_peek(context, &mut byte);
        peeked.map_ok(|_| ())
    }

    /// Makes the system probe every second whether the client is there, so that [`Stream::check`]
    /// detects a client that has gone. A live client answers probes even after it has closed its
    /// sending side. The system of a client that is gone resets the connection, on Linux after a
    /// minute, or does not answer.
    pub(super) fn probe(&self) {
        let probes = TcpKeepalive::new()
            .with_time(PROBE)
            .with_interval(PROBE)
            .with_retries(PROBES);
        // Without probes, the loss is noticed only when the answer is sent.
        let _ = SockRef::from(self.socket()).set_tcp_keepalive(&probes);
    }

    /// Checks whether the connection still exists, regardless of unread bytes.
    ///
    /// # Errors
    /// When the client has reset the connection, or answers no probes.
    pub(super) fn check(&self) -> io::Result<()> {
        self.socket().take_error()?.map_or(Ok(()), Err)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
