//! One connection, from its first byte to its last.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::stream::{FuturesUnordered, Stream as _};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ostrakon_observe::metrics::{Limit, Metrics};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};

use super::buffered::Buffered;
use super::caller::Door;
use super::entrance::enter;
use super::lent::Lent;
use super::places::Lost;
use super::relay::Relay;
use super::server::down;
use super::service::Requests;
use super::socket::Socket;
use super::stream::Stream;
use super::streams::Streams;
use super::sums::Sums;
use super::wire::{Activity, Phase, Wire};
use super::{Caller, Handler, Limits, LiveLimits, Refusal, linger, refusals};
use crate::handshake_backlog::HandshakeBacklog;

/// The first bytes of an h2 client with prior knowledge.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Concurrent requests per h2 connection. RFC 9113 recommends at least 100.
pub(super) const MAX_STREAMS: u32 = 128;
/// Body bytes that an h2 client may send before they are read, per stream and per connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// The smallest bound that hyper accepts for its read buffer.
const LEAST_BUFFER: usize = 8 * 1024;
/// Streams that may be reset, before their requests were accepted or through the client's fault,
/// until the connection is told to go away.
const MAX_RESET: usize = 16;
const MAX_FAULTS: usize = 64;
/// How long an idle h2 connection may stay open after it was told to go away.
const GOAWAY_GRACE: Duration = Duration::from_secs(1);
/// How long an h2 connection that keeps much memory after its requests may be idle.
const IDLE_WHEN_GROWN: Duration = Duration::from_secs(5);
/// The most headers of a request that hyper accepts.
const MAX_HEADERS: usize = 100;

/// State shared by a server's connections.
#[derive(Debug)]
pub(super) struct Shared<H> {
    pub(super) handler: Arc<H>,
    pub(super) limits: LiveLimits,
    pub(super) metrics: Arc<Metrics>,
    /// Memory held by all requests' heads, and by all bodies.
    pub(super) heads: Sums,
    pub(super) bodies: Sums,
    /// The connections in a TLS handshake.
    pub(super) backlog: HandshakeBacklog,
    pub(super) door: Door,
    pub(super) clock: fn() -> SystemTime,
}

/// Serves a connection until either side closes it, a limit is exceeded, its client may not
/// continue, or the server is shut down and the connection's requests are answered.
pub(super) async fn serve<H: Handler>(
    shared: Arc<Shared<H>>,
    socket: Socket,
    address: SocketAddr,
    (activity, lost): (Arc<Activity>, Lost),
    mut shutdown: watch::Receiver<bool>,
) {
    let limits = **shared.limits.load();
    let Some(entered) = enter(&shared, socket, address, (limits, &activity), &mut shutdown).await
    else {
        return;
    };
    let (mut stream, caller) = (entered.stream, Arc::new(entered.caller));
    let mut preface = Preface::default();
    let first_byte = tokio::select! {
        read = timeout(limits.first_byte_timeout, preface.read(&mut stream)) => matches!(read, Ok(Ok(1..))),
        () = down(&mut shutdown) => false,
    };
    if !first_byte {
        return;
    }
    activity.spoke();
    let deadline = Instant::now() + limits.header_timeout;
    while preface.is_open() {
        match timeout_at(deadline, preface.read(&mut stream)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return,
            Err(_) => {
                shared.metrics.request_refused(Limit::HeaderTime);
                let refusal = Some(refusals::HEADER_TIME);
                return linger::close(stream, refusal, &activity, shutdown).await;
            }
        }
    }
    let http2 = preface.is_http2();
    let heads = shared.heads.connect();
    let buffered = Buffered::new(heads.share(), limits, http2);
    let wire = Wire::new(
        stream,
        preface.so_far().to_vec(),
        (http2, buffered),
        Arc::clone(&activity),
    );
    let requests = Requests {
        handler: Arc::clone(&shared.handler),
        limits: Arc::clone(&shared.limits),
        metrics: Arc::clone(&shared.metrics),
        heads,
        bodies: shared.bodies.connect(),
        caller: Arc::clone(&caller),
        activity: Arc::clone(&activity),
        clock: shared.clock,
    };
    let until = shutdown.clone();
    let ending = Ending::new(shutdown, caller, entered.door, lost);
    // Boxed: only one of the two is ever needed, and a connection that waits for its first byte
    // needs neither.
    let over = if http2 {
        let handler = Arc::clone(&shared.handler);
        ending.when(async move { handler.leaving().await });
        Box::pin(serve_http2(wire, requests, limits, ending)).await
    } else {
        Box::pin(serve_http1(wire, requests, limits, ending)).await
    };
    if let Some(Over { stream, last_words }) = over {
        linger::close(stream, last_words, &activity, until).await;
    }
}

/// A finished connection that only remains to be closed.
struct Over {
    stream: Stream,
    last_words: Option<Refusal>,
}

/// A client's first bytes, as many as the h2 preface has.
#[derive(Default)]
struct Preface {
    bytes: [u8; HTTP2_PREFACE.len()],
    length: usize,
}

