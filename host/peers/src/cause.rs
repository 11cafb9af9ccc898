//! Why a connection or a request came to nothing.

use std::time::Duration;

/// The reason why a connection ended, or a request was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The connection is closed.
    #[error("the connection is closed; connect again")]
    Closed,
    /// The other side goes away and takes no more requests.
    #[error("the other side is going away; connect again")]
    GoingAway,
    /// The other side said that it did not take the request.
    #[error("the other side did not take the request; send it again")]
    NotTaken,
    /// The other side took the request but came to no answer.
    #[error("the other side failed at the request; look at its log")]
    Failed,
    /// What answers there runs nothing that is sent to it from here.
    #[error("what answers at its address is not it, and runs nothing for this cluster: {0}")]
    NotThePeer(&'static str),
    /// The time was over before the request could be sent.
    #[error("there was no connection, or no room on it, in time; try again later")]
    Late,
    /// A later process of the peer has said where it is.
    #[error("the other side was replaced by a later process; connect to that one")]
    Replaced,
    /// A body is too long for a frame.
    #[error("a body of {length} bytes is above the {most} allowed; split it")]
    TooLarge {
        /// The length of the body.
        length: usize,
        /// The longest body allowed.
        most: usize,
    },
    /// The other side announced a frame that is too long.
    #[error(
        "a frame of {length} bytes is above the {most} allowed; give both sides the same limit"
    )]
    FrameTooLarge {
        /// The length announced.
        length: u32,
        /// The longest frame allowed.
        most: u32,
    },
    /// The other side sent something that makes no sense.
    #[error("the other side broke the protocol ({0}); upgrade the older side")]
    Malformed(&'static str),
    /// Nothing was heard from the other side.
    #[error("nothing heard from the other side for {0:?}; check that it is alive")]
    Silent(Duration),
    /// The other side did not confirm in time that we go away.
    #[error("the other side did not confirm within {0:?} that we go away; check that it is alive")]
    NoAck(Duration),
    /// What the other side has shown was taken away, or has expired.
    #[error(
        "the token or certificate that this connection was made with holds no longer; connect again with those of now"
    )]
    Revoked,
    /// The stream failed.
    #[error("the stream failed; connect again: {0}")]
    Io(String),
    /// The other side ended the connection and said why.
    #[error("the other side ended the connection; see to its reason: {0}")]
    Told(String),
    /// The pool has no address for the ordinal.
    #[error("there is no address for peer {0}; set one")]
    NoAddress(u32),
    /// The peer could not be reached.
    #[error("the peer cannot be reached; try again later: {0}")]
    Unreachable(String),
}

impl Cause {
    /// The reason to tell the other side, if it would be of use to it.
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

/// The reason why a request has no answer, with what that says of its effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The request certainly had no effect.
    #[error("the request was not sent and may be sent again: {0}")]
    NotSent(Cause),
    /// The request may have had its effect.
    #[error(
        "the request may or may not have been carried out; find out before sending it again: {0}"
    )]
    Unknown(Cause),
}

impl RequestError {
    /// Whether the request certainly had no effect.
    pub fn is_not_sent(&self) -> bool {
        matches!(self, Self::NotSent(_))
    }
}
