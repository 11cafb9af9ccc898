//! One connection, from its first byte to its last.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ostrakon_observe::metrics::{Limit, Metrics};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};

use super::buffered::Buffered;
use super::caller::Door;
use super::entrance::enter;
use super::lent::Lent;
use super::places::Lost;
use super::server::down;
use super::service::Requests;
use super::stream::Stream;
use super::streams::Streams;
use super::sums::Sums;
use super::wire::{Activity, Phase, Wire};
use super::{Caller, Handler, Limits, LiveLimits, Refusal, linger};
use crate::handshake_backlog::HandshakeBacklog;

/// What an h2 client with prior knowledge sends first.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Requests that one h2 connection may have open. RFC 9113 has it be 100 at least.
pub(super) const MAX_STREAMS: u32 = 128;
/// How much of a body an h2 client may send before it is read, on one stream and on all.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// The least that hyper's buffer for reading may be bounded by.
const LEAST_BUFFER: usize = 8 * 1024;
/// Streams that were reset while their requests had not been accepted, or for a fault of the client,
/// before it is told to go.
const MAX_RESET: usize = 16;
const MAX_FAULTS: usize = 64;
/// How long an h2 connection that was told to go away may take to do so, when it is idle.
const GOAWAY_GRACE: Duration = Duration::from_secs(1);
/// How long an h2 connection may be idle that keeps much after its requests.
const IDLE_WHEN_GROWN: Duration = Duration::from_secs(5);
/// A request's headers that hyper takes.
const MAX_HEADERS: usize = 100;

/// What the connections of a server share.
#[derive(Debug)]
pub(super) struct Shared<H> {
    pub(super) handler: Arc<H>,
    pub(super) limits: LiveLimits,
    pub(super) metrics: Arc<Metrics>,
    /// What all requests' heads hold of memory, and all their bodies.
    pub(super) heads: Sums,
    pub(super) bodies: Sums,
    /// The connections in the middle of a TLS handshake.
    pub(super) backlog: HandshakeBacklog,
    pub(super) door: Door,
    pub(super) clock: fn() -> SystemTime,
}

/// Serves a connection until it is closed by either side, a limit is passed, its client may not go
/// on, or the server is shut down and its requests are answered.
pub(super) async fn serve<H: Handler>(
    shared: Arc<Shared<H>>,
    stream: TcpStream,
    address: SocketAddr,
    (activity, lost): (Arc<Activity>, Lost),
    mut shutdown: watch::Receiver<bool>,
) {
    let limits = **shared.limits.load();
    let Some(entered) = enter(&shared, stream, address, (limits, &activity), &mut shutdown).await
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
                let refusal = Some(Refusal::HeaderTime);
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
    let mut ending = Ending::new(shutdown, caller, entered.door, lost);
    // Boxed: only one of the two is ever needed, and a connection that waits for its first byte
    // needs neither.
    let over = if http2 {
        let handler = Arc::clone(&shared.handler);
        ending.leaving = Some(Box::pin(async move { handler.leaving().await }));
        Box::pin(serve_http2(wire, requests, limits, ending)).await
    } else {
        Box::pin(serve_http1(wire, requests, limits, ending)).await
    };
    if let Some(Over { stream, last_words }) = over {
        linger::close(stream, last_words, &activity, until).await;
    }
}

/// A connection of which nothing is left but to close it.
struct Over {
    stream: Stream,
    last_words: Option<Refusal>,
}

/// A client's first bytes: as many as h2 begins with.
#[derive(Default)]
struct Preface {
    bytes: [u8; HTTP2_PREFACE.len()],
    length: usize,
}

impl Preface {
    /// Reads some of what is left; gives how much.
    async fn read(&mut self, stream: &mut Stream) -> std::io::Result<usize> {
        let read = stream.read(&mut self.bytes[self.length..]).await?;
        self.length += read;
        Ok(read)
    }

