//! How streams of peers are taken.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// Where peers connect to.
pub trait Accept: Send + 'static {
    /// The stream that is taken.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next stream, and where it comes from. Dropping the future loses none.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, from) = Self::accept(self).await?;
        // A connection that ends at once says so by itself.
        let _ = stream.set_nodelay(true);
        Ok((stream, from))
    }
}
