//! A client's stream, in TLS or not.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::tls::ServerStream;

/// How often a client is probed, and how many probes it may leave without an answer.
const PROBE: Duration = Duration::from_secs(1);
const PROBES: u32 = 5;

/// One of the two, known only when its first byte has come.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<ServerStream<TcpStream>>),
}

impl Stream {
    /// The socket below, for what has no meaning any more.
    pub(super) fn into_socket(self) -> TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.into_inner().0,
        }
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Has the system throw away what it keeps for the client when the stream is dropped: who has taken
    /// nothing for long takes nothing any more.
    pub(super) fn forget(&self) {
        // Without it, the system keeps that for minutes.
        let _ = SockRef::from(self.socket()).set_linger(Some(Duration::ZERO));
    }

    /// Waits until the client has sent something, or closed its sending side.
    ///
    /// # Errors
    /// When it has reset the connection.
    pub(super) fn poll_sent(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        let peeked = self.socket().poll_peek(context, &mut byte);
        peeked.map_ok(|_| ())
    }

    /// Has the system ask every second whether the client is there, so that [`Stream::check`] finds
    /// out: one that is there answers, also where it has said all. The system of one that is not says
    /// so, after a minute where that is Linux, or does not answer.
    pub(super) fn probe(&self) {
        let probes = TcpKeepalive::new()
            .with_time(PROBE)
            .with_interval(PROBE)
            .with_retries(PROBES);
        // Without them, it is found out when the answer is sent.
        let _ = SockRef::from(self.socket()).set_tcp_keepalive(&probes);
    }

    /// Whether the connection still is, whatever can be read of it.
    ///
    /// # Errors
    /// When the client has reset it, or answers no probe.
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
