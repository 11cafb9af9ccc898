//! How a stream to a peer is opened.

use std::fmt::Debug;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A way to open a stream to the address of a peer.
pub trait Dial: Send + Sync + 'static {
    /// The stream that is opened.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Opens a stream to an address.
    fn dial(&self, address: &str) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Plain TCP to an address of the form `host:port`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Dial for Tcp {
    type Stream = TcpStream;

    async fn dial(&self, address: &str) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
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
    /// As [`Dial::dial`].
    fn dial_any<'a>(&'a self, address: &'a str) -> Opening<'a>;
}

/// A stream on its way.
type Opening<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

impl<D: Dial + Debug> DialAny for D {
    fn dial_any<'a>(&'a self, address: &'a str) -> Opening<'a> {
        Box::pin(async move { Ok(Box::new(self.dial(address).await?) as Box<dyn Stream>) })
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

    async fn dial(&self, address: &str) -> io::Result<Self::Stream> {
        self.0.dial_any(address).await
    }
}
