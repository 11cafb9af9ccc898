//! Accepting connections, and shutting down.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream as _};
use http::{Request, Response, request};
use ostrakon_observe::metrics::{Label as _, Listener, Metrics};
use socket2::{Domain, Protocol, Type};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::coop::unconstrained;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{interval, sleep, timeout};

use super::caller::{Caller, Door};
use super::connection::{self, Shared};
use super::places::{Lost, Places, gives_way};
use super::socket::Socket;
use super::stream::Stream;
use super::sums::Sums;
use super::wire::{Activity, Phase};
use super::{LiveLimits, linger, refusals};
use crate::descriptors::NotAccepted;
use crate::handshake_backlog::HandshakeBacklog;

/// The system's buffer sizes per connection, in bytes: for received data that the host has not
/// read, and for sent data that the client has not taken. Linux reserves twice as much to cover
/// its bookkeeping, and up to 64 KiB more for sent data. Large enough that a nearby client never
/// waits.
const MAX_UNREAD: usize = 64 * 1024;
const MAX_UNTAKEN: usize = 64 * 1024;
/// How much unsent data the system accepts from the host before the client's system makes room for
/// it.
#[cfg(target_os = "linux")]
const MAX_UNSENT: u32 = 64 * 1024;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// How many connections beyond the limit can be in refusal at a time; a newer one evicts the
/// oldest of them. As many again may have been evicted and not have ended yet.
const MAX_LEAVING: usize = 64;
/// The same bound, as one in so many of the limit.
const LEAVING_PART: usize = 8;
/// How long an evicted h2 connection may take to tell its client.
const GOAWAY_GRACE: Duration = Duration::from_millis(250);
/// How often to check whether an evicted connection can be closed.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a new connection waits for an evicted one to end when too many have not ended yet:
/// longer than those may take.
const LEAVING_WAIT: Duration = Duration::from_millis(500);
/// The pause after a failed accept, for example for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub trait Handler: Send + Sync + 'static {
    /// The answer to a request that is refused before its body is read, if it is refused. Removes
    /// from the head whatever [`Handler::call`] must not see.
    fn refuse(&self, head: &mut request::Parts, caller: &Caller) -> Option<Response<Bytes>> {
        let _ = (head, caller);
        None
    }

    /// Completes when clients should move elsewhere, while their requests are still answered.
    /// Clients are told where that loses no request, which is in h2.
    fn leaving(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// The answer to a request. The future is dropped when the client resets its connection, or,
    /// in h2, closes it or cancels the request. In HTTP/1 a client that closes its sending side
    /// may still wait for the answer. A panic is answered with status 500.
    fn call(
        &self,
        request: Request<Bytes>,
        caller: &Caller,
    ) -> impl Future<Output = Response<Bytes>> + Send;
}

#[derive(Debug)]
pub struct Server {
    listener: std::net::TcpListener,
    address: SocketAddr,
    /// The clock for the `date` header.
    pub(super) clock: fn() -> SystemTime,
}

