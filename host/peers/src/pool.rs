//! The connections to all peers.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::time::Instant;

use super::calls::by;
use super::cause::{Cause, RequestError};
use super::dial::{Dial, Tcp};
use super::endpoint::{Endpoint, Identity};
use super::lock::lock;
use super::race::Opened;
use super::slot::Slot;

/// The connections to all peers, made on demand.
///
/// It retries nothing: a request to a peer that is away fails at once with
/// [`RequestError::NotSent`], and the caller decides whether to wait.
pub struct Pool<D = Tcp> {
    endpoint: Arc<Endpoint>,
    dial: Arc<D>,
    peers: Mutex<HashMap<u32, Arc<Slots>>>,
}

struct Slots {
    list: Vec<Arc<Slot>>,
    turn: AtomicUsize,
}

/// An answer, and where it came from.
pub struct Answered {
    /// What was answered.
    pub body: Bytes,
    slot: Arc<Slot>,
    opened: Arc<Opened>,
}

impl Pool<Tcp> {
    /// A pool over plain TCP that knows no peer yet.
    pub fn new(endpoint: Arc<Endpoint>) -> Self {
        Self::with_dial(endpoint, Tcp::default())
    }
}

impl<D: Dial> Pool<D> {
    /// A pool over streams that are opened in another way.
    pub fn with_dial(endpoint: Arc<Endpoint>, dial: D) -> Self {
        Self {
            endpoint,
            dial: Arc::new(dial),
            peers: Mutex::default(),
        }
    }

    /// Sets the address of a peer; at another address than before, new
    /// requests go there, while those in flight keep their connection.
    pub fn set_address(&self, ordinal: u32, address: &str) {
        let mut peers = lock(&self.peers);
        let known = peers
            .get(&ordinal)
            .is_some_and(|slots| slots.list.iter().all(|slot| slot.address() == address));
        if !known {
            let count = self.endpoint.settings.connections.max(1);
            let slots = Slots {
                list: (0..count).map(|_| Slot::new(ordinal, address)).collect(),
                turn: AtomicUsize::new(0),
            };
            peers.insert(ordinal, Arc::new(slots));
        }
    }

    /// Whether a peer's address is set.
    pub fn knows(&self, ordinal: u32) -> bool {
        lock(&self.peers).contains_key(&ordinal)
    }

    /// Which peers could be reached last, of those of which that is known still.
    pub fn reached(&self) -> Vec<(u32, bool)> {
        let peers = lock(&self.peers);
        let known = peers.iter().filter_map(|(ordinal, slots)| {
            let known: Vec<bool> = slots
                .list
                .iter()
                .filter_map(|slot| slot.reached())
                .collect();
            (!known.is_empty()).then(|| (*ordinal, known.contains(&true)))
        });
        known.collect()
    }

    /// Forgets a peer; its connections close when their requests are done.
    pub fn remove(&self, ordinal: u32) {
        lock(&self.peers).remove(&ordinal);
    }

    /// A process of a peer is accepted from now on, and called from `at`, if that leads to
    /// it. What is in flight to an earlier process of the peer ends at once.
    pub fn announced(&self, peer: &Identity, at: Option<SocketAddr>) {
        if let Some(at) = at {
            self.endpoint.addresses.announce(peer, at);
        }
        let slots = lock(&self.peers).get(&peer.ordinal).cloned();
        for slot in slots.iter().flat_map(|slots| &slots.list) {
            slot.leave_older(peer.incarnation);
        }
    }

    /// Sends a request to a peer and waits for its answer.
    ///
    /// # Errors
    /// Whether it may have been carried out, and why there is no answer.
    pub async fn request(&self, ordinal: u32, body: Bytes) -> Result<Bytes, RequestError> {
        let answered = self.ask(ordinal, body, None).await;
        answered.map(|answered| answered.body)
    }

    /// The same, to know who answered. The request is not sent after `until`; one that
    /// was sent by then is waited for as long as the peer lives.
    ///
    /// # Errors
    /// Whether it may have been carried out, and why there is no answer.
    pub async fn ask(
        &self,
        ordinal: u32,
        body: Bytes,
        until: Option<Instant>,
    ) -> Result<Answered, RequestError> {
        let slots = lock(&self.peers).get(&ordinal).cloned();
        let slots = slots.ok_or(RequestError::NotSent(Cause::NoAddress(ordinal)))?;
        let turn = slots.turn.fetch_add(1, Ordering::Relaxed);
        let slot = &slots.list[turn % slots.list.len()];
        let opened = by(until, slot.opened(&self.endpoint, &self.dial)).await;
        let opened = opened
            .unwrap_or(Err(Cause::Late))
            .map_err(RequestError::NotSent)?;
        let body = opened.connection.request_until(body, until).await?;
        Ok(Answered {
            body,
            slot: Arc::clone(slot),
            opened,
        })
    }

    /// Whether the peer's configured address leads to whoever answered. Otherwise only
    /// what it said itself, or another peer, led there.
    pub async fn is_at_its_name(&self, answered: &Answered) -> bool {
        answered
            .slot
            .is_at_its_name(&answered.opened, &*self.dial)
            .await
    }

    /// Whoever answered is not to be asked any more: what is in flight to it is still
    /// waited for, and the peer is looked for anew after a short pause.
    pub fn leave(&self, answered: &Answered, why: &'static str) {
        let (slot, opened) = (&answered.slot, &answered.opened);
        slot.leave(&self.endpoint, opened, &Cause::NotThePeer(why));
    }

    /// Whoever answered is not the peer, and runs nothing for us: what is in flight to
    /// it ends as not sent, and the peer is looked for anew after a short pause.
    pub fn disown(&self, answered: &Answered, why: &'static str) {
        let (slot, opened) = (&answered.slot, &answered.opened);
        slot.disown(&self.endpoint, opened, &Cause::NotThePeer(why));
    }
}

impl fmt::Debug for Answered {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Answered")
            .field("bytes", &self.body.len())
            .field("connection", &self.opened.connection)
            .finish_non_exhaustive()
    }
}

impl<D> fmt::Debug for Pool<D> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut peers: Vec<u32> = lock(&self.peers).keys().copied().collect();
        peers.sort_unstable();
        out.debug_struct("Pool")
            .field("endpoint", &self.endpoint)
            .field("peers", &peers)
            .finish_non_exhaustive()
    }
}
