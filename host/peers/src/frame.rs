//! The frames that follow the handshake.

use bytes::{Buf, Bytes};

use super::cause::Cause;

/// The length of a frame's head, without its length field.
pub(super) const HEAD: u32 = 9;

/// A frame after the handshake: a kind, a number and a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Request {
        id: u64,
        body: Bytes,
    },
    Answer {
        id: u64,
        body: Bytes,
    },
    NotTaken {
        id: u64,
    },
    Failed {
        id: u64,
    },
    Ping(u64),
    Pong(u64),
    GoAway,
    GoAwayAck,
    Closing(Bytes),
    /// The caller no longer waits for the answer to a request.
    GivenUp {
        id: u64,
    },
}

impl Frame {
    /// The longest body in a frame of at most `most` bytes.
    pub(super) fn most_body(most: u32) -> usize {
        usize::try_from(most.saturating_sub(HEAD)).expect("a usize has 32 bits or more")
    }

    /// The bytes of the frame, as a head with the length field and a body.
    pub(super) fn encode(self) -> ([u8; 13], Bytes) {
        let (kind, id, body) = match self {
            Self::Request { id, body } => (1, id, body),
            Self::Answer { id, body } => (2, id, body),
            Self::NotTaken { id } => (3, id, Bytes::new()),
            Self::Failed { id } => (4, id, Bytes::new()),
            Self::Ping(id) => (5, id, Bytes::new()),
            Self::Pong(id) => (6, id, Bytes::new()),
            Self::GoAway => (7, 0, Bytes::new()),
            Self::GoAwayAck => (8, 0, Bytes::new()),
            Self::Closing(reason) => (9, 0, reason),
            Self::GivenUp { id } => (10, id, Bytes::new()),
        };
        let length = u32::try_from(body.len())
            .ok()
            .and_then(|length| length.checked_add(HEAD))
            .expect("bodies are checked against the longest frame before they are encoded");
        let mut head = [0; 13];
        head[..4].copy_from_slice(&length.to_be_bytes());
        head[4] = kind;
        head[5..].copy_from_slice(&id.to_be_bytes());
        (head, body)
    }

    /// Decodes a frame without its length field. Returns `None` for a kind of a later version,
    /// which sends such frames unasked only if it needs no answer.
    pub(super) fn decode(mut bytes: Bytes) -> Result<Option<Self>, Cause> {
        let (Ok(kind), Ok(id)) = (bytes.try_get_u8(), bytes.try_get_u64()) else {
            return Err(Cause::Malformed("a frame without a head"));
        };
        let frame = match kind {
            1 => return Ok(Some(Self::Request { id, body: bytes })),
            2 => return Ok(Some(Self::Answer { id, body: bytes })),
            9 => return Ok(Some(Self::Closing(bytes))),
            3 => Self::NotTaken { id },
            4 => Self::Failed { id },
            5 => Self::Ping(id),
            6 => Self::Pong(id),
            7 => Self::GoAway,
            8 => Self::GoAwayAck,
            10 => Self::GivenUp { id },
            _ => return Ok(None),
        };
        if bytes.is_empty() {
            Ok(Some(frame))
        } else {
            Err(Cause::Malformed("a body in a frame that has none"))
        }
    }
}
