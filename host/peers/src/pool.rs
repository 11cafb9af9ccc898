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
/// The pool retries nothing: a request to a peer that is away fails at once with
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

/// An answer, and the connection it came from.
pub struct Answered {
    pub body: Bytes,
    slot: Arc<Slot>,
    opened: Arc<Opened>,
}

impl Pool<Tcp> {
    /// A pool over plain TCP that has no peers yet.
    pub fn new(endpoint: Arc<Endpoint>) -> Self {
        Self::with_dial(endpoint, Tcp::default())
    }
}

impl<D: Dial> Pool<D> {
    /// A pool over streams opened by `dial`.
    pub fn with_dial(endpoint: Arc<Endpoint>, dial: D) -> Self {
        Self {
            endpoint,
            dial: Arc::new(dial),
            peers: Mutex::default(),
        }
    }

    /// Sets the address of a peer. If it has changed, new requests go to the new address, and
    /// those in flight keep their connection.
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

    pub fn knows(&self, ordinal: u32) -> bool {
        lock(&self.peers).contains_key(&ordinal)
    }

    /// The peers for which a recent attempt to connect is known, each with whether it succeeded.
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

    /// Removes a peer. Its connections close when their requests are done.
    pub fn remove(&self, ordinal: u32) {
        lock(&self.peers).remove(&ordinal);
    }

    /// Records that a process of a peer was accepted, and that it can be reached at `at`, if
    /// given. Requests in flight to an earlier process of the peer end at once.
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
    /// Whether the request may have had an effect, and why there is no answer.
    pub async fn request(&self, ordinal: u32, body: Bytes) -> Result<Bytes, RequestError> {
        let answered = self.ask(ordinal, body, None).await;
        answered.map(|answered| answered.body)
    }

    /// As [`Self::request`], but also returns the connection. The request is not sent after
    /// `until`. If it was sent by then, this waits for the answer as long as the peer lives.
    ///
    /// # Errors
    /// Whether the request may have had an effect, and why there is no answer.
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

    /// Whether the peer's configured address leads to the process that answered. If not, only an
    /// announcement by that process or a report by another peer led there.
    pub async fn is_at_its_name(&self, answered: &Answered) -> bool {
        answered
            .slot
            .is_at_its_name(&answered.opened, &*self.dial)
            .await
    }

    /// Stops sending requests to the process that answered. Requests in flight to it are still
    /// awaited. The peer is looked for again after a short pause.
    pub fn leave(&self, answered: &Answered, why: &'static str) {
        let (slot, opened) = (&answered.slot, &answered.opened);
        slot.leave(&self.endpoint, opened, &Cause::NotThePeer(why));
    }

    /// As [`Self::leave`], for a process that is not the peer and runs no requests from here.
    /// Requests in flight to it end as not sent.
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
