//! Where peers are, by what was heard of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::endpoint::Identity;
use super::lock::lock;

/// The most peers of which something is kept: more than any cluster has.
const MOST: usize = 4096;

/// Where peers are, by what was heard of them. Clones share it. A std mutex: held for a
/// look.
///
/// An address is a hint and proves nothing: whoever answers there still has to
/// show what every peer shows, under the peer's configured name.
#[derive(Clone, Debug, Default)]
pub struct Addresses(Arc<Mutex<BTreeMap<u32, watch::Sender<Heard>>>>);

/// What was heard of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// Where it said itself that it is.
    pub announced: Option<Announced>,
    /// Where another peer said that it is.
    pub told: Option<SocketAddr>,
    /// Where it was found last.
    pub found: Option<SocketAddr>,
}

/// Where a peer said that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    pub incarnation: u64,
    pub at: SocketAddr,
}

impl Addresses {
    /// A peer has said where it is. Call it only for a process that is accepted.
    pub(super) fn announce(&self, peer: &Identity, at: SocketAddr) {
        let incarnation = peer.incarnation;
        self.change(peer.ordinal, |heard| {
            heard.announced = Some(Announced { incarnation, at });
            heard.told = None;
        });
    }

    /// Another peer has said where a peer is.
    pub fn tell(&self, ordinal: u32, at: SocketAddr) {
        self.change(ordinal, |heard| {
            let is_known = heard.announced.is_some_and(|announced| announced.at == at);
            heard.told = (!is_known).then_some(at);
        });
    }

    /// The peer was found there.
    pub(super) fn find(&self, ordinal: u32, at: SocketAddr) {
        self.change(ordinal, |heard| heard.found = Some(at));
    }

    /// Whoever is there is not the peer.
    pub(super) fn forget(&self, ordinal: u32, at: SocketAddr) {
        self.change(ordinal, |heard| {
            heard.announced = heard.announced.filter(|announced| announced.at != at);
            heard.told = heard.told.filter(|told| *told != at);
            heard.found = heard.found.filter(|found| *found != at);
        });
    }

    /// What was heard of a peer, now and later.
    pub(super) fn watch(&self, ordinal: u32) -> watch::Receiver<Heard> {
        let mut peers = lock(&self.0);
        peers.entry(ordinal).or_default().subscribe()
    }

    /// What was heard of a peer.
    pub(super) fn heard(&self, ordinal: u32) -> Heard {
        let peers = lock(&self.0);
        peers
            .get(&ordinal)
            .map_or_else(Heard::default, |peer| *peer.borrow())
    }

    /// Whether it was heard where a peer is.
    pub fn has(&self, ordinal: u32) -> bool {
        self.heard(ordinal) != Heard::default()
    }

    /// Where peers have proved to be: where they called from last, or were found.
    pub fn proved(&self) -> Vec<(u32, SocketAddr)> {
        let peers = lock(&self.0);
        let proved = peers.iter().filter_map(|(ordinal, peer)| {
            let heard = *peer.borrow();
            let announced = heard.announced.map(|announced| announced.at);
            Some((*ordinal, announced.or(heard.found)?))
        });
        proved.collect()
    }

    /// Where peers have said that they are.
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
    /// The same, whatever was found out here.
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
        assert_eq!(heard().told, None, "it is known");
        addresses.tell(1, at(3));
        assert_eq!(heard().announced.unwrap().at, at(2));
        assert_eq!(addresses.announced(), [(1, at(2))]);
        // Whoever said a number that is too high has no say over the next.
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
