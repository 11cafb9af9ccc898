//! How a connection is accepted: its first byte decides, and then TLS if it is spoken.

use std::net::SocketAddr;

use tokio::sync::watch;
use tokio::time::timeout;

use super::caller::{Caller, Door};
use super::connection::Shared;
use super::server::down;
use super::socket::Socket;
use super::stream::Stream;
use super::wire::Activity;
use super::{Limits, linger, refusals};
use crate::tls;

/// One in so many connections may be in a TLS handshake at a time.
const HANDSHAKING: usize = 2;

pub(super) struct Entered {
    pub(super) stream: Stream,
    pub(super) caller: Caller,
    /// The door as it was at acceptance, so that later changes are still seen.
    pub(super) door: Door,
}

/// Accepts a connection once its first byte has arrived. Returns `None` if the client left or was
/// refused, or the server is shut down.
pub(super) async fn enter<H>(
    shared: &Shared<H>,
    socket: Socket,
    address: SocketAddr,
    (limits, activity): (Limits, &Activity),
    shutdown: &mut watch::Receiver<bool>,
) -> Option<Entered> {
    // Nothing is allocated for a silent connection, so that thousands of them cost little.
    let mut first = [0];
    let said = tokio::select! {
        peeked = timeout(limits.first_byte_timeout, socket.stream().peek(&mut first)) => matches!(peeked, Ok(Ok(1))),
        () = down(shutdown) => false,
    };
    if !said {
        return None;
    }
    let mut door = shared.door.clone();
    let server = door.borrow_and_update().clone();
    let (stream, caller) = match server {
        None => {
            let to = socket.stream().local_addr().ok()?;
            (Stream::Plain(socket), Caller::plain(address, to))
        }
        Some(_) if first != [tls::FIRST_BYTE] => {
            let (stream, refusal) = (Stream::Plain(socket), Some(refusals::HTTPS_ONLY));
            linger::close(stream, refusal, activity, shutdown.clone()).await;
            return None;
        }
        // Boxed: a handshake needs much memory, but only briefly.
        Some(server) => {
            let entered = tokio::select! {
                entered = Box::pin(handshake(shared, &server, socket, address, limits)) => entered?,
                () = down(shutdown) => return None,
            };
            match entered {
                Ok(entered) => entered,
                // The client may still have to read why it was refused.
                Err(socket) => {
                    let stream = Stream::Plain(socket);
                    linger::close(stream, None, activity, shutdown.clone()).await;
                    return None;
                }
            }
        }
    };
    Some(Entered {
        stream,
        caller,
        door,
    })
}

/// Performs the handshake within the header timeout, unless too many newer handshakes evict it.
/// The error holds the socket on which the client was told why the handshake failed.
async fn handshake<H>(
    shared: &Shared<H>,
    server: &tls::Server,
    socket: Socket,
    address: SocketAddr,
    limits: Limits,
) -> Option<Result<(Stream, Caller), Socket>> {
    let mut place = shared.backlog.enter(limits.max_connections / HANDSHAKING);
    let accepted = tokio::select! {
        accepted = timeout(limits.header_timeout, server.accept(socket)) => accepted.ok(),
        () = place.lost() => None,
    };
    drop(place);
    match accepted {
        Some(Ok((stream, chain))) => {
            let caller = Caller::in_tls(address, chain);
            Some(Ok((Stream::Tls(Box::new(stream)), caller)))
        }
        Some(Err((problem, socket))) => {
            shared.metrics.tls_handshake_failed();
            tracing::debug!(client = %address, error = %problem, "TLS handshake failed");
            Some(Err(socket))
        }
        None => {
            shared.metrics.tls_handshake_failed();
            tracing::debug!(client = %address, "TLS handshake cut off: it took too long, or too many were newer");
            None
        }
    }
}
