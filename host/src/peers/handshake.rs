//! The exchange that opens every connection.
//!
//! The connecting side sends its hello, the accepting side its own; then the
//! connecting side proves its token, the accepting side admits it and proves
//! its own, and the connecting side says that it is ready. Either side may
//! send a refusal in place of what is due after the hellos.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::endpoint::Endpoint;
use super::frame_buffer::FrameBuffer;
use super::handshake_error::HandshakeError;
use super::hello::Hello;
use super::identity::Identity;
use super::proof::{Role, Transcript};

const MOST: u32 = 1024;
const MOST_REASON: usize = 512;
const FAREWELL: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    Proof(Option<[u8; 32]>),
    Welcome(Option<[u8; 32]>),
    Ready,
    Refused(String),
}

/// What a handshake that went well leads to.
pub(super) struct Greeted {
    pub peer: Identity,
    pub version: u16,
    pub buffer: FrameBuffer,
}

/// Makes the handshake of the connecting side.
pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    endpoint: &Endpoint,
    wanted: Option<u32>,
) -> Result<Greeted, HandshakeError> {
    let exchange = async |exchange: &mut Exchange<'_, S>| {
        let ours = Hello::of(endpoint)?;
        let our_bytes = ours.encode();
        exchange.send(&our_bytes).await?;
        let their_bytes = exchange.receive().await?;
        let theirs = Hello::decode(&their_bytes)?;
        let version = agree(&ours, &theirs)?;
        let found = theirs.identity().ordinal;
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            return Err(HandshakeError::WrongOrdinal { wanted, found });
        }
        let transcript = Transcript {
            connecting: &our_bytes,
            accepting: &their_bytes,
        };
        let proof = prove(endpoint, &transcript, Role::Connecting);
        exchange.say(&Message::Proof(proof)).await?;
        let Message::Welcome(proof) = exchange.hear().await? else {
            return Err(HandshakeError::Malformed("a welcome was due"));
        };
        check(endpoint, &transcript, Role::Accepting, proof)?;
        exchange.say(&Message::Ready).await?;
        Ok((theirs.identity(), version))
    };
    run(stream, endpoint, exchange).await
}

/// Makes the handshake of the accepting side.
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    endpoint: &Endpoint,
    admit: impl Fn(&Identity) -> Result<(), String>,
) -> Result<Greeted, HandshakeError> {
    let exchange = async |exchange: &mut Exchange<'_, S>| {
        let their_bytes = exchange.receive().await?;
        let theirs = Hello::decode(&their_bytes)?;
        let ours = Hello::of(endpoint)?;
        let our_bytes = ours.encode();
        exchange.send(&our_bytes).await?;
        let version = agree(&ours, &theirs)?;
        let Message::Proof(proof) = exchange.hear().await? else {
            return Err(HandshakeError::Malformed("a proof was due"));
        };
        let transcript = Transcript {
            connecting: &their_bytes,
            accepting: &our_bytes,
        };
        check(endpoint, &transcript, Role::Connecting, proof)?;
        admit(&theirs.identity()).map_err(HandshakeError::NotAdmitted)?;
        let proof = prove(endpoint, &transcript, Role::Accepting);
        exchange.say(&Message::Welcome(proof)).await?;
        let Message::Ready = exchange.hear().await? else {
            return Err(HandshakeError::Malformed("a ready was due"));
        };
        Ok((theirs.identity(), version))
    };
    run(stream, endpoint, exchange).await
}

async fn run<'a, S: AsyncRead + AsyncWrite + Unpin>(
    stream: &'a mut S,
    endpoint: &Endpoint,
    steps: impl AsyncFnOnce(&mut Exchange<'a, S>) -> Result<(Identity, u16), HandshakeError>,
) -> Result<Greeted, HandshakeError> {
    let mut exchange = Exchange {
        stream,
        buffer: FrameBuffer::new(MOST),
    };
    let limit = endpoint.settings.handshake_timeout;
    let outcome = timeout(limit, steps(&mut exchange))
        .await
        .unwrap_or(Err(HandshakeError::TimedOut(limit)));
    match outcome {
        Ok((peer, version)) => {
            exchange.buffer.set_most(endpoint.settings.max_frame);
            Ok(Greeted {
                peer,
                version,
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

fn agree(ours: &Hello, theirs: &Hello) -> Result<u16, HandshakeError> {
    let version =
        ours.versions()
            .common(theirs.versions())
            .ok_or_else(|| HandshakeError::Versions {
                ours: ours.versions(),
                theirs: theirs.versions(),
            })?;
    if ours.nonce == theirs.nonce {
        return Err(HandshakeError::Reflected);
    }
    match (ours.guarded, theirs.guarded) {
        (true, false) => Err(HandshakeError::TokenMissingThere),
        (false, true) => Err(HandshakeError::TokenMissingHere),
        (true, true) | (false, false) => Ok(version),
    }
}

fn prove(endpoint: &Endpoint, transcript: &Transcript<'_>, role: Role) -> Option<[u8; 32]> {
    let token = endpoint.tokens.first()?;
    Some(transcript.prove(token, role))
}

fn check(
    endpoint: &Endpoint,
    transcript: &Transcript<'_>,
    role: Role,
    proof: Option<[u8; 32]>,
) -> Result<(), HandshakeError> {
    let right = match proof {
        Some(proof) => transcript.verify(&endpoint.tokens, role, &proof),
        None => endpoint.tokens.is_empty(),
    };
    if right {
        Ok(())
    } else {
        Err(HandshakeError::WrongToken)
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
        let bytes =
            postcard::to_stdvec(message).expect("a message has nothing that postcard cannot write");
        self.send(&bytes).await
    }

    async fn hear(&mut self) -> Result<Message, HandshakeError> {
        let bytes = self.receive().await?;
        match postcard::from_bytes(&bytes) {
            Ok(Message::Refused(reason)) => Err(HandshakeError::Refused(plain(&reason))),
            Ok(message) => Ok(message),
            Err(_) => Err(HandshakeError::Malformed("a message of no known kind")),
        }
    }

    async fn refuse(&mut self, reason: String) -> Result<(), HandshakeError> {
        self.say(&Message::Refused(plain(&reason))).await?;
        self.stream.shutdown().await?;
        // Closing with bytes unread would reset the stream, and the other
        // side might lose the refusal.
        let mut sink = [0; 1024];
        while self.stream.read(&mut sink).await? > 0 {}
        Ok(())
    }
}

/// A reason fit for a frame and a log: of bounded length, without control characters.
pub(super) fn plain(reason: &str) -> String {
    let end = reason.floor_char_boundary(MOST_REASON);
    reason[..end]
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}
