//! Accepting connections from peers.

use std::io;
use std::net::SocketAddr;
#[cfg(target_os = "linux")]
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// How long the other side's system may acknowledge nothing of what was sent to it. Without a bound,
/// the system would keep what strangers do not take for minutes after their connection was closed.
#[cfg(target_os = "linux")]
const MAX_UNTAKEN: Duration = Duration::from_secs(10);

/// A source of accepted connections on the peer port.
pub trait Accept: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Accepts the next stream, and returns it with its remote address. Dropping the future loses
    /// no stream.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, from) = Self::accept(self).await?;
        // If the connection has already ended, the next read or write reports it.
        let _ = stream.set_nodelay(true);
        #[cfg(target_os = "linux")]
        let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(MAX_UNTAKEN));
        Ok((stream, from))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::Instant;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpSocket;

    use super::*;

    /// Whether the system has a socket at this port that is connected to that one, or is still to
    /// send to it.
    fn is_held(port: u16, client: u16) -> bool {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("the table of connections");
        let ends = [port, client].map(|port| format!(":{port:04X}"));
        table.lines().any(|line| {
            let fields: Vec<_> = line.split_whitespace().take(3).collect();
            matches!(fields[..], [_, local, remote] if local.ends_with(&ends[0]) && remote.ends_with(&ends[1]))
        })
    }

    #[tokio::test]
    async fn what_a_stranger_does_not_take_is_discarded_soon_after_its_connection_is_closed() {
        let mut listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = TcpSocket::new_v4().expect("a socket");
        client.set_recv_buffer_size(4096).expect("a small window");
        let (client, accepted) =
            tokio::join!(client.connect(address), Accept::accept(&mut listener));
        let (client, mut accepted) = (client.expect("a connection"), accepted.expect("it").0);
        let sent = accepted.write_all(&vec![b'x'; 24 * 1024]).await;
        sent.expect("the system takes it");
        drop(accepted);
        let port = client.local_addr().expect("an address").port();
        assert!(
            is_held(address.port(), port),
            "nothing was left to be taken"
        );
        let began = Instant::now();
        while is_held(address.port(), port) {
            // Without a bound this takes minutes.
            assert!(began.elapsed() < 5 * MAX_UNTAKEN, "it is still held");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        println!(
            "discarded {:?} after the connection was closed",
            began.elapsed()
        );
    }
}
