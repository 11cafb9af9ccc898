//! The bound on connections of which nothing is known yet.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The accepted connections that are in their handshake.
///
/// One that comes while there are as many as may be takes the place of the
/// oldest. Turning the new one away would let a few silent connections close
/// the port to all others, whose handshake takes milliseconds.
#[derive(Debug, Default)]
pub struct HandshakeBacklog(Mutex<Strangers>);

#[derive(Debug, Default)]
struct Strangers {
    last: u64,
    /// In the order in which they came.
    places: VecDeque<(u64, oneshot::Sender<()>)>,
}

/// The place of one connection, until its handshake has ended.
pub struct Slot<'a> {
    backlog: &'a HandshakeBacklog,
    number: u64,
    lost: oneshot::Receiver<()>,
}

impl HandshakeBacklog {
    /// Takes a place, of which there are so many (0 counts as 1).
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

    /// Also after a holder panicked: none leaves it half changed.
    fn strangers(&self) -> MutexGuard<'_, Strangers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot<'_> {
    /// Waits until another has taken the place.
    pub async fn lost(&mut self) {
        // Nothing is sent: the sender is dropped with its place.
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