impl Preface {
    /// Reads more of the missing bytes. Returns how many were read.
    async fn read(&mut self, stream: &mut Stream) -> std::io::Result<usize> {
        let read = stream.read(&mut self.bytes[self.length..]).await?;
        self.length += read;
        Ok(read)
    }

    fn so_far(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Whether more bytes are needed to recognise the protocol.
    fn is_open(&self) -> bool {
        self.length < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(self.so_far())
    }

    fn is_http2(&self) -> bool {
        self.so_far() == HTTP2_PREFACE
    }
}

/// An event that ends a connection.
enum Event {
    Ended(hyper::Result<()>),
    /// The connection is to end once its requests are answered.
    Ending,
    /// The connection has been in this phase for too long.
    Overdue(Phase),
}

/// Returns `None` if the client takes nothing or sends no request.
async fn serve_http1<H: Handler>(
    wire: Wire,
    requests: Requests<H>,
    limits: Limits,
    mut ending: Ending,
) -> Option<Over> {
    let (metrics, peer) = (Arc::clone(&requests.metrics), requests.caller.address());
    let mut watchdog = Watchdog::new(&requests, limits);
    let relay = Relay::default();
    let requests = Arc::new(requests);
    let mut connection = http1::Builder::new()
        // A client that has closed its sending side may still wait for the answer; the wire
        // detects clients that are gone.
        .half_close(true)
        // hyper's own date would not follow a clock that is set back.
        .auto_date_header(false)
        // The watchdog enforces this timeout, and answers the client.
        .header_read_timeout(None)
        .timer(TokioTimer::new())
        .max_header_size(limits.max_header_bytes)
        .max_buf_size(limits.max_header_bytes.max(LEAST_BUFFER))
        .serve_connection(
            TokioIo::new(wire),
            service_fn(move |request| requests.answer(request)),
        );
    let overdue = loop {
        match next_event(&mut connection, &relay, &mut watchdog, &mut ending).await {
            Event::Ended(ended) => {
                if let Err(error) = ended {
                    tracing::debug!(client = %peer, %error, "connection ended");
                }
                break None;
            }
            Event::Ending => Pin::new(&mut connection).graceful_shutdown(),
            Event::Overdue(phase) => break Some(phase),
        }
    };
    let parts = connection.into_parts();
    let wire = parts.io.into_inner();
    let refused = wire.refused();
    let last_words = match (overdue, refused.map(|status| status.as_u16())) {
        (Some(Phase::Head), _) => Some((refusals::HEADER_TIME, Some(Limit::HeaderTime))),
        (Some(_), _) => return None,
        (None, Some(431)) if is_head(&parts.read_buf, limits) => {
            Some((refusals::HEADER_SIZE, Some(Limit::HeaderSize)))
        }
        (None, Some(503)) => Some((refusals::HEADS, Some(Limit::Heads))),
        // hyper rejects bodies of 2^64-2 bytes or more with the same status.
        (None, Some(431)) => Some((refusals::BODY_SIZE, Some(Limit::BodySize))),
        (None, Some(414)) => Some((refusals::URI_SIZE, Some(Limit::HeaderSize))),
        (None, Some(_)) => Some((refusals::BAD_REQUEST, None)),
        (None, None) => None,
    };
    if let Some((_, Some(limit))) = last_words {
        metrics.request_refused(limit);
    }
    Some(Over {
        stream: wire.into_stream(),
        last_words: last_words.map(|(refusal, _)| refusal),
    })
}

/// Whether the bytes that hyper left unread are a head that is too large. If hyper had read the
/// head, they would be what follows it.
fn is_head(unread: &[u8], limits: Limits) -> bool {
    let mut lines = unread
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii_end);
    let headers = lines.clone().skip(1).take_while(|line| !line.is_empty());
    let is_large = unread.len() >= limits.max_header_bytes || headers.count() > MAX_HEADERS;
    let is_request = |line: &[u8]| {
        let words: Vec<_> = line.split(|byte| *byte == b' ').collect();
        matches!(words[..], [_, _, version] if version.starts_with(b"HTTP/1."))
    };
    // The request line itself may be too large.
    let is_long = !unread.contains(&b'\n');
    is_large && (is_long || lines.find(|line| !line.is_empty()).is_some_and(is_request))
}

/// Returns `None` if the client takes nothing or sends no request.
async fn serve_http2<H: Handler>(
    wire: Wire,
    requests: Requests<H>,
    limits: Limits,
    mut ending: Ending,
) -> Option<Over> {
    let (wire, returned) = Lent::new(wire);
    let peer = requests.caller.address();
    let mut watchdog = Watchdog::new(&requests, limits);
    let relay = Relay::default();
    let requests = Arc::new(requests);
    let mut connection = http2::Builder::new(Streams)
        .auto_date_header(false)
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(MAX_RESET)
        .max_local_error_reset_streams(MAX_FAULTS)
        // Headers in the decoder's table would keep alive the buffers in which they arrived.
        .header_table_size(0)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .serve_connection(
            TokioIo::new(wire),
            service_fn(move |request| requests.answer(request)),
        );
    loop {
        match next_event(&mut connection, &relay, &mut watchdog, &mut ending).await {
            Event::Ended(Ok(())) => break,
            Event::Ended(Err(error)) => {
                tracing::debug!(client = %peer, %error, "connection ended");
                break;
            }
            Event::Ending => Pin::new(&mut connection).graceful_shutdown(),
            Event::Overdue(_) => {
                Pin::new(&mut connection).graceful_shutdown();
                let _ended_or_cut = timeout(GOAWAY_GRACE, &mut connection).await;
                return None;
            }
        }
    }
    drop(connection);
    let wire = returned.await.ok()?;
    Some(Over {
        stream: wire.into_stream(),
        last_words: None,
    })
}

