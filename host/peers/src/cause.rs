//! Why a connection or a request failed.

use std::time::Duration;

/// Why a connection ended, or a request was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    #[error("the connection is closed; connect again")]
    Closed,
    /// The other side is going away and accepts no more requests.
    #[error("the other side is going away; connect again")]
    GoingAway,
    /// The other side did not accept the request.
    #[error("the other side did not accept the request; send it again")]
    NotTaken,
    /// The other side accepted the request but gave no answer.
    #[error("the other side failed to answer the request; look at its log")]
    Failed,
    /// The process at the peer's address is another one, and runs no requests from here.
    #[error(
        "another process answers at the peer's address, and runs no requests of this cluster: {0}"
    )]
    NotThePeer(&'static str),
    /// The deadline passed before the request could be sent.
    #[error("no connection, or no room on it, became available in time; try again later")]
    Late,
    /// A later process of the peer has announced itself.
    #[error("the other side was replaced by a later process; connect to that one")]
    Replaced,
    /// A body is too long for a frame.
    #[error("a body of {length} bytes is above the {most} allowed; split it")]
    TooLarge { length: usize, most: usize },
    /// The other side announced a frame that is too long.
    #[error(
        "a frame of {length} bytes is above the {most} allowed; give both sides the same limit"
    )]
    FrameTooLarge { length: u32, most: u32 },
    #[error("the other side broke the protocol ({0}); upgrade the older side")]
    Malformed(&'static str),
    /// The other side was silent for too long.
    #[error("nothing heard from the other side for {0:?}; check that it is alive")]
    Silent(Duration),
    /// The other side did not confirm our going away in time.
    #[error("the other side did not confirm our going away within {0:?}; check that it is alive")]
    NoAck(Duration),
    /// The credentials that the other side has shown were revoked or have expired.
    #[error(
        "the token or certificate of this connection is no longer accepted; connect again with the current ones"
    )]
    Revoked,
    #[error("the stream failed; connect again: {0}")]
    Io(String),
    /// The other side ended the connection and gave a reason.
    #[error("the other side ended the connection; resolve its reason: {0}")]
    Told(String),
    /// The pool has no address for the ordinal.
    #[error("there is no address for peer {0}; set one")]
    NoAddress(u32),
    #[error("the peer cannot be reached; try again later: {0}")]
    Unreachable(String),
}

impl Cause {
    /// The reason to send to the other side, if it is useful there.
    pub(super) fn told(&self) -> Option<String> {
        match self {
            Self::FrameTooLarge { .. } | Self::Malformed(_) | Self::NoAck(_) | Self::Revoked => {
                Some(self.to_string())
            }
            _ => None,
        }
    }
}

impl From<std::io::Error> for Cause {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

/// Why a request has no answer, and whether it may have had an effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("the request was not sent and may be sent again: {0}")]
    NotSent(Cause),
    /// The request may have had an effect.
    #[error("the request may or may not have been carried out; check before sending it again: {0}")]
    Unknown(Cause),
}

impl RequestError {
    /// Whether the request certainly had no effect.
    pub fn is_not_sent(&self) -> bool {
        matches!(self, Self::NotSent(_))
    }
}