impl Server {
    /// Binds an address; port 0 picks a free port. Connections wait in the system's backlog until
    /// [`Server::run`] is called.
    ///
    /// # Errors
    /// When the address cannot be bound because it is in use, or not an address of this machine.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = socket2::Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        // A restart need not wait until the system has forgotten the previous process's
        // connections.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        // Connections inherit this from their listener. The system's buffers are not counted
        // anywhere else in this process, and would otherwise grow to megabytes per connection.
        socket.set_recv_buffer_size(MAX_UNREAD)?;
        socket.set_send_buffer_size(MAX_UNTAKEN)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_notsent_lowat(MAX_UNSENT)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = std::net::TcpListener::from(socket);
        let address = listener.local_addr()?;
        Ok(Self {
            listener,
            address,
            clock: SystemTime::now,
        })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Accepts connections until `shutdown` is true or its sender is gone. Then asks open
    /// connections to close, waits until their requests are answered, and returns. This wait has
    /// no bound of its own; dropping the future cuts all connections.
    ///
    /// If the `door` has TLS, plain connections are refused. When the door changes, connections
    /// that it would no longer admit are told to leave, and none of their further requests is
    /// answered.
    ///
    /// # Errors
    /// When the runtime cannot register the socket.
    pub async fn run<H: Handler>(
        self,
        handler: Arc<H>,
        limits: LiveLimits,
        metrics: Arc<Metrics>,
        (label, door): (Listener, Door),
        mut shutdown: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let shared = Arc::new(Shared {
            handler,
            limits,
            metrics,
            heads: Sums::default(),
            bodies: Sums::default(),
            backlog: HandshakeBacklog::default(),
            door,
            clock: self.clock,
        });
        let mut connections = JoinSet::new();
        let mut places = Places::default();
        let (mut told, mut told_places) = (JoinSet::new(), Places::default());
        let not_accepted = NotAccepted::default();
        let for_connections = shutdown.clone();
        loop {
            tokio::select! {
                () = down(&mut shutdown) => break,
                Some(ended) = connections.join_next_with_id() => {
                    places.leave(task_of(ended));
                    shared.metrics.connection_closed(label);
                }
                Some(ended) = told.join_next_with_id() => {
                    told_places.leave(task_of(ended));
                }
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let limits = **shared.limits.load();
                        let most = limits.max_connections;
                        let leaving = (most / LEAVING_PART).clamp(1, MAX_LEAVING);
                        if places.len() >= most + leaving {
                            // Evicted connections may not have ended yet.
                            let left = timeout(LEAVING_WAIT, connections.join_next_with_id()).await;
                            if let Ok(Some(ended)) = left {
                                places.leave(task_of(ended));
                                shared.metrics.connection_closed(label);
                            }
                        }
                        let has_place = places.len() < most + leaving
                            && (places.kept() < most || places.make_room(limits.answer_patience));
                        if has_place {
                            shared.metrics.connection_opened(label);
                            let (sender, lost) = watch::channel(false);
                            let activity = Activity::new();
                            let socket = Socket::new(stream, Arc::clone(activity.send_queue()));
                            let place = (Arc::clone(&activity), lost);
                            let shutdown = for_connections.clone();
                            let serving = serve(Arc::clone(&shared), socket, peer, place, shutdown);
                            places.take(connections.spawn(serving).id(), activity, sender);
                            continue;
                        }
                        shared.metrics.connection_refused(label);
                        // In TLS a refusal needs a handshake, and a handshake needs a place.
                        if shared.door.borrow().is_none() {
                            if told.len() >= leaving {
                                told_places.make_room(Duration::ZERO);
                            }
                            let (sender, lost) = watch::channel(false);
                            let activity = Activity::new();
                            activity.lingers();
                            let socket = Socket::new(stream, Arc::clone(activity.send_queue()));
                            let place = (Arc::clone(&activity), lost);
                            let refusing = refuse(socket, place, for_connections.clone());
                            told_places.take(told.spawn(refusing).id(), activity, sender);
                        }
                    }
                    Err(error) => {
                        // Either the connection itself failed, or this process lacks a resource
                        // that is freed when other connections end.
                        if let Some(count) = not_accepted.count() {
                            tracing::warn!(listener = Listener::VALUES[label.index()], count, %error, "connections could not be accepted: raise the limit on open files, or lower http.max_connections");
                        }
                        places.make_room(shared.limits.load().answer_patience);
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {
            shared.metrics.connection_closed(label);
        }
        while told.join_next().await.is_some() {}
        Ok(())
    }
}

/// Waits until the server is told to shut down, or its owner is gone.
pub(super) async fn down(shutdown: &mut watch::Receiver<bool>) {
    let _told_or_gone = shutdown.wait_for(|down| *down).await;
}

/// The task that has ended, whether it succeeded or failed.
fn task_of(ended: Result<(Id, ()), JoinError>) -> Id {
    ended.map_or_else(|error| error.id(), |(task, ())| task)
}

/// Answers a connection beyond the limit with a refusal, until it has ended or was evicted.
async fn refuse(
    socket: Socket,
    (activity, mut lost): (Arc<Activity>, Lost),
    shutdown: watch::Receiver<bool>,
) {
    let refusal = Some(refusals::CONNECTIONS);
    tokio::select! {
        () = linger::close(Stream::Plain(socket), refusal, &activity, shutdown) => {}
        () = down(&mut lost) => {}
    }
}

/// Serves a connection until it has ended, or has been evicted and has nothing left to be kept
/// for.
async fn serve<H: Handler>(
    shared: Arc<Shared<H>>,
    socket: Socket,
    peer: SocketAddr,
    (activity, mut lost): (Arc<Activity>, Lost),
    shutdown: watch::Receiver<bool>,
) {
    // Answers are written whole, so waiting for more data gains nothing.
    if let Err(error) = socket.stream().set_nodelay(true) {
        tracing::debug!(client = %peer, %error, "connection ended");
        return;
    }
    let limits = Arc::clone(&shared.limits);
    let place = (Arc::clone(&activity), lost.clone());
    let mut connection = pin!(connection::serve(shared, socket, peer, place, shutdown));
    // Polled only when it was woken, and not with every request. Unconstrained: a client that sends
    // without a pause would otherwise use up the task's budget each time.
    let mut told = FuturesUnordered::from_iter([Box::pin(unconstrained(down(&mut lost)))]);
    let (mut is_lost, mut grace, mut looks) = (false, None, None);
    std::future::poll_fn(|context| {
        // The connection is polled first: received bytes are read, and may be a request that must
        // be run.
        if connection.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        is_lost = is_lost || Pin::new(&mut told).poll_next(context).is_ready();
        if !is_lost {
            return Poll::Pending;
        }
        // No event tells that the client has taken what the system holds for it.
        let looks = looks.get_or_insert_with(|| interval(LOOK_EVERY));
        while looks.poll_tick(context).is_ready() {}
        if !gives_way(&activity, limits.load().answer_patience) {
            return Poll::Pending;
        }
        if activity.began().0 == Phase::Idle {
            // An HTTP/1 connection is closed by now; an h2 client is told, and may have to answer.
            let grace = grace.get_or_insert_with(|| Box::pin(unconstrained(sleep(GOAWAY_GRACE))));
            ready!(grace.as_mut().poll(context));
        }
        tracing::debug!(client = %peer, "connection closed to make room");
        Poll::Ready(())
    })
    .await;
}
