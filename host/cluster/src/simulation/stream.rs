//! Streams over the network in memory, as peers open and accept them.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf as _;
use ostrakon_peers::{Accept, Dial};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::clock;
use super::life::Life;
use super::network::{Accepted, End, Found, Network};

/// How often a dial checks whether its link is mended, in milliseconds.
const LOOK_EVERY: u64 = 25;

/// One side of a connection.
pub(super) struct Stream {
    network: Network,
    life: Life,
    connection: u64,
    side: usize,
    arrival: Option<Pin<Box<Sleep>>>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "connection {} side {}", self.connection, self.side)
    }
}

impl Stream {
    pub(super) fn new(network: &Network, life: &Life, connection: u64, side: usize) -> Self {
        Self {
            network: network.clone(),
            life: life.clone(),
            connection,
            side,
            arrival: None,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let now = clock::now();
            let (connection, side) = (self.connection, self.side);
            match self.network.receive(connection, side, now, context.waker()) {
                Found::Bytes(mut bytes) => {
                    let taken = bytes.len().min(out.remaining());
                    out.put_slice(&bytes[..taken]);
                    bytes.advance(taken);
                    if !bytes.is_empty() {
                        self.network.put_back(connection, side, bytes, now);
                    }
                    return Poll::Ready(Ok(()));
                }
                Found::End(End::Closed) => return Poll::Ready(Ok(())),
                Found::End(End::Reset) => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                Found::At(at) => {
                    let mut arrival = Box::pin(clock::until(at));
                    let arrived = arrival.as_mut().poll(context);
                    self.arrival = Some(arrival);
                    ready!(arrived);
                }
                Found::Nothing => return Poll::Pending,
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let (connection, side) = (self.connection, self.side);
        // Data that a dead process writes is lost.
        if self.life.deed() && !self.network.send(connection, side, data, clock::now()) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.life.is_over() {
            let (connection, side) = (self.connection, self.side);
            self.network.close(connection, side, false, clock::now());
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.life.is_over() {
            let (connection, side) = (self.connection, self.side);
            self.network.close(connection, side, true, clock::now());
        }
    }
}

/// The port on which each process listens, at its shard's address.
const PORT: u16 = 7070;

fn address_of(shard: u32) -> SocketAddr {
    let net = Ipv4Addr::new(10, 0, 0, 0).to_bits();
    (Ipv4Addr::from_bits(net + shard), PORT).into()
}

fn shard_at(at: SocketAddr) -> u32 {
    match at.ip() {
        IpAddr::V4(at) => at.to_bits() & 0xff_ffff,
        IpAddr::V6(_) => unreachable!("the network is of IPv4"),
    }
}

/// Opens streams from one process to the shard whose ordinal the name begins with.
#[derive(Clone, Debug)]
pub(super) struct Dialing {
    pub(super) network: Network,
    pub(super) life: Life,
    pub(super) shard: u32,
}

impl Dial for Dialing {
    type Stream = Stream;

    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        let (shard, _) = address
            .split_once('.')
            .expect("a name begins with an ordinal");
        let shard = shard.parse().expect("a name begins with an ordinal");
        Ok(vec![address_of(shard)])
    }

    async fn dial(&self, at: SocketAddr) -> io::Result<Stream> {
        let to = shard_at(at);
        loop {
            let link = (self.shard, to);
            let begun = self.network.connect(&self.life, link, clock::now());
            let Some((ready, stream)) = begun else {
                clock::wait(LOOK_EVERY).await;
                continue;
            };
            clock::until(ready).await;
            return stream.ok_or_else(|| io::ErrorKind::ConnectionRefused.into());
        }
    }
}

/// Accepts the connections to one process.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) network: Network,
    pub(super) life: Life,
    pub(super) shard: u32,
}

impl Accept for Listener {
    type Stream = Stream;

    async fn accept(&mut self) -> io::Result<(Stream, SocketAddr)> {
        let mut arrival: Option<Pin<Box<Sleep>>> = None;
        std::future::poll_fn(|context| {
            loop {
                let (network, life) = (&self.network, &self.life);
                match network.accept(life, self.shard, clock::now(), context.waker()) {
                    Accepted::Stream(stream, from) => {
                        return Poll::Ready(Ok((stream, address_of(from))));
                    }
                    Accepted::At(at) => {
                        let sleep = arrival.insert(Box::pin(clock::until(at)));
                        ready!(sleep.as_mut().poll(context));
                    }
                    Accepted::Nothing => return Poll::Pending,
                }
            }
        })
        .await
    }
}
