//! The connections to all peers.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::cause::{Cause, RequestError};
use super::connection::Connection;
use super::dial::{Dial, Tcp};
use super::endpoint::Endpoint;
use super::lock::lock;
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
    connection: Connection,
}

impl Pool<Tcp> {
    /// A pool over plain TCP that knows no peer yet.
    pub fn new(endpoint: Arc<Endpoint>) -> Self {
        Self::with_dial(endpoint, Tcp)
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

    /// Sends a request to a peer and waits for its answer.
    ///
    /// # Errors
    /// Whether it may have been carried out, and why there is no answer.
    pub async fn request(&self, ordinal: u32, body: Bytes) -> Result<Bytes, RequestError> {
        let answered = self.ask(ordinal, body).await;
        answered.map(|answered| answered.body)
    }

    /// The same, to be able to disown whoever answered.
    ///
    /// # Errors
    /// Whether it may have been carried out, and why there is no answer.
    pub async fn ask(&self, ordinal: u32, body: Bytes) -> Result<Answered, RequestError> {
        let slots = lock(&self.peers).get(&ordinal).cloned();
        let slots = slots.ok_or(RequestError::NotSent(Cause::NoAddress(ordinal)))?;
        let turn = slots.turn.fetch_add(1, Ordering::Relaxed);
        let slot = &slots.list[turn % slots.list.len()];
        let connection = slot
            .connection(&self.endpoint, &self.dial)
            .await
            .map_err(RequestError::NotSent)?;
        let body = connection.request(body).await?;
        Ok(Answered {
            body,
            slot: Arc::clone(slot),
            connection,
        })
    }

    /// Whoever answered is not to be asked any more: what is in flight to it is still
    /// waited for, and the peer is looked for anew after a short pause.
    pub fn leave(&self, answered: &Answered, why: &'static str) {
        let (slot, connection) = (&answered.slot, &answered.connection);
        slot.leave(&self.endpoint, connection, &Cause::NotThePeer(why));
    }

    /// Whoever answered is not the peer, and runs nothing for us: what is in flight to
    /// it ends as not sent, and the peer is looked for anew after a short pause.
    pub fn disown(&self, answered: &Answered, why: &'static str) {
        let (slot, connection) = (&answered.slot, &answered.connection);
        slot.disown(&self.endpoint, connection, &Cause::NotThePeer(why));
    }
}

impl fmt::Debug for Answered {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Answered")
            .field("bytes", &self.body.len())
            .field("connection", &self.connection)
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
