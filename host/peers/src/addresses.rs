//! The addresses of peers, as far as they are known.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::endpoint::Identity;
use super::lock::lock;

/// The most peers whose addresses are kept: more than any cluster has.
const MOST: usize = 4096;

/// The known addresses of peers. Clones share them. A std mutex, which is held only briefly.
///
/// An address is a hint and proves nothing: a process that answers there must still authenticate
/// like any peer, under the peer's configured name.
#[derive(Clone, Debug, Default)]
pub struct Addresses(Arc<Mutex<BTreeMap<u32, watch::Sender<Heard>>>>);

/// The known addresses of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// The address that the peer itself announced.
    pub announced: Option<Announced>,
    /// The address that another peer reported.
    pub told: Option<SocketAddr>,
    /// The address at which the peer was last reached.
    pub found: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    pub incarnation: u64,
    pub at: SocketAddr,
}

impl Addresses {
    /// Records the address that a peer announced. The process must have been accepted as that
    /// peer.
    pub(super) fn announce(&self, peer: &Identity, at: SocketAddr) {
        let incarnation = peer.incarnation;
        self.change(peer.ordinal, |heard| {
            heard.announced = Some(Announced { incarnation, at });
            heard.told = None;
        });
    }

    /// Records the address that another peer reported.
    pub fn tell(&self, ordinal: u32, at: SocketAddr) {
        self.change(ordinal, |heard| {
            let is_known = heard.announced.is_some_and(|announced| announced.at == at);
            heard.told = (!is_known).then_some(at);
        });
    }

    /// Records that the peer was reached at an address.
    pub(super) fn find(&self, ordinal: u32, at: SocketAddr) {
        self.change(ordinal, |heard| heard.found = Some(at));
    }

    /// Drops an address at which another process answered.
    pub(super) fn forget(&self, ordinal: u32, at: SocketAddr) {
        self.change(ordinal, |heard| {
            heard.announced = heard.announced.filter(|announced| announced.at != at);
            heard.told = heard.told.filter(|told| *told != at);
            heard.found = heard.found.filter(|found| *found != at);
        });
    }

    /// Follows the known addresses of a peer.
    pub(super) fn watch(&self, ordinal: u32) -> watch::Receiver<Heard> {
        let mut peers = lock(&self.0);
        peers.entry(ordinal).or_default().subscribe()
    }

    /// The known addresses of a peer.
    pub(super) fn heard(&self, ordinal: u32) -> Heard {
        let peers = lock(&self.0);
        peers
            .get(&ordinal)
            .map_or_else(Heard::default, |peer| *peer.borrow())
    }

    /// Whether any address of a peer is known.
    pub fn has(&self, ordinal: u32) -> bool {
        self.heard(ordinal) != Heard::default()
    }

    /// The proven addresses of peers: where they last connected from, or were reached.
    pub fn proved(&self) -> Vec<(u32, SocketAddr)> {
        let peers = lock(&self.0);
        let proved = peers.iter().filter_map(|(ordinal, peer)| {
            let heard = *peer.borrow();
            let announced = heard.announced.map(|announced| announced.at);
            Some((*ordinal, announced.or(heard.found)?))
        });
        proved.collect()
    }

    /// The addresses that peers announced, with their ordinals.
    pub fn announced(&self) -> Vec<(u32, SocketAddr)> {
        let peers = lock(&self.0);
        let announced = peers.iter().filter_map(|(ordinal, peer)| {
            let announced = peer.borrow().announced?;
            Some((*ordinal, announced.at))
        });
        announced.collect()
    }

    fn change(&self, ordinal: u32, change: impl FnOnce(&mut Heard)) {
        let mut peers = lock(&self.0);
        if peers.len() >= MOST && !peers.contains_key(&ordinal) {
            return;
        }
        peers.entry(ordinal).or_default().send_if_modified(|heard| {
            let before = *heard;
            change(heard);
            *heard != before
        });
    }
}

impl Heard {
    /// The reported addresses only, without the one at which the peer was reached.
    pub(super) fn said(self) -> Self {
        Self {
            found: None,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        ([10, 0, 0, 1], port).into()
    }

    fn peer(incarnation: u64) -> Identity {
        Identity {
            ordinal: 1,
            incarnation,
            store: 0,
        }
    }

    #[test]
    fn a_peers_own_word_takes_the_place_of_all_before() {
        let addresses = Addresses::default();
        let heard = || addresses.heard(1);
        addresses.tell(1, at(1));
        addresses.announce(&peer(7), at(2));
        assert_eq!(heard().told, None);
        addresses.tell(1, at(2));
        assert_eq!(heard().told, None, "the announced address is already known");
        addresses.tell(1, at(3));
        assert_eq!(heard().announced.unwrap().at, at(2));
        assert_eq!(addresses.announced(), [(1, at(2))]);
        // A process that used a higher incarnation number does not stop later processes from
        // announcing.
        addresses.announce(&peer(3), at(4));
        assert_eq!(heard().announced.unwrap().at, at(4));
        addresses.find(1, at(4));
        addresses.forget(1, at(4));
        assert_eq!(heard(), Heard::default());
    }

    #[test]
    fn of_strangers_without_number_little_is_kept() {
        let addresses = Addresses::default();
        for ordinal in 0..10_000 {
            addresses.tell(ordinal, at(1));
        }
        assert_eq!(lock(&addresses.0).len(), MOST);
    }
}
