//! A connection's socket, below HTTP: tracks what is in transit, and since when.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::buffered::Buffered;
use super::socket::SendQueue;
use super::stream::Stream;
use super::taken::Untaken;
use super::together::Together;

/// More than h2 writes without a request, so that a peer that only pings does not count as busy.
const CONTROL_BYTES: usize = 64;

/// How often to check for a client that has gone when no event would wake the task: the client has
/// closed its sending side, or has sent more than is read yet.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How much HTTP/1 is given per read. hyper keeps its buffer, and enlarges it to up to twice this
/// size when a read has filled it to the last byte.
const MAX_AT_ONCE: usize = 16 * 1024 - 1;

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The client's first byte, in TLS if it is used.
    Silent,
    /// The first byte of a request.
    Idle,
    /// The rest of a request's headers.
    Head,
    /// The bodies of all its requests, each of which has its own deadline.
    Body,
    /// A handler, which has its own deadlines.
    Busy,
    /// The client, to take its answer.
    Answering,
    /// The client, to notice that the connection has ended.
    Lingering,
}

/// A connection's phase: updated by its wire and its service, read by its watchdog.
///
/// Atomics, because h2 runs each stream in a task of its own. Relaxed, because they order nothing
/// else: a phase change that is missed is seen at the next poll.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    /// Whether the client has sent anything.
    spoken: AtomicBool,
    /// Requests whose headers are read and which are not answered.
    in_flight: AtomicUsize,
    /// Requests in flight whose bodies are being read.
    reading: AtomicUsize,
    /// Whether an answer was given that is not flushed yet.
    owed: AtomicBool,
    /// Answers whose bodies are not completely written, for h2: there, a flush does not mean that
    /// everything was written.
    untaken: Arc<Untaken>,
    /// Early answers of which HTTP has only the heads, for h2.
    together: Together,
    /// What the system holds of answers that are written.
    send_queue: Arc<SendQueue>,
    /// Whether a part of a request's headers has arrived.
    head: AtomicBool,
    /// Whether an h2 header block has begun and not ended, and the time it began, in the format of
    /// `began`.
    in_block: AtomicBool,
    block_began: AtomicU64,
    /// Bytes that have arrived and may still be in HTTP's buffers. This field and the next two are
    /// for HTTP/1 only.
    unparsed: AtomicUsize,
    /// The length of the last read.
    last: AtomicUsize,
    /// Whether the last read ended with an empty line; then nothing before it is part of an
    /// incomplete head.
    ended: AtomicBool,
    /// Whether there was no room for bytes that arrived in the middle of a request.
    overfull: AtomicBool,
    /// Whether the connection has sent its last answer.
    lingers: AtomicBool,
    /// Whether the connection keeps much memory after its requests.
    grown: AtomicBool,
    /// When the phase began, in nanoseconds after `opened`.
    began: AtomicU64,
    /// When the phase began or last made progress, in the same format.
    since: AtomicU64,
}

