//! The runtime's settings: the ConfigMap's `ostrakon.toml`, validated as a whole.
//!
//! Sizes are written `"8MiB"` or as a number of bytes, durations `"250ms"`. A missing file,
//! section or field has its default value; an unknown one is an error. All bounds are inclusive.

mod bounds;
mod error;
mod rehearsal;
mod rollout;
mod routing;
mod topology;

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer};

use crate::per_shard::PerShard;
use bounds::{HOUR, MINUTE, MOVABLE, at_most, bytes, count, time};
pub use error::{Error, Value};
use ostrakon_observe::telemetry;
pub use rehearsal::{Differ, Rehearsal, Share};
pub use rollout::{MOST_BARRIER, Rollout};
pub use routing::Routing;
pub use topology::Topology;

pub use ostrakon_protocol::MAX_SHARDS;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// One consistent set of settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "the settings, as tables")]
pub struct Settings {
    pub http: Http,
    pub guest: Guest,
    pub store: Store,
    pub writer: Writer,
    pub drain: Drain,
    pub log: Log,
    pub cluster: Cluster,
    pub rollout: Rollout,
    pub rehearsal: Rehearsal,
}

/// `[http]`: limits on clients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table, as in `[http]`")]
pub struct Http {
    /// Open connections. Beyond that, a new connection takes the place of one that is silent,
    /// slow or idle; if there is none, it is answered 503. Default 10,000; 1 to 1,000,000.
    pub max_connections: usize,
    /// The bytes of a request's line and headers. Default 32 KiB; 8 KiB to
    /// 1 MiB.
    #[serde(deserialize_with = "size")]
    pub max_header_bytes: usize,
    /// The memory of the request lines and headers of all requests at once; one connection may
    /// use half of it. Default 64 MiB; up to 1 TiB, and not below `max_header_bytes`.
    #[serde(deserialize_with = "size")]
    pub max_heads_bytes: usize,
    /// The bytes of a request's body. Default 8 MiB; up to 1 GiB, and not
    /// above `guest.max_memory`.
    #[serde(deserialize_with = "size")]
    pub max_body_bytes: usize,
    /// The memory of all requests' bodies at once, in bytes. Default 256 MiB; up to 1 TiB, and
    /// not below `max_body_bytes`.
    #[serde(deserialize_with = "size")]
    pub max_bodies_bytes: usize,
    /// The memory of all replies that clients have not taken yet, in bytes. Requests beyond it
    /// are rejected before they run. Default 256 MiB; up to 1 TiB, and not below
    /// `guest.max_reply_bytes`.
    #[serde(deserialize_with = "size")]
    pub max_replies_bytes: usize,
    /// How long a client may take to send a request's headers. Default 10 s; 1 ms to 1 h.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// How long a client may take to send a request's body. Default 30 s; 1 ms to 1 h.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// How long a connection may stay open without a request. Default 75 s;
    /// 1 ms to 24 h.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
}

