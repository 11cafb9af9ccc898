//! Events in a set, for people and for tests.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Observation;
use super::observation::{Generation, Refused};

/// An event in the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    pub at: Instant,
    /// The shard concerned; `None` means the set.
    pub shard: Option<u32>,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Started {
        pid: u32,
    },
    NotStarted {
        reason: String,
    },
    /// A shard became ready, this long after its process was started.
    Ready(Duration),
    /// A ready shard no longer answers as ready.
    NotReady,
    /// A shard was sent SIGTERM.
    Stopping,
    /// A shard did not end within the grace period, and is killed.
    GracePassed(Duration),
    Ended {
        /// Its exit code, unless a signal ended it.
        code: Option<i32>,
        /// The signal that ended it, if any.
        signal: Option<i32>,
        /// Whether the controller ended it.
        told: bool,
    },
    /// A process will be restarted after this pause.
    Restarting(Duration),
    /// A process rejected its configuration, and will be restarted when that changes.
    WaitsForContent,
    /// New content was put into the shard's volumes.
    Projected,
    /// A generation went live, this long after its content was projected.
    Live(Generation, Option<Duration>),
    Refused(Refused),
    /// A warning or error from the shard's log, or a line that is not a log line.
    Line {
        /// The level of a log line, in capitals.
        level: Option<String>,
        text: String,
    },
    /// Partitions are being moved. Sent repeatedly meanwhile.
    Moving {
        /// The number of shards before.
        from: u32,
        /// The number of shards after.
        to: u32,
        /// Each shard's number of entries, if it is known.
        entries: Vec<Option<u64>>,
        /// The number of batches that wait to be sent.
        batches: u64,
    },
    /// The number of shards is being changed.
    Scaling {
        /// The number of shards before.
        from: u32,
        /// The number of shards after.
        to: u32,
    },
    /// Everything is as wanted, with this number of shards.
    Settled(u32),
    /// The newest content was refused, and this number of shards serve what they had before.
    Unchanged(u32),
    /// Writing to the state directory or a volume failed.
    Failed(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The wanted number of shards.
    pub wanted: u32,
    /// The number of shards that may hold data.
    pub spread: u32,
    /// Whether everything is as wanted.
    pub settled: bool,
    pub shards: Vec<ShardStanding>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardStanding {
    pub ordinal: u32,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    /// The id of its process, if it has one.
    pub pid: Option<u32>,
    /// One of `starting`, `ready`, `stopping`, `down`, `paused`.
    pub state: &'static str,
    /// How often it was restarted since its Pod was created.
    pub restarts: u32,
    /// Its last reported status; `None` while it reports none.
    pub observation: Option<Observation>,
}
