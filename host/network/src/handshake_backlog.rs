//! A bound on the connections in a handshake, whose clients are not known yet.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The accepted connections that are in their handshake.
///
/// When the backlog is full, a new connection replaces the oldest one. Rejecting the new one
/// instead would let a few silent connections close the port to all others, whose handshakes take
/// milliseconds.
#[derive(Debug, Default)]
pub struct HandshakeBacklog(Mutex<Strangers>);

#[derive(Debug, Default)]
struct Strangers {
    last: u64,
    /// The oldest first.
    places: VecDeque<(u64, oneshot::Sender<()>)>,
}

/// One connection's place, held until its handshake ends.
pub struct Slot<'a> {
    backlog: &'a HandshakeBacklog,
    number: u64,
    lost: oneshot::Receiver<()>,
}

impl HandshakeBacklog {
    /// Takes one of `most` places (0 counts as 1), evicting the oldest holder if all are taken.
    pub fn enter(&self, most: usize) -> Slot<'_> {
        let (sender, lost) = oneshot::channel();
        let mut strangers = self.strangers();
        while strangers.places.len() >= most.max(1) {
            strangers.places.pop_front();
        }
        strangers.last += 1;
        let number = strangers.last;
        strangers.places.push_back((number, sender));
        Slot {
            backlog: self,
            number,
            lost,
        }
    }

    /// Ignores poisoning: no holder of the lock leaves the state half changed.
    fn strangers(&self) -> MutexGuard<'_, Strangers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot<'_> {
    /// Waits until a newer connection has taken the place.
    pub async fn lost(&mut self) {
        // Nothing is sent: eviction drops the sender.
        let _ = (&mut self.lost).await;
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut strangers = self.backlog.strangers();
        let at = strangers
            .places
            .binary_search_by_key(&self.number, |place| place.0);
        if let Ok(at) = at {
            strangers.places.remove(at);
        }
    }
}