/// A connection as hyper serves it, for either protocol.
trait Connection: Future<Output = hyper::Result<()>> + Unpin {}
impl<C: Future<Output = hyper::Result<()>> + Unpin> Connection for C {}

/// Drives the connection until an event ends it.
async fn next_event(
    connection: &mut impl Connection,
    relay: &Relay,
    watchdog: &mut Watchdog,
    ending: &mut Ending,
) -> Event {
    std::future::poll_fn(|context| {
        // Polled before the connection, so that a request that the client may no longer make is
        // not read.
        if ending.poll(context).is_ready() {
            return Poll::Ready(Event::Ending);
        }
        let polled = relay.poll(context, |context| Pin::new(&mut *connection).poll(context));
        if let Poll::Ready(ended) = polled {
            return Poll::Ready(Event::Ended(ended));
        }
        // Polled after the connection, which may just have entered another phase.
        watchdog.poll(context).map(Event::Overdue)
    })
    .await
}

/// When a connection is to end: once because the server shuts down or the connection's place was
/// given away, once because its client may not continue, and once because its client is to go
/// elsewhere.
///
/// Each reason is polled only when it was woken, and not with every request.
struct Ending(FuturesUnordered<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Ending {
    fn new(
        mut shutdown: watch::Receiver<bool>,
        caller: Arc<Caller>,
        door: Door,
        mut lost: Lost,
    ) -> Self {
        let ending = Self(FuturesUnordered::new());
        ending.when(async move {
            tokio::select! {
                () = down(&mut shutdown) => {}
                () = down(&mut lost) => {}
            }
        });
        ending.when(async move { caller.until_unwelcome(door).await });
        ending
    }

    /// Adds a reason.
    fn when(&self, reason: impl Future<Output = ()> + Send + 'static) {
        self.0.push(Box::pin(reason));
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match Pin::new(&mut self.0).poll_next(context) {
            Poll::Ready(Some(())) => Poll::Ready(()),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

/// Wakes when a connection has been in one phase for too long.
struct Watchdog {
    activity: Arc<Activity>,
    limits: Limits,
    alarm: Pin<Box<Sleep>>,
}

impl Watchdog {
    fn new<H>(requests: &Requests<H>, limits: Limits) -> Self {
        let activity = Arc::clone(&requests.activity);
        let alarm = Box::pin(sleep_until(Instant::now() + limits.idle_timeout));
        Self {
            activity,
            limits,
            alarm,
        }
    }

    /// The connection's deadline, and the phase it is in. Handlers have deadlines of their own.
    fn due(&self) -> (Phase, Instant) {
        let (phase, since) = self.activity.phase();
        match phase {
            Phase::Head => (phase, since + self.limits.header_timeout),
            Phase::Idle if self.activity.is_grown() => {
                (phase, since + self.limits.idle_timeout.min(IDLE_WHEN_GROWN))
            }
            Phase::Body | Phase::Busy => (phase, Instant::now() + self.limits.idle_timeout),
            Phase::Silent | Phase::Idle | Phase::Answering | Phase::Lingering => {
                (phase, since + self.limits.idle_timeout)
            }
        }
    }

    /// Ends streams whose answers are not being taken, regardless of other streams' progress.
    /// Returns when the next stream is due.
    fn end_streams(&self) -> Option<Instant> {
        let (untaken, patience) = (self.activity.untaken(), self.limits.idle_timeout);
        if let Some(time) = Instant::now().checked_sub(patience) {
            untaken.end_untaken_since(time);
        }
        Some(untaken.oldest()? + patience)
    }

    /// Postpones the alarm only when it fires, not on each request, but moves it forward at once.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Phase> {
        let may_be_sooner = match self.activity.phase().0 {
            Phase::Head => true,
            Phase::Idle => self.activity.is_grown(),
            _ => false,
        };
        if may_be_sooner && self.due().1 < self.alarm.deadline() {
            let (_, due) = self.due();
            self.alarm.as_mut().reset(due);
        }
        // Unconstrained: a client that sends without a pause would otherwise use up the task's
        // budget each time.
        while pin!(unconstrained(self.alarm.as_mut()))
            .poll(context)
            .is_ready()
        {
            let (phase, due) = self.due();
            if due <= Instant::now() {
                return Poll::Ready(phase);
            }
            let due = self
                .end_streams()
                .map_or(due, |of_stream| due.min(of_stream));
            self.alarm.as_mut().reset(due);
        }
        Poll::Pending
    }
}
