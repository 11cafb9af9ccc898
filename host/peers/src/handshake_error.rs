//! Why a handshake failed.

use std::io;
use std::time::Duration;

use ostrakon_network::tls::Problem;

use super::hello::Versions;

#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("the stream failed in the handshake; check the network and try again: {0}")]
    Io(io::Error),
    #[error("the other side closed the stream in the handshake; look at its log for the reason")]
    Closed,
    /// The other side closed the stream instead of sending its hello.
    #[error(
        "the other side closed the stream at our hello; if it takes TLS only, give us the certificates of the cluster, or else look at its log"
    )]
    ClosedAtHello,
    #[error("TLS with the other side failed: {0}")]
    Tls(#[from] Problem),
    /// The other side does not use TLS, which is demanded here.
    #[error(
        "the other side does not use TLS, which is required here; give it the certificates of the cluster"
    )]
    PlainThere,
    /// The other side uses TLS, and this side has no certificate.
    #[error(
        "the other side uses TLS, which is not set up here; give us the certificates of the cluster"
    )]
    PlainHere,
    #[error(
        "there were too many other handshakes at the same time; find out who opens them, and try again"
    )]
    CrowdedOut,
    #[error("the handshake took longer than {0:?}; check that the other side is a shard and alive")]
    TimedOut(Duration),
    /// A message of the handshake is too long.
    #[error(
        "a handshake message of {length} bytes is above the {most} allowed; check that the other side is a shard"
    )]
    TooLarge { length: u32, most: u32 },
    /// The other side does not speak this protocol.
    #[error("the other side does not speak the peer protocol; check the address and port")]
    NotAShard,
    /// A message cannot be read or arrived out of order.
    #[error("the other side sent a handshake that cannot be read ({0}); check that it is a shard")]
    Malformed(&'static str),
    #[error("our own hello came back; check that the address is not our own or an echo")]
    Reflected,
    /// The two sides have no protocol version in common.
    #[error(
        "no common protocol version: we speak {ours}, the other side {theirs}; upgrade the older side"
    )]
    Versions { ours: Versions, theirs: Versions },
    /// We have a token and the other side has none.
    #[error("the other side has no token but we have one; give it the token of the cluster")]
    TokenMissingThere,
    /// The other side has a token and we have none.
    #[error("the other side has a token but we have none; give us the token of the cluster")]
    TokenMissingHere,
    /// The other side could not prove any of our tokens.
    #[error("the other side did not prove a token that we accept; give both sides the same token")]
    WrongToken,
    /// Another peer answered instead of the wanted one.
    #[error("peer {found} answered instead of peer {wanted}; correct the address of peer {wanted}")]
    WrongOrdinal { wanted: u32, found: u32 },
    /// Our handler does not admit the peer.
    #[error("the peer is not admitted; resolve the reason and let it connect again: {0}")]
    NotAdmitted(String),
    #[error("the other side refused us; resolve its reason: {0}")]
    Refused(String),
    /// The system gave us no random bytes.
    #[error("the system gave no random bytes; check that getrandom is allowed: {0}")]
    NoRandomness(io::Error),
}

impl HandshakeError {
    /// The reason to send to the other side, if it is useful there.
    pub(super) fn told(&self) -> Option<String> {
        let text = match self {
            Self::Versions { ours, theirs } => {
                format!("no common protocol version: you speak {theirs}, we speak {ours}")
            }
            Self::TokenMissingThere => "you have no token but we have one".to_owned(),
            Self::TokenMissingHere => "you have a token but we have none".to_owned(),
            Self::WrongToken => "you did not prove a token that we accept".to_owned(),
            Self::WrongOrdinal { wanted, found } => {
                format!("you are peer {found}, we wanted {wanted}")
            }
            Self::NotAdmitted(reason) => reason.clone(),
            Self::Reflected => "you sent our own hello".to_owned(),
            Self::Io(_)
            | Self::Closed
            | Self::ClosedAtHello
            | Self::Tls(_)
            | Self::PlainThere
            | Self::PlainHere
            | Self::CrowdedOut
            | Self::TimedOut(_)
            | Self::TooLarge { .. }
            | Self::NotAShard
            | Self::Malformed(_)
            | Self::Refused(_)
            | Self::NoRandomness(_) => return None,
        };
        Some(text)
    }

    /// Whether the process that answered cannot be the wanted peer. A peer that is down, slow or
    /// refuses us may still be the right one.
    pub(super) fn is_of_another(&self) -> bool {
        match self {
            Self::Tls(problem) => matches!(
                problem,
                Problem::Name
                    | Problem::UnknownAuthority
                    | Problem::Purpose
                    | Problem::NoCertificate
                    | Problem::Protocol
            ),
            Self::TokenMissingThere
            | Self::WrongToken
            | Self::WrongOrdinal { .. }
            | Self::TooLarge { .. }
            | Self::NotAShard
            | Self::Malformed(_)
            | Self::Reflected => true,
            Self::Io(_)
            | Self::Closed
            | Self::ClosedAtHello
            | Self::PlainThere
            | Self::PlainHere
            | Self::CrowdedOut
            | Self::TimedOut(_)
            | Self::Versions { .. }
            | Self::TokenMissingHere
            | Self::NotAdmitted(_)
            | Self::Refused(_)
            | Self::NoRandomness(_) => false,
        }
    }

    /// Whether the fault lies with this process.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Self::NoRandomness(_))
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        // In TLS the other side checks our certificate after we have checked its own, so its
        // verdict on ours arrives in the middle of the hellos.
        Problem::of(&error).map_or(Self::Io(error), Self::Tls)
    }
}
