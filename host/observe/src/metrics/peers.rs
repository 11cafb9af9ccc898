//! Metrics of the traffic between shards.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::{Level, Maybe, Metrics};

/// A shard's view of how data is distributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The number of the shard's plan.
    pub epoch: u64,
    /// The number of shards among which data is distributed, or will be after the current change.
    pub shards: u32,
    pub is_moving: bool,
    /// The number of shards that a change is waiting for.
    pub awaited: usize,
    /// The number of shards that have data but are not running because the set was scaled down.
    pub missing: usize,
}

#[derive(Debug)]
pub(super) struct Peers {
    up: Family<[(&'static str, String); 1], Level>,
    handshake_failures: Counter,
    epoch: Maybe,
    shards: Maybe,
    moving: Maybe,
    awaited: Maybe,
    missing: Maybe,
    partitions_moved: Counter,
    partitions_arrived: Counter,
    partitions_left: Maybe,
}

impl Peers {
    pub(super) fn new() -> Self {
        Self {
            up: Family::default(),
            handshake_failures: Counter::default(),
            epoch: Maybe::default(),
            shards: Maybe::default(),
            moving: Maybe::default(),
            awaited: Maybe::default(),
            missing: Maybe::default(),
            partitions_moved: Counter::default(),
            partitions_arrived: Counter::default(),
            partitions_left: Maybe::default(),
        }
    }

    pub(super) fn register(&self, to: &mut Registry) {
        let help = "1 if another shard could be reached at the last attempt";
        to.register("peer_up", help, self.up.clone());
        let help = "Connections to the peer port that failed the handshake";
        to.register(
            "peer_handshake_failures",
            help,
            self.handshake_failures.clone(),
        );
        let help = "The number of the plan that the shard follows";
        to.register("topology_epoch", help, self.epoch.clone());
        let help = "Shards among which data is distributed, or will be after the current change";
        to.register("topology_shards", help, self.shards.clone());
        let help = "1 while partitions are being moved";
        to.register("topology_moving", help, self.moving.clone());
        let help = "Shards that a change waits for before it begins; reported by shard 0";
        to.register("topology_awaited_shards", help, self.awaited.clone());
        let help = "Shards that have data but do not run because the set was scaled down; reported by shard 0";
        to.register("topology_missing_shards", help, self.missing.clone());
        let help = "Partitions that other shards took from this one and acknowledged";
        to.register("partitions_moved", help, self.partitions_moved.clone());
        let help = "Partitions that this shard received from others";
        to.register("partitions_arrived", help, self.partitions_arrived.clone());
        let help = "Partitions that this shard must still examine or hand over in a change";
        to.register("partitions_left", help, self.partitions_left.clone());
    }
}

impl Metrics {
    /// Sets which other shards could be reached at the last attempt.
    pub fn peers_up(&self, peers: impl IntoIterator<Item = (u32, bool)>) {
        self.peers.up.clear();
        for (ordinal, is_up) in peers {
            let labels = [("peer", ordinal.to_string())];
            self.peers.up.get_or_create(&labels).set(is_up.into());
        }
    }

    /// Counts a connection to the peer port that failed the handshake.
    pub fn peer_handshake_failed(&self) {
        self.peers.handshake_failures.inc();
    }

    /// Sets the shard's view of how data is distributed.
    pub fn topology(&self, topology: Option<Topology>) {
        let peers = &self.peers;
        peers.epoch.set(topology.map(|known| known.epoch));
        let shards = topology.map(|known| known.shards.into());
        peers.shards.set(shards);
        let moving = topology.map(|known| known.is_moving.into());
        peers.moving.set(moving);
        let awaited = topology.map(|known| known.awaited as u64);
        peers.awaited.set(awaited);
        let missing = topology.map(|known| known.missing as u64);
        peers.missing.set(missing);
    }

    /// Counts partitions that other shards have acknowledged, and partitions that arrived from
    /// others.
    pub fn partitions_moved(&self, moved: usize, arrived: usize) {
        self.peers.partitions_moved.inc_by(moved as u64);
        self.peers.partitions_arrived.inc_by(arrived as u64);
    }

    /// Sets how many partitions this shard must still examine or hand over. Hidden while the
    /// number is unknown.
    pub fn partitions_left(&self, left: Option<u64>) {
        self.peers.partitions_left.set(left);
    }
}
