//! What happens in a set, for people and for tests.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Observation;
use super::observation::{Generation, Refused};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// When.
    pub at: Instant,
    /// In which shard; none: in the set.
    pub shard: Option<u32>,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A process was started.
    Started {
        /// Its id.
        pid: u32,
    },
    /// No process could be started.
    NotStarted {
        /// Why.
        reason: String,
    },
    /// A shard is ready, so long after its process was started.
    Ready(Duration),
    /// A shard that was ready does not answer as one.
    NotReady,
    /// A shard is told to end: SIGTERM.
    Stopping,
    /// A shard did not end within the grace, and is killed.
    GracePassed(Duration),
    /// A process ended.
    Ended {
        /// Its exit code; none: a signal ended it.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// Whether it was told to.
        told: bool,
    },
    /// A process is started again, after this time.
    Restarting(Duration),
    /// New content was put into the shard's volumes.
    Projected,
    /// A generation went live, so long after it was projected.
    Live(Generation, Option<Duration>),
    /// A generation was refused.
    Refused(Refused),
    /// A line of the shard's log that says more than that all is well, or is none of its log.
    Line {
        /// Its level, in capitals, where it is of the log.
        level: Option<String>,
        /// The line, for people.
        text: String,
    },
    /// Partitions move. Told again and again while they do.
    Moving {
        /// From so many shards.
        from: u32,
        /// To so many.
        to: u32,
        /// Each shard's entries, where they are known.
        entries: Vec<Option<u64>>,
        /// Batches that wait to be sent.
        batches: u64,
    },
    /// The number of shards is being changed.
    Scaling {
        /// From so many.
        from: u32,
        /// To so many.
        to: u32,
    },
    /// Everything is as wanted, with so many shards.
    Settled(u32),
    /// The state directory or a volume cannot be written to.
    Failed(String),
}

/// A set as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The shards that are wanted.
    pub wanted: u32,
    /// The shards that data may be in.
    pub spread: u32,
    /// Whether everything is as wanted.
    pub settled: bool,
    /// Each shard, in order.
    pub shards: Vec<ShardStanding>,
}

/// A shard as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardStanding {
    /// Which.
    pub ordinal: u32,
    /// Its public port.
    pub address: SocketAddr,
    /// Its admin port.
    pub admin: SocketAddr,
    /// Its process's id, where it has one.
    pub pid: Option<u32>,
    /// In a word: `starting`, `ready`, `stopping`, `down`, `paused`.
    pub state: &'static str,
    /// How often it was started again since its Pod was made.
    pub restarts: u32,
    /// What it said last.
    pub observation: Option<Observation>,
}
