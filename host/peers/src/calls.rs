//! A connection's requests that have no answer yet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};

use super::cause::{Cause, RequestError};
use super::frame::Frame;
use super::room::{Permits, Room};
use super::settings::Settings;
use super::writer::{Outgoing, Queue};

/// A connection's requests that have no answer yet.
pub(super) struct Calls {
    outgoing: Outgoing<Waiting>,
    room: Room,
    most_body: usize,
}

/// The requests that wait to be written or answered.
#[derive(Default)]
pub(super) struct Waiting {
    /// Why no more requests are accepted, if so.
    shut: Option<Cause>,
    /// The number of the last request.
    last: u64,
    queue: VecDeque<u64>,
    /// Sent requests whose answers are no longer awaited.
    given_up: VecDeque<u64>,
    /// In the order of their numbers, in which they also end.
    calls: BTreeMap<u64, Call>,
    ack: bool,
}

struct Call {
    /// The body, until the writer takes it. From then on the request counts as sent.
    body: Option<Bytes>,
    answer: oneshot::Sender<Result<Bytes, RequestError>>,
    // Held until the answer arrives, even if the caller has stopped waiting, because the other
    // side is still working on it.
    _place: Permits,
}

/// Which requests to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// The requests that are not written yet.
    Unwritten,
    /// All requests; the written ones may have been run.
    All,
    /// All requests, none of which was run.
    AllUnrun,
}

/// A caller's interest in the answer to one request. Dropping it cancels the request.
struct Ticket<'a> {
    calls: &'a Calls,
    id: u64,
    answer: oneshot::Receiver<Result<Bytes, RequestError>>,
}

impl Calls {
    pub(super) fn new(settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            outgoing: Outgoing::default(),
            room: Room::new(settings),
            most_body: Frame::most_body(settings.max_frame),
        })
    }

    /// Sends a request, unless that is impossible before `until`, and waits for its answer.
    pub(super) async fn request(
        &self,
        body: Bytes,
        until: Option<Instant>,
    ) -> Result<Bytes, RequestError> {
        if body.len() > self.most_body {
            return Err(RequestError::NotSent(Cause::TooLarge {
                length: body.len(),
                most: self.most_body,
            }));
        }
        let late = || RequestError::NotSent(Cause::Late);
        let place = by(until, self.room.place(body.len())).await;
        let mut ticket = self.enter(body, place.ok_or_else(late)?)?;
        let answer = match by(until, &mut ticket.answer).await {
            Some(answer) => answer,
            None if ticket.take_back() => return Err(late()),
            // The request is sent, so wait as long as the other side lives.
            None => (&mut ticket.answer).await,
        };
        answer.unwrap_or(Err(RequestError::Unknown(Cause::Closed)))
    }

    fn enter(&self, body: Bytes, place: Option<Permits>) -> Result<Ticket<'_>, RequestError> {
        let (sender, answer) = oneshot::channel();
        let mut state = self.outgoing.queue();
        let (None, Some(place)) = (&state.shut, place) else {
            let cause = state.shut.clone().unwrap_or(Cause::Closed);
            return Err(RequestError::NotSent(cause));
        };
        state.last += 1;
        let id = state.last;
        state.queue.push_back(id);
        let call = Call {
            body: Some(body),
            answer: sender,
            _place: place,
        };
        state.calls.insert(id, call);
        drop(state);
        self.outgoing.tell();
        Ok(Ticket {
            calls: self,
            id,
            answer,
        })
    }

    /// Whether new requests are accepted.
    pub(super) fn is_open(&self) -> bool {
        self.outgoing.queue().shut.is_none()
    }

    /// Whether any request has no answer yet.
    pub(super) fn are_awaited(&self) -> bool {
        !self.outgoing.queue().calls.is_empty()
    }

    /// Why no more requests are accepted, if so.
    pub(super) fn shut_by(&self) -> Option<Cause> {
        self.outgoing.queue().shut.clone()
    }

    /// Sets the outcome of a request that was sent.
    pub(super) fn settle(
        &self,
        id: u64,
        outcome: Result<Bytes, RequestError>,
    ) -> Result<(), Cause> {
        let mut state = self.outgoing.queue();
        if state.calls.get(&id).is_none_or(|call| call.body.is_some()) {
            return Err(Cause::Malformed("an answer to an unknown request"));
        }
        let call = state.calls.remove(&id);
        drop(state);
        if let Some(call) = call {
            // The caller may have stopped waiting; then the answer is dropped.
            let _ = call.answer.send(outcome);
        }
        Ok(())
    }

    /// Accepts no more requests, and ends those that are not written yet.
    pub(super) fn shut(&self, cause: &Cause) {
        self.turn_away(cause, false, Which::Unwritten);
    }

    /// Shuts, and sends the confirmation after everything that is already queued.
    pub(super) fn go_away(&self) {
        self.turn_away(&Cause::GoingAway, true, Which::Unwritten);
        self.outgoing.tell();
    }

    /// Ends all requests because the connection is gone.
    pub(super) fn end(&self, cause: &Cause) {
        self.turn_away(cause, false, Which::All);
    }

    /// Ends all requests because the other side runs none of them.
    pub(super) fn disown(&self, cause: &Cause) {
        self.turn_away(cause, false, Which::AllUnrun);
    }

    fn turn_away(&self, cause: &Cause, ack: bool, which: Which) {
        let mut state = self.outgoing.queue();
        state.shut.get_or_insert_with(|| cause.clone());
        state.ack |= ack;
        state.queue.clear();
        state.given_up.clear();
        let away: Vec<Call> = state
            .calls
            .extract_if(.., |_, call| {
                which != Which::Unwritten || call.body.is_some()
            })
            .map(|(_, call)| call)
            .collect();
        drop(state);
        self.room.close();
        for call in away {
            let error = match call.body {
                None if which == Which::All => RequestError::Unknown(cause.clone()),
                _ => RequestError::NotSent(cause.clone()),
            };
            let _ = call.answer.send(Err(error));
        }
    }

    /// The queue for the writer.
    pub(super) fn outgoing(&self) -> &Outgoing<Waiting> {
        &self.outgoing
    }
}

