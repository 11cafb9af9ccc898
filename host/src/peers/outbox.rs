//! The frames that the accepting side has to write.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::beats::Beats;
use super::frame::Frame;
use super::lock::lock;
use super::writer::{Source, Step};

/// The frames that the accepting side has to write.
#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    more: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Frame, Option<OwnedSemaphorePermit>)>,
    beats: Beats,
    finish: bool,
}

impl Outbox {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Adds a frame, and a permit to hold until it is written; returns the
    /// number of frames that wait.
    pub(super) fn push(&self, frame: Frame, permit: Option<OwnedSemaphorePermit>) -> usize {
        let mut state = lock(&self.state);
        state.queue.push_back((frame, permit));
        let waiting = state.queue.len();
        drop(state);
        self.more.notify_one();
        waiting
    }

    pub(super) fn ping(&self, number: u64) {
        lock(&self.state).beats.ping(number);
        self.more.notify_one();
    }

    pub(super) fn pong(&self, number: u64) {
        lock(&self.state).beats.pong(number);
        self.more.notify_one();
    }

    /// Has the writer close once all is written.
    pub(super) fn finish(&self) {
        lock(&self.state).finish = true;
        self.more.notify_one();
    }
}

impl Source for Outbox {
    fn step(&self) -> Step {
        let mut state = lock(&self.state);
        if let Some(beat) = state.beats.take() {
            Step::Write(beat, None)
        } else if let Some((frame, permit)) = state.queue.pop_front() {
            Step::Write(frame, permit)
        } else if state.finish {
            Step::Finish
        } else {
            Step::Wait
        }
    }

    fn more(&self) -> &Notify {
        &self.more
    }
}
