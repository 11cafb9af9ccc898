//! Accepting connections, and shutting down.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response, request};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::bodies::Bodies;
use super::caller::{Caller, Door};
use super::connection::{self, Shared};
use super::linger::Lingering;
use super::stream::Stream;
use super::{LiveLimits, Refusal};
use crate::lobby::Lobby;
use crate::metrics::{Listener, Metrics};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Connections beyond the limit that are told so at a time; the oldest make room for those that
/// come.
const MAX_TOLD: usize = 64;
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
            bodies: Bodies::default(),
            lobby: Lobby::default(),
            lingering: Lingering::default(),
            door,
            clock: self.clock,
        });
        let beyond = Arc::new(Lingering::default());
        let mut connections = JoinSet::new();
        let mut told = JoinSet::new();
        let for_connections = shutdown.clone();
        loop {
            tokio::select! {
                () = down(&mut shutdown) => break,
                Some(_) = connections.join_next() => shared.metrics.connection_closed(label),
                Some(_) = told.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if connections.len() >= shared.limits.load().max_connections
                        && !shared.lingering.make_room() =>
                    {
                        shared.metrics.connection_refused(label);
                        // In TLS it takes a handshake to say anything, and that takes a place.
                        if shared.door.borrow().is_none() {
                            if told.len() >= MAX_TOLD {
                                beyond.make_room();
                            }
                            let (beyond, down) = (Arc::clone(&beyond), for_connections.clone());
                            let refusal = Some(Refusal::Connections);
                            told.spawn(async move {
                                beyond.close(Stream::Plain(stream), refusal, down).await;
                            });
                        }
                    }
                    Ok((stream, peer)) => {
                        shared.metrics.connection_opened(label);
                        let shutdown = for_connections.clone();
                        connections.spawn(serve(Arc::clone(&shared), stream, peer, shutdown));
                    }
                    Err(error) => {
                        // The connection's own failure, or this process's want of something that
                        // comes back when others end.
                        tracing::warn!(%error, "could not accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
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

async fn serve<H: Handler>(
    shared: Arc<Shared<H>>,
    stream: TcpStream,
    peer: SocketAddr,
    shutdown: watch::Receiver<bool>,
) {
    // Answers are whole when they are written: nothing is gained by waiting for more.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(client = %peer, %error, "connection ended");
        return;
    }
    connection::serve(shared, stream, peer, shutdown).await;
}
