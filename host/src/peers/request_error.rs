//! Why a request has no answer.

use super::cause::Cause;

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
