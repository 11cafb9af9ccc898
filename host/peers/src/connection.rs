//! The connecting side of a connection.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::calls::Calls;
use super::cause::{Cause, RequestError};
use super::credentials::revoked;
use super::endpoint::{Endpoint, Identity};
use super::frame::Frame;
use super::frame_buffer::FrameBuffer;
use super::handshake::{self, Greeted, Party, plain};
use super::handshake_error::HandshakeError;
use super::keepalive::{Due, Keepalive, Owed};

const LAST_WORDS: Duration = Duration::from_secs(1);

/// The connecting side of a connection, which sends the requests. Clones share it; it closes when
/// the last one is dropped.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    peer: Identity,
    version: u16,
    calls: Arc<Calls>,
    // Dropped with the last clone, which makes the driver close the connection.
    _held: oneshot::Sender<()>,
}

impl Connection {
    /// Performs the handshake on a stream without TLS, and checks that the peer has the wanted
    /// ordinal, if one is given.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn open<S>(
        mut stream: S,
        endpoint: &Endpoint,
        wanted: Option<u32>,
    ) -> Result<Self, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let credentials = Arc::clone(&endpoint.credentials.borrow());
        if !credentials.takes_plain() {
            return Err(HandshakeError::PlainThere);
        }
        let us = Party::new(endpoint, &credentials);
        let greeted = handshake::connect(&mut stream, &us, wanted).await?;
        Ok(Self::drive(stream, greeted, endpoint))
    }

    /// As [`Self::open`], but in TLS: the peer must show a certificate for `host`.
    ///
    /// # Errors
    /// When TLS or the handshake fails, or this side has no certificate.
    pub(crate) async fn open_tls<S>(
        stream: S,
        endpoint: &Endpoint,
        host: &str,
        wanted: Option<u32>,
    ) -> Result<Self, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let credentials = Arc::clone(&endpoint.credentials.borrow());
        let mut us = Party::new(endpoint, &credentials);
        let mutual = credentials.tls.as_ref().ok_or(HandshakeError::PlainHere)?;
        let secured = async { Ok(mutual.connect(stream, host).await?) };
        let secured = us.in_time(secured).await?;
        (us.chain, us.binding) = (Some(secured.chain), Some(secured.binding));
        let mut stream = Box::new(secured.stream);
        let greeted = handshake::connect(&mut stream, &us, wanted).await?;
        Ok(Self::drive(stream, greeted, endpoint))
    }

    fn drive<S>(stream: S, greeted: Greeted, endpoint: &Endpoint) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let calls = Calls::new(&endpoint.settings);
        let driver = Driver {
            peer: greeted.peer,
            calls: Arc::clone(&calls),
            buffer: greeted.buffer,
            keepalive: Keepalive::new(&endpoint.settings),
        };
        let (held, released) = oneshot::channel();
        let limit = endpoint.settings.revoked_timeout;
        let revocation = revoked(endpoint.credentials.clone(), greeted.shown);
        let ending = Arc::clone(&calls);
        let revoked = async move {
            revocation.await;
            ending.shut(&Cause::Revoked);
            sleep(limit).await;
        };
        tokio::spawn(driver.run(stream, released, revoked));
        Self(Arc::new(Inner {
            peer: greeted.peer,
            version: greeted.version,
            calls,
            _held: held,
        }))
    }

    pub fn peer(&self) -> Identity {
        self.0.peer
    }

    /// The agreed protocol version.
    pub fn version(&self) -> u16 {
        self.0.version
    }

    /// Whether the connection accepts new requests.
    pub fn is_open(&self) -> bool {
        self.0.calls.is_open()
    }

    /// Why the connection accepts no more requests, if so.
    pub(crate) fn shut_by(&self) -> Option<Cause> {
        self.0.calls.shut_by()
    }

    /// Accepts no more requests, and ends those in flight as not run. Call it only if the other
    /// side has said that it runs none.
    pub(super) fn disown(&self, cause: &Cause) {
        self.0.calls.disown(cause);
    }

    /// Abandons the connection: its requests in flight end at once with this cause.
    pub(super) fn give_up(&self, cause: &Cause) {
        self.0.calls.end(cause);
    }

    /// Sends a request and waits for its answer. Waits first for room among the requests in
    /// flight. Dropping the future cancels the request, and tells the other side so.
    ///
    /// # Errors
    /// Whether the request may have had an effect, and why there is no answer.
    pub async fn request(&self, body: Bytes) -> Result<Bytes, RequestError> {
        self.request_until(body, None).await
    }

    /// As [`Self::request`], but the request is not sent after `until`.
    ///
    /// # Errors
    /// Whether the request may have had an effect, and why there is no answer.
    pub(crate) async fn request_until(
        &self,
        body: Bytes,
        until: Option<Instant>,
    ) -> Result<Bytes, RequestError> {
        self.0.calls.request(body, until).await
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connection")
            .field("peer", &self.0.peer)
            .field("version", &self.0.version)
            .field("shut_by", &self.shut_by())
            .finish()
    }
}

