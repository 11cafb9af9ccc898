//! How a stream to a peer is opened.

use std::io;

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
