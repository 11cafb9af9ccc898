//! How a peer is found, and a stream to it opened.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::sync::Semaphore;

/// The most look-ups of names at a time. Each keeps a thread for as long as the
/// system's resolver tries, which can be half a minute.
const MAX_LOOK_UPS: usize = 32;

/// A way to find peers and to open streams to them.
pub trait Dial: Send + Sync + 'static {
    /// The stream that is opened.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Where a peer is by its configured address, as is known now.
    fn resolve(&self, address: &str) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;

    /// Opens a stream to where a peer may be.
    fn dial(&self, at: SocketAddr) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Plain TCP, to addresses of the form `host:port`.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// Where it is called from, so that peers see where this side is; the system's
    /// choice where there is none.
    from: Option<IpAddr>,
    look_ups: Arc<Semaphore>,
}

impl Tcp {
    /// Calls from the address that this side listens at, if it is one.
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
        // In a task of its own: its thread goes on when nobody waits any longer, and
        // so counts until it is done.
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
        // Batches are made before they are written; waiting for more only delays them.
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// A stream of whatever network.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// [`Dial`] for a network that is chosen where the process is wired.
trait DialAny: Debug + Send + Sync {
    /// As [`Dial::resolve`].
    fn resolve_any<'a>(&'a self, address: &'a str) -> Coming<'a, Vec<SocketAddr>>;

    /// As [`Dial::dial`].
    fn dial_any(&self, at: SocketAddr) -> Coming<'_, Box<dyn Stream>>;
}

/// What is on its way.
type Coming<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

impl<D: Dial + Debug> DialAny for D {
    fn resolve_any<'a>(&'a self, address: &'a str) -> Coming<'a, Vec<SocketAddr>> {
        Box::pin(self.resolve(address))
    }

    fn dial_any(&self, at: SocketAddr) -> Coming<'_, Box<dyn Stream>> {
        Box::pin(async move { Ok(Box::new(self.dial(at).await?) as Box<dyn Stream>) })
    }
}

/// [`Dial`] by whatever way was chosen.
#[derive(Clone, Debug)]
pub struct AnyDial(Arc<dyn DialAny>);

impl AnyDial {
    /// The way that was chosen.
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
