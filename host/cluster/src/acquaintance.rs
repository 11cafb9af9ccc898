//! Makes this process known to its peers.
//!
//! A peer that is called notes the caller's address, once the caller has proved to be a peer
//! and is the accepted process. So a restarted shard calls all others: from then on they need
//! no name to find it. A shard whose name does not resolve yet, or no longer, is found by the
//! addresses that other peers noted.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use ostrakon_peers::Identity;
use ostrakon_protocol::{MAX_SHARDS, Ordinal};
use tokio::time::timeout;

use super::Cluster;
use super::conductor::{ASK_EVERY, LOOKED_FOR};
use super::message::{Address, PeerRequest, PeerResponse};

/// How long a shard's readiness may be delayed until its peers know it.
const KNOWN_WITHIN: Duration = Duration::from_secs(3);

impl Cluster {
    /// Returns when the peers that can be reached know where this process is, or after a few
    /// seconds.
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
            tracing::debug!("not every peer knows this shard's address yet");
        }
    }

    /// The addresses from which peers have called, as far as the peers can be reached there.
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

    /// Notes the address from which an accepted peer called.
    pub(super) fn meet(&self, peer: &Identity, from: IpAddr) {
        let at = self.peer_at(peer.ordinal, from);
        self.0.connections.line.load().pool.announced(peer, at);
    }

    /// The peer's address, given the host that it calls from: the port is the configured one.
    /// `None` where the host is configured too, because there is nothing to learn then.
    pub(super) fn peer_at(&self, peer: u32, at: IpAddr) -> Option<SocketAddr> {
        let configured = self.0.connections.peers.of(Ordinal(peer));
        if peer >= MAX_SHARDS || configured.parse::<SocketAddr>().is_ok() {
            return None;
        }
        let (_, port) = configured.rsplit_once(':')?;
        Some((at.to_canonical(), port.parse().ok()?).into())
    }

    /// Whether a shard's answer may change this shard's state. It may only if the shard was
    /// asked at its configured address, because anyone with a peer's credentials can call with
    /// that shard's number. One exception: a new shard has to hear of the plan before caches
    /// know any name, and has nothing to lose.
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
            PeerResponse::Releases { known, .. } => self.is_news(known.as_ref()),
            _ => false,
        }
    }

    /// The peers that do not know this process, as far as this process knows its peers.
    pub(super) fn strangers(&self) -> Vec<Ordinal> {
        let line = self.0.connections.line.load();
        // Without a plan, this shard can only know of the ordinals below its own, and of those
        // that have called.
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

    /// Calls peers, and learns from each where the others are. Returns whether any of them
    /// knows this process now.
    pub(super) async fn acquaint(&self, strangers: &[Ordinal]) -> bool {
        let line = self.0.connections.line.load_full();
        // What the first peer that knows this process has heard in the meantime may help, too.
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
