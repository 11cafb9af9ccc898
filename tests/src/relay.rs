//! Relays between peers that make each look to the other like a host of a later version: the
//! relay offers a later version of the protocol, adds fields to the hello and to each struct of
//! each message, sends frames of an unknown kind, and sends unknown requests.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ostrakon_test_support::later::with_more_fields;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;

use crate::peer::{Envelope, PeerResponse, decode, encode};

/// The offset of the highest version in a hello: after the mark and the lowest version.
const HIGHEST: usize = 9;
/// The kinds of frames that carry messages.
const REQUEST: u8 = 1;
const ANSWER: u8 = 2;
/// The numbers of the relay's own requests, which peers do not use.
const OWN: u64 = 1 << 62;
/// A frame of a later version follows after this many frames.
const EVERY: u64 = 7;

/// Relays that run until they are dropped.
#[derive(Debug)]
pub struct Relays {
    counts: Arc<Counts>,
    _runtime: Runtime,
}

/// What the relays have done so far.
#[derive(Debug, Default)]
pub struct Counts {
    pub connections: AtomicU64,
    /// Messages to which fields were added.
    pub messages: AtomicU64,
    /// Frames of an unknown kind.
    pub frames: AtomicU64,
    /// Unknown requests that were answered with `NotUnderstood`.
    pub not_understood: AtomicU64,
    /// Unknown requests that were answered in another way.
    pub otherwise: AtomicU64,
}

impl Relays {
    /// Starts a relay from the first to the second address of each pair.
    ///
    /// # Panics
    /// When a relay cannot listen.
    pub fn start(from_to: &[(SocketAddr, SocketAddr)]) -> Self {
        let runtime = Runtime::new().expect("a runtime can be created");
        let counts = Arc::new(Counts::default());
        for (from, to) in from_to.iter().copied() {
            let listener = runtime.block_on(TcpListener::bind(from));
            let listener = listener.expect("the port is free");
            let counts = Arc::clone(&counts);
            runtime.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let counts = Arc::clone(&counts);
                    tokio::spawn(async move {
                        // The relay ends when one side ends, like any connection.
                        let _ended = relay(stream, to, &counts).await;
                    });
                }
            });
        }
        Self {
            counts,
            _runtime: runtime,
        }
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Connecting,
    Accepting,
}

async fn relay(stream: TcpStream, to: SocketAddr, counts: &Counts) -> io::Result<()> {
    // Peers recognize a peer by its source address.
    let socket = TcpSocket::new_v4()?;
    socket.bind((stream.peer_addr()?.ip(), 0).into())?;
    let other = socket.connect(to).await?;
    counts.connections.fetch_add(1, Ordering::Relaxed);
    stream.set_nodelay(true)?;
    other.set_nodelay(true)?;
    let (mut here_in, mut here_out) = stream.into_split();
    let (mut there_in, mut there_out) = other.into_split();
    let forth = pump(&mut here_in, &mut there_out, From::Connecting, counts);
    let back = pump(&mut there_in, &mut here_out, From::Accepting, counts);
    tokio::try_join!(forth, back)?;
    Ok(())
}

async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    side: From,
    counts: &Counts,
) -> io::Result<()> {
    let handshake = match side {
        // A hello, a proof, and the message that it is ready.
        From::Connecting => 3,
        // A hello, and a welcome.
        From::Accepting => 2,
    };
    for number in 0_u64.. {
        let mut length = [0; 4];
        if let Err(error) = from.read_exact(&mut length).await {
            to.shutdown().await?;
            return match error.kind() {
                io::ErrorKind::UnexpectedEof => Ok(()),
                _ => Err(error),
            };
        }
        let length = usize::try_from(u32::from_be_bytes(length)).expect("the length is small");
        let mut frame = vec![0; length];
        from.read_exact(&mut frame).await?;
        if number == 0 {
            frame[HIGHEST] += 1;
            frame.extend(b"and more");
        } else if number >= handshake {
            if number % EVERY == 0 {
                counts.frames.fetch_add(1, Ordering::Relaxed);
                send(to, &[&[200][..], &[0; 8], b"more"].concat()).await?;
                if side == From::Connecting {
                    send(to, &unheard_of(number)).await?;
                }
            }
            match later(frame, counts) {
                Some(later) => frame = later,
                None => continue,
            }
        }
        send(to, &frame).await?;
    }
    Ok(())
}

/// The frame as a later version sends it; `None` where it answers the relay's own request.
fn later(frame: Vec<u8>, counts: &Counts) -> Option<Vec<u8>> {
    let kind = frame[0];
    let id = u64::from_be_bytes(frame[1..9].try_into().expect("eight bytes"));
    if id >= OWN && kind == ANSWER {
        let answered = match decode(&frame[9..]) {
            Some(PeerResponse::NotUnderstood { .. }) => &counts.not_understood,
            _ => &counts.otherwise,
        };
        answered.fetch_add(1, Ordering::Relaxed);
        return None;
    }
    if id < OWN && matches!(kind, REQUEST | ANSWER) {
        counts.messages.fetch_add(1, Ordering::Relaxed);
        return Some([&frame[..9], &with_more_fields(&frame[9..])].concat());
    }
    Some(frame)
}

/// A request that no version knows.
fn unheard_of(number: u64) -> Vec<u8> {
    #[derive(serde::Serialize)]
    enum Unheard {
        Dance { with: Vec<u32> },
    }
    let request = encode(&Envelope {
        cluster: None,
        accepts: None,
        request: Unheard::Dance { with: vec![1, 2] },
    });
    [&[REQUEST][..], &(OWN + number).to_be_bytes(), &request].concat()
}

async fn send(to: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).expect("the length is small");
    to.write_all(&[&length.to_be_bytes(), frame].concat()).await
}
