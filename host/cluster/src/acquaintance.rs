//! Making this process known to its peers.
//!
//! Whoever is called notes from where, once the caller has proved to be a peer and is
//! the process that is accepted. So a shard that is back calls all others: from then on
//! they need no name to find it. One whose name is not known yet, or no longer, is found
//! by what other peers were told.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use ostrakon_peers::Identity;
use ostrakon_protocol::{MAX_SHARDS, Ordinal};
use tokio::time::timeout;

use super::Cluster;
use super::conductor::{ASK_EVERY, LOOKED_FOR};
use super::message::{Address, PeerRequest, PeerResponse};

/// How long a shard may be held back from being ready for its peers to know it.
const KNOWN_WITHIN: Duration = Duration::from_secs(3);

impl Cluster {
    /// Returns when the peers that can be reached know where this process is, or
    /// after some seconds.
    pub async fn until_known(&self) {
        let known = async {
            loop {
                let strangers = self.strangers();
                if strangers.is_empty() || !self.acquaint(&strangers).await {
                    return;
                }
            }
        };
        if timeout(KNOWN_WITHIN, known).await.is_err() {
            tracing::debug!("not every peer knows yet where this shard is");
        }
    }

    /// From where peers have called, as far as that leads to them.
    pub(super) fn addresses(&self) -> Vec<(u32, IpAddr)> {
        let announced = self
            .0
            .connections
            .line
            .load()
            .endpoint
            .addresses
            .announced();
        let addresses = announced.into_iter();
        addresses.map(|(peer, at)| (peer, at.ip())).collect()
    }

    /// A peer that is accepted has called from an address.
    pub(super) fn meet(&self, peer: &Identity, from: IpAddr) {
        let at = self.peer_at(peer.ordinal, from);
        self.0.connections.line.load().pool.announced(peer, at);
    }

    /// Where a peer is, if it is at an address: its port is the configured one. None
    /// where its address is configured, too: there is nothing to hear of it.
    pub(super) fn peer_at(&self, peer: u32, at: IpAddr) -> Option<SocketAddr> {
        let configured = self.0.connections.peers.of(Ordinal(peer));
        if peer >= MAX_SHARDS || configured.parse::<SocketAddr>().is_ok() {
            return None;
        }
        let (_, port) = configured.rsplit_once(':')?;
        Some((at.to_canonical(), port.parse().ok()?).into())
    }

    /// Whether what a shard says decides over this one. That counts only where the
    /// shard's configured address leads, as whoever has what peers show can call with
    /// its number. Yet a shard that is new has to hear of the plan before caches know
    /// any name, and has nothing to lose.
    pub(super) fn decides(&self, ask: &PeerRequest, said: &PeerResponse) -> bool {
        match said {
            PeerResponse::Plan { plan: Some(plan) } | PeerResponse::Elsewhere { plan, .. } => {
                match self.plan() {
                    Some(own) => plan.epoch > own.epoch,
                    None => self.0.me == Ordinal::COORDINATOR,
                }
            }
            PeerResponse::Done {} => matches!(ask, PeerRequest::HasGiven { .. }),
            PeerResponse::Accepted { .. } => true,
            _ => false,
        }
    }

    /// The peers that do not know this process, as far as is known who they are.
    pub(super) fn strangers(&self) -> Vec<Ordinal> {
        let line = self.0.connections.line.load();
        // One that knows of no plan cannot know of more than those before it, and of
        // those who have called.
        let mut strangers: Vec<_> = if let Some(plan) = self.plan() {
            (0..plan.shards()).map(Ordinal).collect()
        } else {
            let called = self.addresses().into_iter().map(|(peer, _)| peer);
            (0..self.0.me.0).chain(called).map(Ordinal).collect()
        };
        strangers.sort_unstable();
        strangers.dedup();
        strangers.retain(|peer| *peer != self.0.me && !line.is_accepted_by(*peer));
        strangers
    }

    /// Calls peers, and learns from each where others are; says whether any of them
    /// knows this process now.
    pub(super) async fn acquaint(&self, strangers: &[Ordinal]) -> bool {
        let line = self.0.connections.line.load_full();
        // What the first that is known has heard in the meantime may help, too.
        let known = line.accepting().iter().next().copied();
        let mut is_better = false;
        let to_ask: Vec<_> = known.into_iter().chain(strangers.iter().copied()).collect();
        for some in to_ask.chunks(LOOKED_FOR) {
            let asked = some.iter().map(async |peer| {
                let asked = self.ask(*peer, &PeerRequest::Addresses {});
                match timeout(ASK_EVERY, asked).await {
                    Ok(Ok(PeerResponse::Addresses { addresses })) => {
                        for Address { ordinal, ip } in addresses {
                            if let Some(at) = self.peer_at(ordinal, ip)
                                && Ordinal(ordinal) != self.0.me
                            {
                                line.endpoint.addresses.tell(ordinal, at);
                            }
                        }
                        Some(*peer) != known
                    }
                    _ => false,
                }
            });
            is_better |= join_all(asked).await.contains(&true);
        }
        is_better
    }
}