/// `[guest]`: limits on the guest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table, as in `[guest]`")]
pub struct Guest {
    /// The bytes of one instance's linear memory. Default 64 MiB; 1 MiB to
    /// 4 GiB.
    #[serde(deserialize_with = "size")]
    pub max_memory: usize,
    /// How long a read may hold up others; then it is run again on a separate thread. Default 2
    /// ms; 1 ms to `read_deadline`.
    #[serde(with = "humantime_serde")]
    pub read_budget: Duration,
    /// How long a read may run. Default 1 s; 1 ms to 10 min.
    #[serde(with = "humantime_serde")]
    pub read_deadline: Duration,
    /// How long a write may run in the writer, where others wait for it. Default 250 ms; 1 ms to
    /// 10 min.
    #[serde(with = "humantime_serde")]
    pub write_deadline: Duration,
    /// How long a candidate's `describe` and `check` may take. Default 5 s; 1 ms to 10 min.
    #[serde(with = "humantime_serde")]
    pub check_deadline: Duration,
    /// How long a migration may hold the writer. Default 60 s; 1 ms to 24 h.
    #[serde(with = "humantime_serde")]
    pub migrate_deadline: Duration,
    /// The bytes of a reply's headers and body. Default 9 MiB; 1 KiB to 1 GiB,
    /// and not above `max_memory`.
    #[serde(deserialize_with = "size")]
    pub max_reply_bytes: usize,
    /// The number of requests after which an instance is dropped. Default 1,000,000; from 1.
    pub max_requests_per_instance: u64,
    /// The memory that compiling a component may use, in its own process. Default 1 GiB; 64 MiB
    /// to 64 GiB.
    #[serde(deserialize_with = "size")]
    pub compile_memory: usize,
    /// The processor time that compiling may use, summed over its threads. Default 2 min; 1 ms to
    /// 1 h, rounded up to whole seconds.
    #[serde(with = "humantime_serde")]
    pub compile_cpu: Duration,
    /// How long compiling may take. Default 5 min; 1 ms to 1 h.
    #[serde(with = "humantime_serde")]
    pub compile_deadline: Duration,
    /// The log lines per second of one generation; lines beyond that are counted and dropped.
    /// Default 100; 0 to 1,000,000.
    pub log_lines_per_second: u32,
}

/// `[store]`: limits on the data.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table, as in `[store]`")]
pub struct Store {
    /// The bytes of a partition's key. Default 1 KiB; 1 to 64 KiB.
    #[serde(deserialize_with = "size")]
    pub max_partition_key_bytes: usize,
    /// The bytes of an entry's key. Default 1 KiB; 1 to 64 KiB.
    #[serde(deserialize_with = "size")]
    pub max_key_bytes: usize,
    /// The bytes of an entry's value. Default 9 MiB; up to 1 GiB, and not
    /// above `max_partition_bytes` or `guest.max_memory`.
    #[serde(deserialize_with = "size")]
    pub max_value_bytes: usize,
    /// The bytes of a partition's keys and values together, which bounds the cost of moving it.
    /// Default 16 MiB; 1 KiB to 1 GiB, and not above 16 MiB if there may be several shards:
    /// `cluster.shards` is above 1, or `cluster.topology` is not `settings`.
    #[serde(deserialize_with = "size")]
    pub max_partition_bytes: usize,
}

/// `[writer]`: limits on the writer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table, as in `[writer]`")]
pub struct Writer {
    /// Write requests that may wait; more are rejected. Default 4,096; 1 to 1,000,000.
    pub max_waiting: usize,
    /// How long a write request may wait for its turn. Default 10 s; 1 ms to
    /// 1 h.
    #[serde(with = "humantime_serde")]
    pub max_wait: Duration,
    /// Write requests in one commit. Default 1,024; 1 to 65,536.
    pub max_group: usize,
}

/// `[drain]`: how the shard stops.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table, as in `[drain]`")]
pub struct Drain {
    /// How long to keep serving after the signal to stop, while the Pod is removed from
    /// endpoints. Default 0 s; below `deadline`.
    #[serde(with = "humantime_serde")]
    pub serve_for: Duration,
    /// The time from the signal to stop until the exit, `serve_for` included. Default 25 s; 1 ms
    /// to 1 h.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
}

/// `[log]`: what is logged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table, as in `[log]`")]
pub struct Log {
    /// Directives such as `info` or `ostrakon_shard::writer=debug,warn`. Default: the command
    /// line's filter.
    pub filter: Option<String>,
}

