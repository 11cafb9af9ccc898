//! The outgoing frames of the accepting side.

use std::collections::VecDeque;

use tokio::sync::OwnedSemaphorePermit;

use super::frame::Frame;
use super::writer::{Outgoing, Queue};

/// The outgoing frames of the accepting side.
pub(super) type Outbox = Outgoing<Frames>;

#[derive(Default)]
pub(super) struct Frames(VecDeque<(Frame, Option<OwnedSemaphorePermit>)>);

impl Queue for Frames {
    fn next(&mut self) -> Option<(Frame, Option<OwnedSemaphorePermit>)> {
        self.0.pop_front()
    }
}

impl Outbox {
    /// Adds a frame, with a permit to hold until it is flushed. Returns the number of queued
    /// frames.
    pub(super) fn push(&self, frame: Frame, permit: Option<OwnedSemaphorePermit>) -> usize {
        let mut queue = self.queue();
        queue.0.push_back((frame, permit));
        let waiting = queue.0.len();
        drop(queue);
        self.tell();
        waiting
    }
}
