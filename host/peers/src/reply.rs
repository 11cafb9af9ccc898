//! The obligation to answer one request.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::cause::Cause;
use super::frame::Frame;
use super::outbox::Outbox;

/// The obligation to answer one request. If it is dropped without an answer, the other side is
/// told that there will be none.
pub(super) struct Reply {
    id: u64,
    outbox: Arc<Outbox>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Reply {
    pub(super) fn new(id: u64, outbox: Arc<Outbox>, permit: OwnedSemaphorePermit) -> Self {
        Self {
            id,
            outbox,
            permit: Some(permit),
        }
    }

    /// Sends the answer, if it fits into a frame.
    pub(super) fn send(mut self, body: Bytes, most: usize) -> Result<(), Cause> {
        if body.len() > most {
            let length = body.len();
            return Err(Cause::TooLarge { length, most });
        }
        let id = self.id;
        self.outbox
            .push(Frame::Answer { id, body }, self.permit.take());
        Ok(())
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            let id = self.id;
            self.outbox.push(Frame::Failed { id }, Some(permit));
        }
    }
}
