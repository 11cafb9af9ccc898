//! The handshake that opens every connection.
//!
//! The connecting side sends its hello, and the accepting side its own. Then the connecting side
//! proves its token, the accepting side admits it and proves its own token, and the connecting
//! side says that it is ready. After the hellos, either side may send a refusal instead of its
//! next message.

use std::time::Duration;

use ostrakon_network::tls::Chain;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::credentials::{Credentials, Shown};
use super::endpoint::{Endpoint, Identity};
use super::frame_buffer::FrameBuffer;
use super::handshake_error::HandshakeError;
use super::hello::Hello;
use super::proof::{Role, Transcript};
use super::settings::Settings;
use super::token::Token;

const MOST: u32 = 1024;
const MAX_REASON: usize = 512;
const FAREWELL: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    Proof(Option<[u8; 32]>),
    Welcome(Option<[u8; 32]>),
    Ready,
    Refused(String),
}

/// This side's inputs to one handshake.
pub(super) struct Party<'a> {
    pub identity: Identity,
    pub settings: &'a Settings,
    /// The credentials at the beginning of the connection.
    pub credentials: &'a Credentials,
    /// The other side's certificates, if the stream is in TLS.
    pub chain: Option<Chain>,
    pub binding: Option<[u8; 32]>,
    /// When the handshake, TLS included, must be done.
    pub deadline: Instant,
}

impl<'a> Party<'a> {
    pub(super) fn new(endpoint: &'a Endpoint, credentials: &'a Credentials) -> Self {
        Self {
            identity: endpoint.identity,
            settings: &endpoint.settings,
            credentials,
            chain: None,
            binding: None,
            deadline: Instant::now() + endpoint.settings.handshake_timeout,
        }
    }

    /// Runs the rest of a handshake, until the deadline.
    pub(super) async fn in_time<T>(
        &self,
        part: impl Future<Output = Result<T, HandshakeError>>,
    ) -> Result<T, HandshakeError> {
        let late = HandshakeError::TimedOut(self.settings.handshake_timeout);
        timeout_at(self.deadline, part).await.unwrap_or(Err(late))
    }

    fn agree(&self, ours: &Hello, theirs: &Hello) -> Result<u16, HandshakeError> {
        let common = ours.versions().common(theirs.versions());
        let version = common.ok_or_else(|| HandshakeError::Versions {
            ours: ours.versions(),
            theirs: theirs.versions(),
        })?;
        if ours.nonce == theirs.nonce {
            return Err(HandshakeError::Reflected);
        }
        match (ours.guarded, theirs.guarded) {
            (true, false) if !self.credentials.suffice(&self.shown(None)) => {
                Err(HandshakeError::TokenMissingThere)
            }
            // In TLS, the side that has a token decides whether one is needed.
            (false, true) if self.chain.is_none() => Err(HandshakeError::TokenMissingHere),
            _ => Ok(version),
        }
    }

    fn prove(&self, transcript: &Transcript<'_>, role: Role) -> Option<[u8; 32]> {
        let token = self.credentials.tokens.first()?;
        Some(transcript.prove(token, role))
    }

    fn check(
        &self,
        transcript: &Transcript<'_>,
        role: Role,
        proof: Option<[u8; 32]>,
    ) -> Result<Shown, HandshakeError> {
        let tokens = &self.credentials.tokens;
        let token = proof.and_then(|proof| transcript.verify(tokens, role, &proof));
        let shown = self.shown(token.cloned());
        if self.credentials.suffice(&shown) {
            Ok(shown)
        } else {
            Err(HandshakeError::WrongToken)
        }
    }

    fn shown(&self, token: Option<Token>) -> Shown {
        let chain = self.chain.clone();
        Shown { chain, token }
    }
}

/// The result of a successful handshake.
pub(super) struct Greeted {
    pub peer: Identity,
    pub version: u16,
    pub shown: Shown,
    pub buffer: FrameBuffer,
}

/// Performs the handshake of the connecting side.
pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    us: &Party<'_>,
    wanted: Option<u32>,
) -> Result<Greeted, HandshakeError> {
    let exchange = async |exchange: &mut Exchange<'_, S>| {
        let ours = Hello::of(us)?;
        let our_bytes = ours.encode();
        exchange.send(&our_bytes).await?;
        let received = exchange.receive().await;
        let their_bytes = received.map_err(|error| match error {
            HandshakeError::Closed if us.chain.is_none() => HandshakeError::ClosedAtHello,
            other => other,
        })?;
        let theirs = Hello::decode(&their_bytes)?;
        let version = us.agree(&ours, &theirs)?;
        let found = theirs.identity().ordinal;
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            return Err(HandshakeError::WrongOrdinal { wanted, found });
        }
        let transcript = Transcript {
            binding: us.binding,
            connecting: &our_bytes,
            accepting: &their_bytes,
        };
        let proof = us.prove(&transcript, Role::Connecting);
        exchange.say(&Message::Proof(proof)).await?;
        let Message::Welcome(proof) = exchange.hear().await? else {
            return Err(HandshakeError::Malformed("expected a welcome"));
        };
        let shown = us.check(&transcript, Role::Accepting, proof)?;
        exchange.say(&Message::Ready).await?;
        Ok((theirs.identity(), version, shown))
    };
    run(stream, us, exchange).await
}