/// `[cluster]`: several shards.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table, as in `[cluster]`")]
pub struct Cluster {
    /// Where the number of shards comes from. Default `settings`.
    pub topology: Topology,
    /// The number of shards, if the process has peers and `topology` is `settings`. Default 1; 1
    /// to 1,024.
    pub shards: u32,
    /// Requests that may wait for other shards; more are rejected. Default 1,024; 1 to 1,000,000.
    pub max_waiting: usize,
    /// How long a request may wait for a shard that cannot be reached. Default 10 s; 1 ms to 1 h.
    #[serde(with = "humantime_serde")]
    pub max_wait: Duration,
    /// How a client's request for another shard's partition is handled. Default `forward`.
    pub routing: Routing,
    /// The URL at which clients reach each shard: scheme, host and port. Default none; `redirect`
    /// needs it.
    pub public_url: Option<PerShard>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            topology: Topology::default(),
            shards: 1,
            max_waiting: 1024,
            max_wait: Duration::from_secs(10),
            routing: Routing::default(),
            public_url: None,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_header_bytes: 32 * KIB,
            max_heads_bytes: 64 * MIB,
            max_body_bytes: 8 * MIB,
            max_bodies_bytes: 256 * MIB,
            max_replies_bytes: 256 * MIB,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
        }
    }
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            max_memory: 64 * MIB,
            read_budget: Duration::from_millis(2),
            read_deadline: Duration::from_secs(1),
            write_deadline: Duration::from_millis(250),
            check_deadline: Duration::from_secs(5),
            migrate_deadline: Duration::from_mins(1),
            max_reply_bytes: 9 * MIB,
            max_requests_per_instance: 1_000_000,
            log_lines_per_second: 100,
            compile_memory: GIB,
            compile_cpu: Duration::from_mins(2),
            compile_deadline: Duration::from_mins(5),
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            max_partition_key_bytes: KIB,
            max_key_bytes: KIB,
            max_value_bytes: 9 * MIB,
            max_partition_bytes: 16 * MIB,
        }
    }
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            max_waiting: 4096,
            max_wait: Duration::from_secs(10),
            max_group: 1024,
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            serve_for: Duration::ZERO,
            deadline: Duration::from_secs(25),
        }
    }
}

