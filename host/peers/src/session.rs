//! The accepting side's work on one connection.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::cause::Cause;
use super::endpoint::Identity;
use super::frame::Frame;
use super::frame_buffer::FrameBuffer;
use super::keepalive::{Due, Keepalive, Owed};
use super::outbox::Outbox;
use super::reply::Reply;
use super::room::semaphore;
use super::serve::Handler;
use super::settings::Settings;

/// The most queued outgoing frames. More mean that the other side sends without reading.
const MAX_WAITING: usize = 1 << 16;

/// The least number of finished requests that are kept before they are cleaned up.
const SPARE: usize = 64;

/// The accepting side's work on one connection.
pub(super) struct Session<'a, H> {
    peer: Identity,
    settings: &'a Settings,
    handler: Arc<H>,
    outbox: Arc<Outbox>,
    slots: Arc<Semaphore>,
    // A slot taken ahead for the next request. Without it nothing is read, unless this side is
    // going away.
    slot: Option<OwnedSemaphorePermit>,
    tasks: JoinSet<()>,
    // Dropping a sender ends the request's task.
    wanted: BTreeMap<u64, oneshot::Sender<()>>,
    keepalive: Keepalive,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// We announced that we go away, and wait for the confirmation until this time.
    Leaving(Instant),
    /// The other side confirmed: no more requests will follow.
    Confirmed,
}

impl<'a, H: Handler> Session<'a, H> {
    pub(super) fn new(
        peer: Identity,
        settings: &'a Settings,
        handler: Arc<H>,
        outbox: Arc<Outbox>,
    ) -> Self {
        Self {
            peer,
            settings,
            handler,
            outbox,
            slots: semaphore(settings.max_running.max(1)),
            slot: None,
            tasks: JoinSet::new(),
            wanted: BTreeMap::new(),
            keepalive: Keepalive::new(settings),
            phase: Phase::Open,
        }
    }

    /// Serves until the other side leaves, or until this side has left in good order. This side
    /// begins to leave when `leave` completes.
    pub(super) async fn run<R: AsyncRead + Unpin>(
        mut self,
        buffer: &mut FrameBuffer,
        from: &mut R,
        leave: impl Future<Output = ()>,
    ) -> Result<(), Cause> {
        let mut leave = pin!(leave);
        let all = self.settings.max_running.max(1);
        loop {
            let confirmed = self.phase == Phase::Confirmed;
            let open = self.phase == Phase::Open;
            let leaving = match self.phase {
                Phase::Leaving(until) => Some(until),
                Phase::Open | Phase::Confirmed => None,
            };
            let reads = self.slot.is_some() || !open;
            tokio::select! {
                // The most frequent event comes last, so that it does not delay the others.
                biased;
                () = &mut leave, if open => {
                    self.outbox.push(Frame::GoAway, None);
                    self.phase = Phase::Leaving(Instant::now() + self.settings.goaway_timeout);
                }
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    self.reap(done);
                }
                permit = Arc::clone(&self.slots).acquire_owned(),
                    if self.slot.is_none() && !confirmed =>
                {
                    self.slot = Some(permit.expect("the slots are never closed"));
                }
                // Slots are returned as answers are flushed, so holding all of them means that
                // every answer has been sent.
                _ = Arc::clone(&self.slots).acquire_many_owned(all), if confirmed => break,
                () = sleep_until(leaving.unwrap_or_else(Instant::now)), if leaving.is_some() => {
                    return Err(Cause::NoAck(self.settings.goaway_timeout));
                }
                () = sleep_until(self.keepalive.deadline()) => {
                    self.beat(buffer, reads)?;
                }
                frame = buffer.next(from), if reads => {
                    if let Some(frame) = Frame::decode(frame?)? {
                        self.take(frame)?;
                    }
                }
            }
        }
        while let Some(done) = self.tasks.join_next().await {
            self.reap(done);
        }
        Ok(())
    }

    fn reap(&self, done: Result<(), JoinError>) {
        if let Err(error) = done {
            tracing::warn!(peer = self.peer.ordinal, %error, "handler failed");
        }
    }

    fn beat(&mut self, buffer: &FrameBuffer, reads: bool) -> Result<(), Cause> {
        // While this side deliberately does not read, it cannot hear the other side.
        let heard = if reads {
            buffer.heard()
        } else {
            Instant::now()
        };
        // The sender of a long body learns from pings that this side is alive.
        let is_owed = !self.tasks.is_empty() || buffer.is_partial();
        let owed = if is_owed { Owed::ByUs } else { Owed::Nothing };
        match self.keepalive.due(heard, owed) {
            Due::Nothing => Ok(()),
            Due::Ping(number) => {
                self.outbox.ping(number);
                Ok(())
            }
            Due::End(after) => Err(Cause::Silent(after)),
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), Cause> {
        match frame {
            Frame::Request { id, body } => self.request(id, body),
            Frame::Ping(number) => {
                self.outbox.pong(number);
                Ok(())
            }
            Frame::GivenUp { id } => {
                self.wanted.remove(&id);
                Ok(())
            }
            Frame::Pong(_) => Ok(()),
            Frame::GoAwayAck if matches!(self.phase, Phase::Leaving(_)) => {
                self.phase = Phase::Confirmed;
                self.slot = None;
                Ok(())
            }
            Frame::GoAwayAck => Err(Cause::Malformed("a confirmation of nothing")),
            Frame::Answer { .. }
            | Frame::NotTaken { .. }
            | Frame::Failed { .. }
            | Frame::GoAway
            | Frame::Closing(_) => Err(Cause::Malformed(
                "a frame that only the accepting side sends",
            )),
        }
    }

    fn request(&mut self, id: u64, body: Bytes) -> Result<(), Cause> {
        if self.phase == Phase::Confirmed {
            return Err(Cause::Malformed("a request after the last one"));
        }
        let free = || Arc::clone(&self.slots).try_acquire_owned().ok();
        let Some(permit) = self.slot.take().or_else(free) else {
            // Happens only while this side is leaving: it then goes on reading, so that busy
            // handlers do not delay the confirmation.
            if self.outbox.push(Frame::NotTaken { id }, None) > MAX_WAITING {
                return Err(Cause::Malformed("the other side sends without reading"));
            }
            return Ok(());
        };
        let reply = Reply::new(id, Arc::clone(&self.outbox), permit);
        let handler = Arc::clone(&self.handler);
        let peer = self.peer;
        let most = Frame::most_body(self.settings.max_frame);
        if self.wanted.len() >= 2 * self.tasks.len() + SPARE {
            self.wanted.retain(|_, sender| !sender.is_closed());
        }
        let (sender, unwanted) = oneshot::channel();
        self.wanted.insert(id, sender);
        self.tasks.spawn(async move {
            let body = tokio::select! {
                biased;
                body = handler.call(peer, body) => body,
                // Work that the handler has handed to other tasks continues there.
                _ = unwanted => return,
            };
            if let Err(error) = reply.send(body, most) {
                tracing::warn!(peer = peer.ordinal, %error, "answer could not be sent");
            }
        });
        Ok(())
    }
}
