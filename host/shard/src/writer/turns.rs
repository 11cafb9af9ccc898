//! A writer without a thread: its driver decides when it works, as a simulation does.

use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};

use ostrakon_observe::metrics::Metrics;
use ostrakon_protocol::{Ordinal, Shard};
use ostrakon_store::Store;

use super::membership::Membership;
use super::pace::Pace;
use super::worker::{Ended, Guests, Worker};
use super::{Message, Writer};

/// The work of a writer that has no thread. It must run on a thread that has a runtime, and its
/// guests must never wait.
pub struct Turns {
    worker: Worker,
    receiver: mpsc::Receiver<Message>,
    after: Option<Message>,
    writer: Writer,
    _ended: Ended,
}

impl Writer {
    /// As [`Writer::start`], but the work is done in [`Turns`]. A new store gets the number
    /// `number`.
    pub fn in_turns(
        store: Store,
        ordinal: Ordinal,
        number: u128,
        pace: Pace,
        metrics: Arc<Metrics>,
    ) -> (Self, Turns) {
        let stored = store.record().topology.as_deref().map(Membership::decode);
        let stored =
            stored.map(|stored| stored.expect("the record was read before the writer was made"));
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
    /// The shard's state in the protocol, as it is stored.
    ///
    /// # Panics
    /// Never: the shard is one of several.
    pub fn membership(&self) -> Shard {
        let membership = self.worker.membership.as_ref();
        membership
            .expect("the shard is one of several")
            .shard
            .clone()
    }

    /// Waits until there is work to do, or until there never will be any.
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

    /// Handles one message, or a group of writes, and says whether the writer is to go on.
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

    /// Closes the store, after the writer has ended.
    pub fn close(self) {
        self.worker.store.close();
    }
}