impl Settings {
    /// Reads and validates the text of `ostrakon.toml`.
    ///
    /// # Errors
    /// The first invalid setting, described in one line that names it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let settings: Self = toml::from_str(text).map_err(|error| Error::syntax(text, &error))?;
        settings.validate()?;
        Ok(settings)
    }

    fn validate(&self) -> Result<(), Error> {
        let Self {
            http,
            guest,
            store,
            writer,
            drain,
            log,
            cluster,
            rollout,
            rehearsal,
        } = self;

        count(
            "http.max_connections",
            http.max_connections as u64,
            1,
            1_000_000,
        )?;
        bytes("http.max_header_bytes", http.max_header_bytes, 8 * KIB, MIB)?;
        let heads = http.max_heads_bytes;
        bytes("http.max_heads_bytes", heads, 0, 1024 * GIB)?;
        bytes("http.max_body_bytes", http.max_body_bytes, 0, GIB)?;
        let bodies = http.max_bodies_bytes;
        bytes("http.max_bodies_bytes", bodies, 0, 1024 * GIB)?;
        let replies = http.max_replies_bytes;
        bytes("http.max_replies_bytes", replies, 0, 1024 * GIB)?;
        time("http.header_timeout", http.header_timeout, HOUR)?;
        time("http.body_timeout", http.body_timeout, HOUR)?;
        time("http.idle_timeout", http.idle_timeout, 24 * HOUR)?;

        bytes("guest.max_memory", guest.max_memory, MIB, 4 * GIB)?;
        time("guest.read_deadline", guest.read_deadline, 10 * MINUTE)?;
        time("guest.read_budget", guest.read_budget, 10 * MINUTE)?;
        time("guest.write_deadline", guest.write_deadline, 10 * MINUTE)?;
        time("guest.check_deadline", guest.check_deadline, 10 * MINUTE)?;
        time("guest.migrate_deadline", guest.migrate_deadline, 24 * HOUR)?;
        bytes("guest.max_reply_bytes", guest.max_reply_bytes, KIB, GIB)?;
        count(
            "guest.max_requests_per_instance",
            guest.max_requests_per_instance,
            1,
            i64::MAX as u64,
        )?;
        count(
            "guest.log_lines_per_second",
            guest.log_lines_per_second.into(),
            0,
            1_000_000,
        )?;
        let memory = guest.compile_memory;
        bytes("guest.compile_memory", memory, 64 * MIB, 64 * GIB)?;
        time("guest.compile_cpu", guest.compile_cpu, HOUR)?;
        time("guest.compile_deadline", guest.compile_deadline, HOUR)?;

        bytes(
            "store.max_partition_key_bytes",
            store.max_partition_key_bytes,
            1,
            64 * KIB,
        )?;
        bytes("store.max_key_bytes", store.max_key_bytes, 1, 64 * KIB)?;
        bytes("store.max_value_bytes", store.max_value_bytes, 0, GIB)?;
        bytes(
            "store.max_partition_bytes",
            store.max_partition_bytes,
            KIB,
            GIB,
        )?;

        count(
            "writer.max_waiting",
            writer.max_waiting as u64,
            1,
            1_000_000,
        )?;
        time("writer.max_wait", writer.max_wait, HOUR)?;
        count("writer.max_group", writer.max_group as u64, 1, 65_536)?;

        time("drain.deadline", drain.deadline, HOUR)?;

        count(
            "cluster.shards",
            cluster.shards.into(),
            1,
            MAX_SHARDS.into(),
        )?;
        count(
            "cluster.max_waiting",
            cluster.max_waiting as u64,
            1,
            1_000_000,
        )?;
        time("cluster.max_wait", cluster.max_wait, HOUR)?;
        rollout.check()?;
        rehearsal.check()?;
        routing::validate(cluster)?;
        if let Some(filter) = &log.filter {
            telemetry::check(filter).map_err(Error::Filter)?;
        }
        self.validate_together()
    }

    /// Checks the settings against each other; each is already within its own bounds.
    fn validate_together(&self) -> Result<(), Error> {
        let Self {
            http,
            guest,
            store,
            drain,
            cluster,
            ..
        } = self;
        let budget = ("guest.read_budget", Value::Time(guest.read_budget));
        let deadline = ("guest.read_deadline", Value::Time(guest.read_deadline));
        let memory = ("guest.max_memory", Value::Size(guest.max_memory));
        let body = ("http.max_body_bytes", Value::Size(http.max_body_bytes));
        let bodies = ("http.max_bodies_bytes", Value::Size(http.max_bodies_bytes));
        let replies = http.max_replies_bytes;
        let replies = ("http.max_replies_bytes", Value::Size(replies));
        let reply = ("guest.max_reply_bytes", Value::Size(guest.max_reply_bytes));
        let value = ("store.max_value_bytes", Value::Size(store.max_value_bytes));
        let partition = (
            "store.max_partition_bytes",
            Value::Size(store.max_partition_bytes),
        );
        let header = ("http.max_header_bytes", Value::Size(http.max_header_bytes));
        let heads = ("http.max_heads_bytes", Value::Size(http.max_heads_bytes));
        at_most(budget, deadline)?;
        at_most(header, heads)?;
        // A guest's memory must hold what the guest receives and returns.
        at_most(body, memory)?;
        at_most(body, bodies)?;
        at_most(reply, memory)?;
        at_most(reply, replies)?;
        at_most(value, memory)?;
        at_most(value, partition)?;
        if cluster.may_be_several() {
            at_most(partition, MOVABLE)?;
        }
        if drain.serve_for >= drain.deadline {
            return Err(Error::NoTimeToDrain {
                serve_for: Value::Time(drain.serve_for),
                deadline: Value::Time(drain.deadline),
            });
        }
        Ok(())
    }
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let bytes = match Size::deserialize(deserializer)? {
        Size::Bytes(bytes) => bytes,
        Size::Text(text) => {
            let size: ByteSize = text.parse().map_err(|_| serde::de::Error::custom(SIZE))?;
            size.as_u64()
        }
    };
    usize::try_from(bytes).map_err(serde::de::Error::custom)
}

const SIZE: &str = "write a number of bytes, or a size such as \"8MiB\"";

/// A size as people write it.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "write a number of bytes, or a size such as \"8MiB\""
)]
enum Size {
    Bytes(u64),
    Text(String),
}

#[cfg(test)]
mod tests;
