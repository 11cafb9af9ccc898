//! How a peer's address is resolved, and a stream to it opened.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::sync::Semaphore;

/// The most concurrent name look-ups. Each occupies a thread for as long as the system's resolver
/// tries, which can be half a minute.
const MAX_LOOK_UPS: usize = 32;

/// A way to resolve peers' addresses and to open streams to them.
pub trait Dial: Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Resolves a peer's configured address.
    fn resolve(&self, address: &str) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;

    /// Opens a stream to an address.
    fn dial(&self, at: SocketAddr) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

#[derive(Clone, Debug)]
pub struct Tcp {
    /// The local address to connect from, so that peers see this side's address. `None` leaves the
    /// choice to the system.
    from: Option<IpAddr>,
    look_ups: Arc<Semaphore>,
}

impl Tcp {
    /// Connects from the address on which this side listens, if it is a specific one.
    pub fn from(listening: IpAddr) -> Self {
        Self {
            from: (!listening.is_unspecified()).then_some(listening),
            ..Self::default()
        }
    }
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            from: None,
            look_ups: Arc::new(Semaphore::new(MAX_LOOK_UPS)),
        }
    }
}

impl Dial for Tcp {
    type Stream = TcpStream;

    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = address.parse() {
            return Ok(vec![address]);
        }
        let permit = Arc::clone(&self.look_ups).acquire_owned().await;
        let address = address.to_owned();
        // In a task of its own: its thread continues when nobody waits any longer, and so holds
        // its permit until it is done.
        let looking = tokio::spawn(async move {
            let _permit = permit;
            Ok(lookup_host(address).await?.collect())
        });
        looking.await.map_err(io::Error::other)?
    }

    async fn dial(&self, at: SocketAddr) -> io::Result<TcpStream> {
        let socket = match at {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(from) = self.from.filter(|from| from.is_ipv4() == at.is_ipv4()) {
            socket.bind((from, 0).into())?;
        }
        let stream = socket.connect(at).await?;
        // Frames are batched before they are written; waiting for more would only delay them.
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// A stream of any network.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// [`Dial`] for a network that is chosen where the process is wired.
trait DialAny: Debug + Send + Sync {
    fn resolve_any<'a>(&'a self, address: &'a str) -> Coming<'a, Vec<SocketAddr>>;

    fn dial_any(&self, at: SocketAddr) -> Coming<'_, Box<dyn Stream>>;
}

type Coming<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

impl<D: Dial + Debug> DialAny for D {
    fn resolve_any<'a>(&'a self, address: &'a str) -> Coming<'a, Vec<SocketAddr>> {
        Box::pin(self.resolve(address))
    }

    fn dial_any(&self, at: SocketAddr) -> Coming<'_, Box<dyn Stream>> {
        Box::pin(async move { Ok(Box::new(self.dial(at).await?) as Box<dyn Stream>) })
    }
}

/// [`Dial`] through a network chosen at run time.
#[derive(Clone, Debug)]
pub struct AnyDial(Arc<dyn DialAny>);

impl AnyDial {
    pub fn new(dial: impl Dial + Debug) -> Self {
        Self(Arc::new(dial))
    }
}

impl Dial for AnyDial {
    type Stream = Box<dyn Stream>;

    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        self.0.resolve_any(address).await
    }

    async fn dial(&self, at: SocketAddr) -> io::Result<Self::Stream> {
        self.0.dial_any(at).await
    }
}
