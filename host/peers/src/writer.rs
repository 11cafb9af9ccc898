//! The writing half of a connection.

use std::io;
use std::sync::{Mutex, MutexGuard};

use tokio::io::{AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::frame::Frame;
use super::lock::lock;

const BATCH: usize = 64 << 10;

/// The frames that one side writes, besides pings and pongs.
pub(super) trait Queue {
    /// Takes the next frame, with a permit to hold until it is flushed.
    fn next(&mut self) -> Option<(Frame, Option<OwnedSemaphorePermit>)>;
}

/// The outgoing frames of one side, and a signal to the writer that there are more.
#[derive(Default)]
pub(super) struct Outgoing<Q> {
    state: Mutex<State<Q>>,
    // Only the writer waits on it.
    more: Notify,
}

/// Only the latest ping and pong are kept, so that a peer that pings without end does not fill the
/// queue.
#[derive(Default)]
struct State<Q> {
    ping: Option<u64>,
    pong: Option<u64>,
    queue: Q,
    finish: bool,
}

/// A locked queue. Whoever adds a frame must call [`Outgoing::tell`].
pub(super) struct Locked<'a, Q>(MutexGuard<'a, State<Q>>);

impl<Q> std::ops::Deref for Locked<'_, Q> {
    type Target = Q;

    fn deref(&self) -> &Q {
        &self.0.queue
    }
}

impl<Q> std::ops::DerefMut for Locked<'_, Q> {
    fn deref_mut(&mut self) -> &mut Q {
        &mut self.0.queue
    }
}

enum Step {
    Write(Frame, Option<OwnedSemaphorePermit>),
    Wait,
    Finish,
}

impl<Q> Outgoing<Q> {
    /// Locks the queue, to be held only briefly.
    pub(super) fn queue(&self) -> Locked<'_, Q> {
        Locked(lock(&self.state))
    }

    /// Tells the writer that the queue has more frames.
    pub(super) fn tell(&self) {
        self.more.notify_one();
    }

    pub(super) fn ping(&self, number: u64) {
        lock(&self.state).ping = Some(number);
        self.tell();
    }

    pub(super) fn pong(&self, number: u64) {
        lock(&self.state).pong = Some(number);
        self.tell();
    }

    /// Tells the writer to close once everything is written.
    pub(super) fn finish(&self) {
        lock(&self.state).finish = true;
        self.tell();
    }
}

impl<Q: Queue> Outgoing<Q> {
    fn step(&self) -> Step {
        let mut state = lock(&self.state);
        if let Some(number) = state.pong.take() {
            Step::Write(Frame::Pong(number), None)
        } else if let Some(number) = state.ping.take() {
            Step::Write(Frame::Ping(number), None)
        } else if let Some((frame, permit)) = state.queue.next() {
            Step::Write(frame, permit)
        } else if state.finish {
            Step::Finish
        } else {
            Step::Wait
        }
    }

    /// Writes queued frames until told to finish. Frames that are queued together share one flush.
    pub(super) async fn write<W: AsyncWrite + Unpin>(&self, to: W) -> io::Result<()> {
        let mut to = BufWriter::with_capacity(BATCH, to);
        let mut permits = Vec::new();
        loop {
            match self.step() {
                Step::Write(frame, permit) => {
                    let (head, body) = frame.encode();
                    to.write_all(&head).await?;
                    to.write_all(&body).await?;
                    permits.extend(permit);
                }
                Step::Wait => {
                    to.flush().await?;
                    permits.clear();
                    self.more.notified().await;
                }
                Step::Finish => {
                    to.flush().await?;
                    return to.shutdown().await;
                }
            }
        }
    }
}