    fn so_far(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Whether more bytes are needed to know the protocol.
    fn is_open(&self) -> bool {
        self.length < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(self.so_far())
    }

    fn is_http2(&self) -> bool {
        self.so_far() == HTTP2_PREFACE
    }
}

/// What happens to a connection.
enum Event {
    Ended(hyper::Result<()>),
    /// It is to end when its requests are answered.
    Ending,
    /// It has been in this phase for too long.
    Overdue(Phase),
}

/// None: its client takes nothing, or asks for nothing.
async fn serve_http1<H: Handler>(
    wire: Wire,
    requests: Requests<H>,
    limits: Limits,
    mut ending: Ending,
) -> Option<Over> {
    let (metrics, peer) = (Arc::clone(&requests.metrics), requests.caller.address());
    let mut watchdog = Watchdog::new(&requests, limits);
    let requests = Arc::new(requests);
    let mut connection = http1::Builder::new()
        // Who has asked and says no more may wait for the answer; the wire sees who is gone.
        .half_close(true)
        // It would not be set back with the clock.
        .auto_date_header(false)
        // The watchdog does it, and answers.
        .header_read_timeout(None)
        .timer(TokioTimer::new())
        .max_header_size(limits.max_header_bytes)
        .max_buf_size(limits.max_header_bytes.max(LEAST_BUFFER))
        .serve_connection(
            TokioIo::new(wire),
            service_fn(move |request| {
                let answer = requests.answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            }),
        );
    let overdue = loop {
        match next_event(&mut connection, &mut watchdog, &mut ending).await {
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
        (Some(Phase::Head), _) => Some((Refusal::HeaderTime, Some(Limit::HeaderTime))),
        (Some(phase), _) => {
            if phase == Phase::Answering {
                wire.into_stream().forget();
            }
            return None;
        }
        (None, Some(431)) if is_head(&parts.read_buf, limits) => {
            Some((Refusal::HeaderSize, Some(Limit::HeaderSize)))
        }
        (None, Some(503)) => Some((Refusal::Heads, Some(Limit::Heads))),
        // hyper takes no body of 2^64-2 bytes or more, and says so in the same way.
        (None, Some(431)) => Some((Refusal::BodySize, Some(Limit::BodySize))),
        (None, Some(414)) => Some((Refusal::UriSize, Some(Limit::HeaderSize))),
        (None, Some(_)) => Some((Refusal::BadRequest, None)),
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

/// Whether what hyper has not taken is a head that is too large: of one that it has read, what
/// follows is left.
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
    // Its first line may be what is too large.
    let is_long = !unread.contains(&b'\n');
    is_large && (is_long || lines.find(|line| !line.is_empty()).is_some_and(is_request))
}

/// None: its client takes nothing, or asks for nothing.
async fn serve_http2<H: Handler>(
    wire: Wire,
    requests: Requests<H>,
    limits: Limits,
    mut ending: Ending,
) -> Option<Over> {
    let (wire, returned) = Lent::new(wire);
    let peer = requests.caller.address();
    let mut watchdog = Watchdog::new(&requests, limits);
    let requests = Arc::new(requests);
    let mut connection = http2::Builder::new(Streams)
        .auto_date_header(false)
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(MAX_RESET)
        .max_local_error_reset_streams(MAX_FAULTS)
        // What a client has remembered here keeps the buffers that it came in.
        .header_table_size(0)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .serve_connection(
            TokioIo::new(wire),
            service_fn(move |request| {
                let answer = requests.answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            }),
        );
    loop {
        match next_event(&mut connection, &mut watchdog, &mut ending).await {
            Event::Ended(Ok(())) => break,
            Event::Ended(Err(error)) => {
                tracing::debug!(client = %peer, %error, "connection ended");
                break;
            }
            Event::Ending => Pin::new(&mut connection).graceful_shutdown(),
            Event::Overdue(phase) => {
                Pin::new(&mut connection).graceful_shutdown();
                let _ended_or_cut = timeout(GOAWAY_GRACE, &mut connection).await;
                drop(connection);
                if phase == Phase::Answering
                    && let Ok(wire) = returned.await
                {
                    wire.into_stream().forget();
                }
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

/// A connection as hyper serves it, of either protocol.
trait Connection: Future<Output = hyper::Result<()>> + Unpin {}
impl<C: Future<Output = hyper::Result<()>> + Unpin> Connection for C {}

/// Drives the connection until something is to be done about it.
async fn next_event(
    connection: &mut impl Connection,
    watchdog: &mut Watchdog,
    ending: &mut Ending,
) -> Event {
    std::future::poll_fn(|context| {
        // Before the connection: what its client may not ask any more is not read as if it might.
        if ending.poll(context).is_ready() {
            return Poll::Ready(Event::Ending);
        }
        if let Poll::Ready(ended) = Pin::new(&mut *connection).poll(context) {
            return Poll::Ready(Event::Ended(ended));
        }
        // After the connection, which may just have come into another phase.
        watchdog.poll(context).map(Event::Overdue)
    })
    .await
}

/// When a connection is to end: once because the server shuts down or its place is another's, once
/// because its client may not go on, and once because it is to go elsewhere.
struct Ending {
    down: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    unwelcome: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    leaving: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Ending {
    fn new(
        mut shutdown: watch::Receiver<bool>,
        caller: Arc<Caller>,
        door: Door,
        mut lost: Lost,
    ) -> Self {
        Self {
            down: Some(Box::pin(async move {
                tokio::select! {
                    () = down(&mut shutdown) => {}
                    () = down(&mut lost) => {}
                }
            })),
            unwelcome: Some(Box::pin(async move { caller.until_unwelcome(door).await })),
            leaving: None,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        for reason in [&mut self.unwelcome, &mut self.down, &mut self.leaving] {
            if let Some(future) = reason
                && future.as_mut().poll(context).is_ready()
            {
                *reason = None;
                return Poll::Ready(());
            }
        }
        Poll::Pending
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

    /// When the connection is overdue, and the phase it is in. What handlers do has deadlines of
    /// its own.
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

    /// Ends streams whose answers are not taken, whatever else is asked and taken meanwhile; gives when
    /// the next one is due.
    fn end_streams(&self) -> Option<Instant> {
        let (untaken, patience) = (self.activity.untaken(), self.limits.idle_timeout);
        if let Some(time) = Instant::now().checked_sub(patience) {
            untaken.end_untaken_since(time);
        }
        Some(untaken.oldest()? + patience)
    }

    /// Puts the alarm off only when it rings, not with each request; but sets it earlier at once.
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
        // A client that sends without a pause takes all of the task's budget each time.
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
