//! A connection's socket, seen from below HTTP: what is on its way, and since when.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::stream::Stream;

/// Longer than what h2 writes without a request: a peer that only pings does not count as busy.
const CONTROL_BYTES: usize = 64;

/// How often a client is looked for of which nothing can come that would wake anybody: it has
/// closed its sending side, or sent more than is read yet.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of a request's headers.
    Head,
    /// A handler, which has deadlines of its own.
    Busy,
    /// The client, to take its answer.
    Answering,
}

/// A connection's phase, kept by its wire and its service, read by its watchdog.
///
/// Atomics, since h2 runs each stream in a task of its own; relaxed, since they order nothing
/// else: a phase seen late is seen at the next poll.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    /// Handlers that run.
    in_flight: AtomicUsize,
    /// Whether an answer was given that is not yet flushed.
    owed: AtomicBool,
    /// Whether a part of a request's headers has come.
    head: AtomicBool,
    /// When the phase began, or last made progress, in nanoseconds after `opened`.
    since: AtomicU64,
}

impl Activity {
    /// A connection that has sent the first part of its first headers.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            in_flight: AtomicUsize::new(0),
            owed: AtomicBool::new(false),
            head: AtomicBool::new(true),
            since: AtomicU64::new(0),
        })
    }

    /// The phase and when it began or last made progress.
    pub(super) fn phase(&self) -> (Phase, Instant) {
        let phase = if self.in_flight.load(Ordering::Relaxed) > 0 {
            Phase::Busy
        } else if self.owed.load(Ordering::Relaxed) {
            Phase::Answering
        } else if self.head.load(Ordering::Relaxed) {
            Phase::Head
        } else {
            Phase::Idle
        };
        (
            phase,
            self.opened + Duration::from_nanos(self.since.load(Ordering::Relaxed)),
        )
    }

    /// A request's headers are read; it is in flight until the guard is dropped.
    pub(super) fn request(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.head.store(false, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    fn touch(&self) {
        let since = u64::try_from(self.opened.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.since.store(since, Ordering::Relaxed);
    }

    fn began_head(&self) {
        if self.phase().0 == Phase::Idle {
            self.head.store(true, Ordering::Relaxed);
            self.touch();
        }
    }

    fn flushed(&self) {
        if self.in_flight.load(Ordering::Relaxed) == 0 {
            self.owed.store(false, Ordering::Relaxed);
        }
    }

    fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    fn unasked(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0 && !self.owed.load(Ordering::Relaxed)
    }
}

/// A request that a handler works on.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.owed.store(true, Ordering::Relaxed);
        self.0.touch();
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A socket whose first bytes were read already, to see which protocol they are of.
///
/// On HTTP/1 it also takes back what hyper writes unasked: its own short answer to headers that it
/// cannot parse, which is then given in the host's words.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    /// What was read already, and how far it is handed on.
    preface: Vec<u8>,
    activity: Arc<Activity>,
    http2: bool,
    refused: Option<StatusCode>,
    /// When the client is looked for next, where nothing would wake anybody.
    look: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    pub(super) fn new(
        stream: Stream,
        preface: Vec<u8>,
        http2: bool,
        activity: Arc<Activity>,
    ) -> Self {
        if http2 {
            // Frames come whenever they like: there is no phase of headers.
            activity.head.store(false, Ordering::Relaxed);
        }
        Self {
            stream,
            preface,
            activity,
            http2,
            refused: None,
            look: None,
        }
    }

    /// The status with which hyper wanted to refuse what it read.
    pub(super) fn refused(&self) -> Option<StatusCode> {
        self.refused
    }

    pub(super) fn into_stream(self) -> Stream {
        self.stream
    }

    /// Whether `bytes`, about to be written, are an answer that no handler gave.
    fn intercept(&mut self, bytes: &[u8]) -> bool {
        if self.http2 || !self.activity.unasked() {
            return false;
        }
        let status = bytes
            .get(9..12)
            .and_then(|digits| StatusCode::from_bytes(digits).ok());
        let refused = status.filter(StatusCode::is_client_error);
        self.refused = self.refused.or(refused);
        self.refused.is_some()
    }

    /// Whether the client has gone while its request is worked on.
    ///
    /// Nothing is read of it meanwhile, for the end of what it sends does not mean that: it may wait
    /// for its answer. Only a reset does, or that probes are not answered.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.http2 || !self.activity.is_busy() {
            self.look = None;
            return Ok(());
        }
        loop {
            match &mut self.look {
                None => match self.stream.poll_sent(context) {
                    Poll::Ready(sent) => {
                        sent?;
                        self.stream.probe();
                        self.look = Some(Box::pin(sleep(LOOK_EVERY)));
                    }
                    Poll::Pending => return Ok(()),
                },
                Some(look) => {
                    if look.as_mut().poll(context).is_pending() {
                        return Ok(());
                    }
                    self.stream.check()?;
                    look.as_mut().reset(Instant::now() + LOOK_EVERY);
                }
            }
        }
    }

    fn wrote(&self, written: &Poll<io::Result<usize>>, offered: usize) {
        if let Poll::Ready(Ok(written)) = written {
            // On HTTP/1 an answer begins its phase afresh; only one that is taken in parts makes
            // progress after that. This saves the clock's price on each request.
            if *written < offered || (self.http2 && *written > CONTROL_BYTES) {
                self.activity.touch();
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if !wire.preface.is_empty() {
            let rest = wire
                .preface
                .split_off(wire.preface.len().min(buffer.remaining()));
            buffer.put_slice(&std::mem::replace(&mut wire.preface, rest));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut wire.stream).poll_read(context, buffer);
        if !wire.http2 && buffer.filled().len() > before {
            wire.activity.began_head();
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        if wire.intercept(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut wire.stream).poll_write(context, bytes);
        wire.wrote(&written, bytes.len());
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        let offered = slices.iter().map(|slice| slice.len()).sum();
        if slices.first().is_some_and(|first| wire.intercept(first)) {
            return Poll::Ready(Ok(offered));
        }
        let written = Pin::new(&mut wire.stream).poll_write_vectored(context, slices);
        wire.wrote(&written, offered);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        // hyper flushes each time it was woken, and so also while it waits for a handler.
        wire.poll_gone(context)?;
        let flushed = Pin::new(&mut wire.stream).poll_flush(context);
        if flushed.is_ready() {
            wire.activity.flushed();
        }
        flushed
    }

    /// Does nothing on HTTP/1: the connection closes the socket when it has said its last. On h2
    /// this was its last.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if wire.http2 {
            return Pin::new(&mut wire.stream).poll_shutdown(context);
        }
        Poll::Ready(Ok(()))
    }
}
