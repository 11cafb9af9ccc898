//! A writer without a thread: whoever drives it decides when it works, as a simulation does.

use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};

use ostrakon_observe::metrics::Metrics;
use ostrakon_protocol::{Ordinal, Shard};
use ostrakon_store::Store;

use super::membership::Membership;
use super::pace::Pace;
use super::worker::{Ended, Guests, Worker};
use super::{Message, Writer};

/// The work of a writer that has no thread. It must be done on a thread that has a
/// runtime, and its guests must never wait.
pub struct Turns {
    worker: Worker,
    receiver: mpsc::Receiver<Message>,
    after: Option<Message>,
    writer: Writer,
    _ended: Ended,
}

impl Writer {
    /// As [`Writer::start`], but what it does is done in [`Turns`]. A new store gets
    /// the number `number`.
    pub fn in_turns(
        store: Store,
        ordinal: Ordinal,
        number: u128,
        pace: Pace,
        metrics: Arc<Metrics>,
    ) -> (Self, Turns) {
        let stored = store.record().topology.as_deref().map(Membership::decode);
        let stored = stored.map(|stored| stored.expect("it is read before a writer is made"));
        let membership = stored.unwrap_or_else(|| Membership::of(Shard::new(ordinal), number));
        let guests = Guests::AtOnce;
        let (writer, worker, receiver) = Self::new(store, Some(membership), guests, pace, metrics);
        let turns = Turns {
            worker,
            receiver,
            after: None,
            writer: writer.clone(),
            _ended: Ended(Arc::clone(&writer.state)),
        };
        (writer, turns)
    }
}

impl Turns {
    /// The shard's part in the protocol, as it is stored.
    ///
    /// # Panics
    /// Never: it is one of several.
    pub fn membership(&self) -> Shard {
        let membership = self.worker.membership.as_ref();
        membership.expect("it is one of several").shard.clone()
    }

    /// Waits until there is something to do, or nothing ever will be.
    pub async fn due(&mut self) {
        let writer = self.writer.clone();
        while self.after.is_none() {
            let sent = writer.state.sent.notified();
            if let Ok(message) = self.receiver.try_recv() {
                self.after = Some(message);
                return;
            }
            sent.await;
        }
    }

    /// Does one thing, or a group of writes; says whether it is to go on.
    pub fn turn(&mut self) -> bool {
        let Some(message) = self.after.take().or_else(|| self.receiver.try_recv().ok()) else {
            return true;
        };
        match self.worker.take_up(message, &self.receiver) {
            ControlFlow::Continue(after) => {
                self.after = after;
                true
            }
            ControlFlow::Break(()) => false,
        }
    }
}