/// Performs the handshake of the accepting side.
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    us: &Party<'_>,
    admit: impl Fn(&Identity) -> Result<(), String>,
) -> Result<Greeted, HandshakeError> {
    let exchange = async |exchange: &mut Exchange<'_, S>| {
        let their_bytes = exchange.receive().await?;
        let theirs = Hello::decode(&their_bytes)?;
        let ours = Hello::of(us)?;
        let our_bytes = ours.encode();
        exchange.send(&our_bytes).await?;
        let version = us.agree(&ours, &theirs)?;
        let Message::Proof(proof) = exchange.hear().await? else {
            return Err(HandshakeError::Malformed("expected a proof"));
        };
        let transcript = Transcript {
            binding: us.binding,
            connecting: &their_bytes,
            accepting: &our_bytes,
        };
        let shown = us.check(&transcript, Role::Connecting, proof)?;
        admit(&theirs.identity()).map_err(HandshakeError::NotAdmitted)?;
        let proof = us.prove(&transcript, Role::Accepting);
        exchange.say(&Message::Welcome(proof)).await?;
        let Message::Ready = exchange.hear().await? else {
            return Err(HandshakeError::Malformed("expected a ready"));
        };
        Ok((theirs.identity(), version, shown))
    };
    run(stream, us, exchange).await
}

async fn run<'a, S: AsyncRead + AsyncWrite + Unpin>(
    stream: &'a mut S,
    us: &Party<'_>,
    steps: impl AsyncFnOnce(&mut Exchange<'a, S>) -> Result<(Identity, u16, Shown), HandshakeError>,
) -> Result<Greeted, HandshakeError> {
    let mut exchange = Exchange {
        stream,
        buffer: FrameBuffer::new(MOST),
    };
    match us.in_time(steps(&mut exchange)).await {
        Ok((peer, version, shown)) => {
            exchange.buffer.set_most(us.settings.max_frame);
            Ok(Greeted {
                peer,
                version,
                shown,
                buffer: exchange.buffer,
            })
        }
        Err(error) => {
            if let Some(reason) = error.told() {
                let _ = timeout(FAREWELL, exchange.refuse(reason)).await;
            }
            Err(error)
        }
    }
}

struct Exchange<'a, S> {
    stream: &'a mut S,
    buffer: FrameBuffer,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Exchange<'_, S> {
    async fn send(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        let length = u32::try_from(bytes.len()).expect("handshake messages are short");
        let mut frame = length.to_be_bytes().to_vec();
        frame.extend_from_slice(bytes);
        self.stream.write_all(&frame).await?;
        self.stream.flush().await?;
        Ok(())
    }

    async fn receive(&mut self) -> Result<bytes::Bytes, HandshakeError> {
        Ok(self.buffer.next(self.stream).await?)
    }

    async fn say(&mut self, message: &Message) -> Result<(), HandshakeError> {
        let bytes = postcard::to_stdvec(message).expect("postcard can encode every message");
        self.send(&bytes).await
    }

    async fn hear(&mut self) -> Result<Message, HandshakeError> {
        let bytes = self.receive().await?;
        match postcard::from_bytes(&bytes) {
            Ok(Message::Refused(reason)) => Err(HandshakeError::Refused(plain(&reason))),
            Ok(message) => Ok(message),
            Err(_) => Err(HandshakeError::Malformed("a message of an unknown kind")),
        }
    }

    async fn refuse(&mut self, reason: String) -> Result<(), HandshakeError> {
        self.say(&Message::Refused(plain(&reason))).await?;
        self.stream.shutdown().await?;
        // Closing a socket with unread bytes would reset the stream, and the other side might lose
        // the refusal.
        let mut sink = [0; 1024];
        while self.stream.read(&mut sink).await? > 0 {}
        Ok(())
    }
}

/// Makes a reason fit for a frame and a log: bounds its length and removes control characters.
pub(super) fn plain(reason: &str) -> String {
    let end = reason.floor_char_boundary(MAX_REASON);
    reason[..end]
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}