impl Queue for Waiting {
    fn next(&mut self) -> Option<(Frame, Option<OwnedSemaphorePermit>)> {
        while let Some(id) = self.given_up.pop_front() {
            // The answer may have arrived meanwhile.
            if self.calls.contains_key(&id) {
                return Some((Frame::GivenUp { id }, None));
            }
        }
        while let Some(id) = self.queue.pop_front() {
            // A request that was cancelled in the queue is no longer there.
            if let Some(body) = self.calls.get_mut(&id).and_then(|call| call.body.take()) {
                return Some((Frame::Request { id, body }, None));
            }
        }
        std::mem::take(&mut self.ack).then_some((Frame::GoAwayAck, None))
    }
}

impl Ticket<'_> {
    /// Withdraws the request if it was not sent yet. Returns whether it was withdrawn.
    fn take_back(&self) -> bool {
        let mut state = self.calls.outgoing.queue();
        let is_unsent = |call: &Call| call.body.is_some();
        if !state.calls.get(&self.id).is_some_and(is_unsent) {
            return false;
        }
        let call = state.calls.remove(&self.id);
        drop(state);
        drop(call);
        true
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.take_back() {
            return;
        }
        let mut state = self.calls.outgoing.queue();
        if state.calls.contains_key(&self.id) {
            // Its place becomes free once the other side confirms that there will be no answer.
            state.given_up.push_back(self.id);
            drop(state);
            self.calls.outgoing.tell();
        }
    }
}

/// The future's value, or `None` if it does not complete by `until`.
pub(super) async fn by<T>(until: Option<Instant>, coming: impl Future<Output = T>) -> Option<T> {
    match until {
        Some(until) => timeout_at(until, coming).await.ok(),
        None => Some(coming.await),
    }
}