impl Activity {
    /// The state of a connection that has just been accepted.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            spoken: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            reading: AtomicUsize::new(0),
            owed: AtomicBool::new(false),
            untaken: Arc::default(),
            together: Together::default(),
            send_queue: Arc::default(),
            head: AtomicBool::new(false),
            in_block: AtomicBool::new(false),
            block_began: AtomicU64::new(0),
            unparsed: AtomicUsize::new(0),
            last: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            overfull: AtomicBool::new(false),
            lingers: AtomicBool::new(false),
            grown: AtomicBool::new(false),
            began: AtomicU64::new(0),
            since: AtomicU64::new(0),
        })
    }

    /// Notes that the client has sent the first bytes of its first headers.
    pub(super) fn spoke(&self) {
        self.spoken.store(true, Ordering::Relaxed);
        self.head.store(true, Ordering::Relaxed);
        self.begin();
    }

    /// Notes that the last answer is being sent.
    pub(super) fn lingers(&self) {
        self.lingers.store(true, Ordering::Relaxed);
        self.begin();
    }

    /// The phase, and when it began or last made progress. A header block in transit takes
    /// precedence over everything else, because nothing else can arrive before its end.
    pub(super) fn phase(&self) -> (Phase, Instant) {
        if self.in_block.load(Ordering::Relaxed) {
            return (Phase::Head, self.at(&self.block_began));
        }
        (self.now(), self.at(&self.since))
    }

    /// The phase, and when it began.
    pub(super) fn began(&self) -> (Phase, Instant) {
        (self.now(), self.at(&self.began))
    }

    fn now(&self) -> Phase {
        if self.lingers.load(Ordering::Relaxed) {
            return Phase::Lingering;
        }
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        if in_flight > 0 {
            if self.reading.load(Ordering::Relaxed) == in_flight {
                Phase::Body
            } else {
                Phase::Busy
            }
        } else if self.owes() {
            Phase::Answering
        } else if self.head.load(Ordering::Relaxed) {
            Phase::Head
        } else if self.spoken.load(Ordering::Relaxed) {
            Phase::Idle
        } else {
            Phase::Silent
        }
    }

    fn at(&self, time: &AtomicU64) -> Instant {
        self.opened + Duration::from_nanos(time.load(Ordering::Relaxed))
    }

    /// Notes that a request's line and headers are read; `head` is their length on HTTP/1. The
    /// request is in flight until the guard is dropped.
    pub(super) fn request(self: &Arc<Self>, head: usize) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.head.store(false, Ordering::Relaxed);
        self.parsed(head);
        InFlight(Arc::clone(self))
    }

    /// Notes bytes that arrived on HTTP/1. Returns how many bytes now wait to be parsed or read as
    /// a body.
    pub(super) fn received(&self, bytes: &[u8]) -> usize {
        let length = bytes.len();
        self.last.store(length, Ordering::Relaxed);
        let ended = bytes.ends_with(b"\n\r\n") || bytes.ends_with(b"\n\n");
        self.ended.store(ended, Ordering::Relaxed);
        let unparsed = self.unparsed.fetch_add(length, Ordering::Relaxed) + length;
        if self.reading.load(Ordering::Relaxed) > 0 {
            // hyper reads on only once it has decoded all of the previous bytes of a body, both
            // data and framing, so nothing adds up.
            return length;
        }
        unparsed
    }

    /// Notes that bytes have left HTTP's buffers. The remaining bytes are the last ones that
    /// arrived, because hyper reads on only when it has too few.
    fn parsed(&self, bytes: usize) {
        let left = self.unparsed.load(Ordering::Relaxed).saturating_sub(bytes);
        let left = left.min(self.last.load(Ordering::Relaxed));
        self.unparsed.store(left, Ordering::Relaxed);
    }

    /// Notes whether an h2 header block is in transit.
    pub(super) fn in_block(&self, is_so: bool) {
        if is_so && !self.in_block.load(Ordering::Relaxed) {
            self.block_began.store(self.age(), Ordering::Relaxed);
        }
        self.in_block.store(is_so, Ordering::Relaxed);
    }

    /// Whether there was no room for bytes that arrived in the middle of a request.
    pub(super) fn is_overfull(&self) -> bool {
        self.overfull.load(Ordering::Relaxed)
    }

    /// Notes that the body of a request in flight is being read, until the guard is dropped.
    pub(super) fn reading(&self) -> Reading<'_> {
        self.begin();
        self.reading.fetch_add(1, Ordering::Relaxed);
        Reading {
            activity: self,
            read: 0,
        }
    }

    fn age(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn touch(&self) {
        self.since.store(self.age(), Ordering::Relaxed);
    }

    fn begin(&self) {
        let now = self.age();
        self.since.store(now, Ordering::Relaxed);
        self.began.store(now, Ordering::Relaxed);
    }

    fn began_head(&self) {
        if self.now() == Phase::Idle {
            self.head.store(true, Ordering::Relaxed);
            self.begin();
        }
    }

    pub(super) fn flushed(&self) {
        if self.in_flight.load(Ordering::Relaxed) == 0 {
            self.owed.store(false, Ordering::Relaxed);
        }
    }

    /// Requests whose heads are read and which are not answered.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn is_busy(&self) -> bool {
        self.in_flight() > 0
    }

    /// Notes that the connection has had so many concurrent requests that it keeps much memory
    /// after them.
    pub(super) fn has_grown(&self) {
        self.grown.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_grown(&self) -> bool {
        self.grown.load(Ordering::Relaxed)
    }

    /// The h2 answers that are not completely taken.
    pub(super) fn untaken(&self) -> &Arc<Untaken> {
        &self.untaken
    }

    /// The early h2 answers of which HTTP has only the heads.
    pub(super) fn together(&self) -> &Together {
        &self.together
    }

    pub(super) fn send_queue(&self) -> &Arc<SendQueue> {
        &self.send_queue
    }

    fn owes(&self) -> bool {
        self.owed.load(Ordering::Relaxed) || !self.untaken.is_empty()
    }

    fn unasked(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0 && !self.owes()
    }
}