struct Driver {
    peer: Identity,
    calls: Arc<Calls>,
    buffer: FrameBuffer,
    keepalive: Keepalive,
}

/// Ends the requests even if the runtime drops the driver.
struct EndOnDrop(Arc<Calls>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(&Cause::Closed);
    }
}

impl Driver {
    async fn run<S>(
        mut self,
        stream: S,
        released: oneshot::Receiver<()>,
        revoked: impl Future<Output = ()>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let calls = Arc::clone(&self.calls);
        let _end = EndOnDrop(Arc::clone(&calls));
        let peer = self.peer;
        let (mut from, to) = tokio::io::split(stream);
        let mut reading = pin!(self.read(&mut from));
        let mut writing = pin!(calls.outgoing().write(to));
        let cause = tokio::select! {
            biased;
            cause = &mut reading => cause,
            _ = released => {
                calls.outgoing().finish();
                // Closing a socket with unread bytes would reset the stream.
                let last = async { tokio::join!(writing, reading) };
                let _ = timeout(LAST_WORDS, last).await;
                Cause::Closed
            }
            () = revoked => Cause::Revoked,
            written = &mut writing => {
                let error = written.err().map_or(Cause::Closed, Cause::from);
                calls.shut(&error);
                // Answers, and the reason of the end, may still wait to be read.
                timeout(LAST_WORDS, reading).await.unwrap_or(error)
            }
        };
        tracing::debug!(peer = peer.ordinal, error = %cause, "connection to peer ended");
        calls.end(&cause);
    }

    async fn read<R: AsyncRead + Unpin>(&mut self, from: &mut R) -> Cause {
        loop {
            tokio::select! {
                // The most frequent event comes last, so that it does not delay pings.
                biased;
                () = sleep_until(self.keepalive.deadline()) => {
                    let owed = if self.calls.are_awaited() { Owed::ToUs } else { Owed::Nothing };
                    match self.keepalive.due(self.buffer.heard(), owed) {
                        Due::Nothing => {}
                        Due::Ping(number) => self.calls.outgoing().ping(number),
                        Due::End(after) => return Cause::Silent(after),
                    }
                }
                frame = self.buffer.next(from) => {
                    let taken = match frame.map_err(Cause::from).and_then(Frame::decode) {
                        Ok(Some(frame)) => self.take(frame),
                        Ok(None) => Ok(()),
                        Err(cause) => Err(cause),
                    };
                    if let Err(cause) = taken {
                        return cause;
                    }
                }
            }
        }
    }

    fn take(&self, frame: Frame) -> Result<(), Cause> {
        match frame {
            Frame::Answer { id, body } => self.calls.settle(id, Ok(body)),
            Frame::NotTaken { id } => {
                let error = RequestError::NotSent(Cause::NotTaken);
                self.calls.settle(id, Err(error))
            }
            Frame::Failed { id } => {
                let error = RequestError::Unknown(Cause::Failed);
                self.calls.settle(id, Err(error))
            }
            Frame::Ping(number) => {
                self.calls.outgoing().pong(number);
                Ok(())
            }
            Frame::Pong(_) => Ok(()),
            Frame::GoAway => {
                self.calls.go_away();
                Ok(())
            }
            Frame::Closing(reason) => Err(Cause::Told(plain(&String::from_utf8_lossy(&reason)))),
            Frame::Request { .. } | Frame::GoAwayAck | Frame::GivenUp { .. } => Err(
                Cause::Malformed("a frame that only the connecting side sends"),
            ),
        }
    }
}
