//! The host's own answer to a request that no guest answered.

use bytes::Bytes;
use http::Response;
use ostrakon_engine::Failure;
use ostrakon_network::http::Refusal;
use ostrakon_store::CommitError;

use crate::service::Refused;

impl From<&Refused> for Refusal {
    fn from(refused: &Refused) -> Self {
        match refused {
            Refused::Starting => Self::NoGeneration,
            Refused::RepliesFull => Self::Replies,
            Refused::TooManySlow => Self::SlowReads,
            Refused::WriterFull => Self::WriterFull,
            Refused::WriterWait => Self::WriterWait,
            Refused::NotStored(CommitError::Full) => Self::StoreFull,
            Refused::NotStored(CommitError::Missing(_)) => Self::StoreMissing,
            Refused::NotStored(error) if error.is_damage() => Self::StoreDamaged,
            Refused::NotStored(CommitError::Failed(_)) | Refused::Stopping => Self::StoreFailed,
            Refused::Away(_) => Self::ShardAway,
            Refused::Unknown(_) => Self::OutcomeUnknown,
            Refused::ReplyDropped => Self::ReplyDropped,
            Refused::Redirected { .. } => Self::Redirected,
            Refused::Misplaced { .. } => Self::Misplaced,
            Refused::Failed(failure) => match failure {
                Failure::Trap(_) => Self::GuestTrapped,
                Failure::Memory(_) => Self::GuestMemory,
                Failure::Deadline => Self::GuestDeadline,
                Failure::Reply(_) => Self::GuestReply,
                Failure::PartitionKey(..) => Self::BadPartitionKey,
                Failure::Store(error) if error.is_damage() => Self::StoreDamaged,
                Failure::Store(_) => Self::StoreFailed,
            },
        }
    }
}

impl Refused {
    /// The response that the client gets.
    pub fn response(&self) -> Response<Bytes> {
        let refusal = Refusal::from(self);
        match self {
            // Names the shard, for people: the client can only wait.
            Self::Away(why) | Self::Unknown(why) => refusal.explained(why),
            _ => refusal.response(),
        }
    }
}