#[derive(Debug)]
pub(super) struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.owed.store(true, Ordering::Relaxed);
        self.0.begin();
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request whose body is being read.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    activity: &'a Activity,
    read: usize,
}

impl Reading<'_> {
    /// Notes that the body has ended, and its length.
    pub(super) fn is_read(&mut self, bytes: usize) {
        self.read = bytes;
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let activity = self.activity;
        activity.begin();
        // The share of framing in the received bytes is unknown.
        let ended = activity.ended.load(Ordering::Relaxed);
        activity.parsed(if ended { usize::MAX } else { self.read });
        activity.reading.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A socket whose first bytes were already read to recognise the protocol.
///
/// On HTTP/1 it also intercepts hyper's own short answer to headers that hyper cannot parse; the
/// host then answers in its own words.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    /// The bytes that were already read, and how many of them were handed on.
    preface: Vec<u8>,
    activity: Arc<Activity>,
    buffered: Buffered,
    http2: bool,
    refused: Option<StatusCode>,
    /// When to check next whether the client has gone, if no event would wake the task.
    look: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    pub(super) fn new(
        stream: Stream,
        preface: Vec<u8>,
        (http2, buffered): (bool, Buffered),
        activity: Arc<Activity>,
    ) -> Self {
        if http2 {
            // h2 frames arrive at any time: there is no phase of headers.
            activity.head.store(false, Ordering::Relaxed);
        }
        Self {
            stream,
            preface,
            activity,
            buffered,
            http2,
            refused: None,
            look: None,
        }
    }

    /// The status with which hyper wanted to refuse its input.
    pub(super) fn refused(&self) -> Option<StatusCode> {
        self.refused
    }

    pub(super) fn into_stream(self) -> Stream {
        self.stream
    }

    /// Counts bytes from the client. Returns an error if there is no room for them.
    fn receive(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if !self.http2 {
            self.activity.began_head();
        }
        if self.buffered.receive(bytes, &self.activity) {
            return Ok(());
        }
        if self.activity.unasked() {
            self.refused = Some(StatusCode::SERVICE_UNAVAILABLE);
        } else {
            self.activity.overfull.store(true, Ordering::Relaxed);
        }
        Err(io::Error::other("all heads together are too large"))
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

    /// Checks whether the client has gone while its request is being worked on.
    ///
    /// Nothing is read from the client meanwhile, because a client that has closed its sending
    /// side may still wait for its answer. Only a reset or unanswered probes mean that it has
    /// gone.
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
            // On HTTP/1 each answer restarts its phase, and only an answer that is taken in parts
            // makes progress after that. This saves reading the clock on each request.
            let asked = self.http2 && *written > CONTROL_BYTES && !self.activity.unasked();
            if *written < offered || asked {
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
            let preface = std::mem::replace(&mut wire.preface, rest);
            buffer.put_slice(&preface);
            return Poll::Ready(wire.receive(&preface));
        }
        let before = buffer.filled().len();
        if !wire.http2 && buffer.remaining() > MAX_AT_ONCE {
            let mut part = ReadBuf::new(buffer.initialize_unfilled_to(MAX_AT_ONCE));
            ready!(Pin::new(&mut wire.stream).poll_read(context, &mut part))?;
            let read = part.filled().len();
            buffer.advance(read);
        } else {
            ready!(Pin::new(&mut wire.stream).poll_read(context, buffer))?;
        }
        Poll::Ready(wire.receive(&buffer.filled()[before..]))
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
        ready!(wire.activity.together.poll_none(context));
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
        ready!(wire.activity.together.poll_none(context));
        let written = Pin::new(&mut wire.stream).poll_write_vectored(context, slices);
        wire.wrote(&written, offered);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        // hyper flushes each time it is woken, and so also while it waits for a handler.
        wire.poll_gone(context)?;
        let flushed = Pin::new(&mut wire.stream).poll_flush(context);
        if flushed.is_ready() {
            wire.activity.flushed();
        }
        flushed
    }

    /// Does nothing on HTTP/1, where the connection closes the socket after its last answer. On h2
    /// this closes the stream.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if wire.http2 {
            return Pin::new(&mut wire.stream).poll_shutdown(context);
        }
        Poll::Ready(Ok(()))
    }
}
