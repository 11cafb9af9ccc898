//! A buffer for received bytes that do not form a complete frame yet.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

use super::cause::Cause;
use super::handshake_error::HandshakeError;

const LENGTH: usize = 4;
const LEAST_READ: usize = 16 << 10;
const MAX_READ: usize = 1 << 20;

/// A buffer for received bytes that do not form a complete frame yet.
pub(super) struct FrameBuffer {
    bytes: BytesMut,
    most: u32,
    heard: Instant,
}

/// Why there is no next frame.
#[derive(Debug)]
pub(super) enum Unframed {
    Closed,
    TooLarge { length: u32, most: u32 },
    Io(io::Error),
}

impl FrameBuffer {
    /// An empty buffer for frames of at most `most` bytes.
    pub(super) fn new(most: u32) -> Self {
        Self {
            bytes: BytesMut::new(),
            most,
            heard: Instant::now(),
        }
    }

    /// Changes the limit on the length of a frame.
    pub(super) fn set_most(&mut self, most: u32) {
        self.most = most;
    }

    /// When bytes last arrived.
    pub(super) fn heard(&self) -> Instant {
        self.heard
    }

    /// Whether a part of a frame has arrived.
    pub(super) fn is_partial(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// The next frame, without its length field. Dropping the future loses nothing.
    pub(super) async fn next<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut R,
    ) -> Result<Bytes, Unframed> {
        loop {
            let wanted = match self.bytes.first_chunk::<LENGTH>() {
                None => LENGTH,
                Some(length) => {
                    let length = u32::from_be_bytes(*length);
                    if length > self.most {
                        return Err(Unframed::TooLarge {
                            length,
                            most: self.most,
                        });
                    }
                    let length = usize::try_from(length).expect("a usize has 32 bits or more");
                    if self.bytes.len() >= LENGTH + length {
                        let mut frame = self.bytes.split_to(LENGTH + length);
                        return Ok(frame.split_off(LENGTH).freeze());
                    }
                    LENGTH + length
                }
            };
            // The buffer grows with the received bytes, not with the announced length.
            let room = (wanted - self.bytes.len()).clamp(LEAST_READ, MAX_READ);
            self.bytes.reserve(room);
            let read = from.read_buf(&mut self.bytes).await.map_err(Unframed::Io)?;
            if read == 0 {
                return Err(Unframed::Closed);
            }
            self.heard = Instant::now();
        }
    }
}

impl From<Unframed> for Cause {
    fn from(reason: Unframed) -> Self {
        match reason {
            Unframed::Closed => Self::Closed,
            Unframed::TooLarge { length, most } => Self::FrameTooLarge { length, most },
            Unframed::Io(error) => error.into(),
        }
    }
}

impl From<Unframed> for HandshakeError {
    fn from(reason: Unframed) -> Self {
        match reason {
            Unframed::Closed => Self::Closed,
            Unframed::TooLarge { length, most } => Self::TooLarge { length, most },
            Unframed::Io(error) => error.into(),
        }
    }
}
