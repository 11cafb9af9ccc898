//! Accepting connections, and shutting down.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response, request};
use ostrakon_observe::metrics::{Label as _, Listener, Metrics};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::coop::unconstrained;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use super::caller::{Caller, Door};
use super::connection::{self, Shared};
use super::places::{Lost, Places, gives_way};
use super::stream::Stream;
use super::sums::Sums;
use super::wire::{Activity, Phase};
use super::{LiveLimits, linger, refusals};
use crate::descriptors::NotAccepted;
use crate::handshake_backlog::HandshakeBacklog;

/// How much the system keeps for a connection, in bytes: of what its client has sent and the host has not
/// read, and of what the host has said and the client has not taken. Linux keeps twice as much, with
/// what that costs beside the bytes, and of what is said up to 64 KiB more. Enough that a client nearby
/// never waits.
const MAX_UNREAD: usize = 64 * 1024;
const MAX_UNTAKEN: usize = 64 * 1024;
/// How much of the latter it takes from the host before the client's system makes room for it.
#[cfg(target_os = "linux")]
const MAX_UNSENT: u32 = 64 * 1024;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Connections beyond the limit that are told so at a time, the oldest of which make room for those
/// that come; and as many that have lost their place and are yet to go.
const MAX_LEAVING: usize = 64;
/// The same as a part of the limit.
const LEAVING_PART: usize = 8;
/// How long an h2 connection that has lost its place may take to say so to its client.
const GOAWAY_GRACE: Duration = Duration::from_millis(250);
/// How long a new connection waits for one that has lost its place, where too many have: longer than
/// those may take.
const LEAVING_WAIT: Duration = Duration::from_millis(500);
/// How long to wait when no connection can be accepted, for want of file descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    /// The answer to a request whose body is not to be read, if it is such a one. What is in its
    /// head and not for [`Handler::call`] is taken out here.
    fn refuse(&self, head: &mut request::Parts, caller: &Caller) -> Option<Response<Bytes>> {
        let _ = (head, caller);
        None
    }

    /// Completes when clients are to go elsewhere, while their requests are still
    /// answered. Where it can be said without losing one, in h2, they are told so.
    fn leaving(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// The answer to a request. Dropped when the client resets its connection, or in h2 closes it or
    /// cancels the request; in HTTP/1 the end of what it sends may mean that it waits. A panic is
    /// answered with status 500.
    fn call(
        &self,
        request: Request<Bytes>,
        caller: &Caller,
    ) -> impl Future<Output = Response<Bytes>> + Send;
}

/// A bound port.
#[derive(Debug)]
pub struct Server {
    listener: std::net::TcpListener,
    address: SocketAddr,
    /// What answers are dated by.
    pub(super) clock: fn() -> SystemTime,
}

impl Server {
    /// Binds an address; port 0 means any that is free. Connections wait until [`Server::run`].
    ///
    /// # Errors
    /// When the address cannot be bound: it is in use, or not this machine's.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        // A restart does not wait for the connections of the process before to be forgotten.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        // Connections have it from their listener. What the system keeps counts nowhere else in this
        // process, and it would keep megabytes for each.
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

    /// The address that is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Accepts connections until `shutdown` is true or its sender is gone. Then tells open
    /// connections to close, waits until their requests are answered, and returns. The wait has no
    /// bound of its own: dropping the future cuts all connections.
    ///
    /// Where the `door` has TLS, nothing else is spoken; connections that it would not let in any
    /// more when it changes are told to go, and nothing that they ask is answered.
    ///
    /// # Errors
    /// When the runtime cannot take the socket.
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
                            // Those that have lost their place may not have been able to go yet.
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
                            let place = (Arc::clone(&activity), lost);
                            let shutdown = for_connections.clone();
                            let serving = serve(Arc::clone(&shared), stream, peer, place, shutdown);
                            places.take(connections.spawn(serving).id(), activity, sender);
                            continue;
                        }
                        shared.metrics.connection_refused(label);
                        // In TLS it takes a handshake to say anything, and that takes a place.
                        if shared.door.borrow().is_none() {
                            if told.len() >= leaving {
                                told_places.make_room(Duration::ZERO);
                            }
                            let (sender, lost) = watch::channel(false);
                            let activity = Activity::new();
                            activity.lingers();
                            let place = (Arc::clone(&activity), lost);
                            let refusing = refuse(stream, place, for_connections.clone());
                            told_places.take(told.spawn(refusing).id(), activity, sender);
                        }
                    }
                    Err(error) => {
                        // The connection's own failure, or this process's want of something that
                        // comes back when others end.
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

/// Which task has ended, well or not.
fn task_of(ended: Result<(Id, ()), JoinError>) -> Id {
    ended.map_or_else(|error| error.id(), |(task, ())| task)
}

/// Tells a connection for which there is no place so, until it has gone or has lost that, too.
async fn refuse(
    stream: TcpStream,
    (activity, mut lost): (Arc<Activity>, Lost),
    shutdown: watch::Receiver<bool>,
) {
    let refusal = Some(refusals::CONNECTIONS);
    tokio::select! {
        () = linger::close(Stream::Plain(stream), refusal, &activity, shutdown) => {}
        () = down(&mut lost) => {}
    }
}

/// Serves a connection until it has ended, or has lost its place and does nothing that it is to be
/// kept for.
async fn serve<H: Handler>(
    shared: Arc<Shared<H>>,
    stream: TcpStream,
    peer: SocketAddr,
    (activity, mut lost): (Arc<Activity>, Lost),
    shutdown: watch::Receiver<bool>,
) {
    // Answers are whole when they are written: nothing is gained by waiting for more.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(client = %peer, %error, "connection ended");
        return;
    }
    let limits = Arc::clone(&shared.limits);
    let place = (Arc::clone(&activity), lost.clone());
    let mut connection = pin!(connection::serve(shared, stream, peer, place, shutdown));
    // A client that sends without a pause takes all of the task's budget each time.
    let mut told = pin!(unconstrained(down(&mut lost)));
    let (mut is_lost, mut grace) = (false, None);
    std::future::poll_fn(|context| {
        // First the connection: what has come is read, and may be a request that is to be run.
        if connection.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        is_lost = is_lost || told.as_mut().poll(context).is_ready();
        if !is_lost || !gives_way(&activity, limits.load().answer_patience) {
            return Poll::Pending;
        }
        if activity.began().0 == Phase::Idle {
            // HTTP/1 is closed already; in h2 its client is told, and may have to answer.
            let grace = grace.get_or_insert_with(|| Box::pin(unconstrained(sleep(GOAWAY_GRACE))));
            ready!(grace.as_mut().poll(context));
        }
        tracing::debug!(client = %peer, "connection closed to make room");
        Poll::Ready(())
    })
    .await;
}
