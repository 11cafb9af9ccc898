//! Closed sets of label values, and metrics that are looked up by them without hashing.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;

/// A label with a closed set of values.
pub trait Label: Copy + Debug + Send + Sync + 'static {
    const NAME: &'static str;
    /// The label's values, by index.
    const VALUES: &'static [&'static str];

    /// The index of this value in `VALUES`.
    fn index(self) -> usize;
}

macro_rules! label {
    ($(#[$meta:meta])* $name:ident as $label:literal { $($(#[$doc:meta])* $variant:ident: $value:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl Label for $name {
            const NAME: &'static str = $label;
            const VALUES: &'static [&'static str] = &[$($value),+];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// Where a request is answered.
    Target as "target" {
        /// On the shard that owns its partition.
        Partition: "partition",
        /// On the shard that received it.
        Here: "here",
        /// On every shard.
        Everywhere: "everywhere",
        /// The request was answered before it was routed.
        Unrouted: "none",
    }
}

label! {
    /// What a request may do.
    Access as "access" {
        /// A read, or a request that was not routed.
        Read: "read",
        /// A write, which goes through the writer.
        Write: "write",
    }
}

label! {
    Export as "export" {
        Describe: "describe",
        Check: "check",
        Owner: "owner",
        Route: "route",
        Handle: "handle",
        Gather: "gather",
        Migrate: "migrate",
    }
}

label! {
    /// The result of an attempt to compile a component.
    Compile as "result" {
        Done: "done",
        /// The input is not a valid component.
        Invalid: "invalid",
        /// Compilation took too much memory or time.
        Limit: "limit",
        /// The result was no longer needed.
        Unwanted: "unwanted",
        /// Not attempted, because earlier attempts killed their processes.
        Remembered: "remembered",
        /// The compiler or the system failed.
        Failed: "failed",
    }
}

label! {
    /// Why a guest's instance was dropped.
    DropReason as "reason" {
        Trap: "trap",
        Deadline: "deadline",
        /// A read overran its short budget and was rerun as a slow read.
        Budget: "budget",
        /// Its memory grew beyond what an instance may keep.
        Memory: "memory",
        /// It has answered its maximum number of requests.
        Requests: "requests",
        /// Its generation is no longer live.
        Generation: "generation",
    }
}

label! {
    /// The limit because of which the host refused a request.
    Limit as "limit" {
        /// The request's head is too large.
        HeaderSize: "header_size",
        /// The head arrived too slowly.
        HeaderTime: "header_time",
        /// The body is too large.
        BodySize: "body_size",
        /// The heads of all requests together take too much memory.
        Heads: "heads",
        /// The bodies of all requests together are too large.
        Bodies: "bodies",
        /// The untaken replies together are too large.
        Replies: "replies",
        /// The body arrived too slowly.
        BodyTime: "body_time",
        /// The shard is draining.
        Draining: "draining",
        /// The writer's queue is full.
        WriterFull: "writer_full",
        /// The request waited too long for the writer.
        WriterWait: "writer_wait",
        /// Too many slow reads are running.
        SlowReads: "too_many_slow_reads",
    }
}

label! {
    /// Why a write was not stored.
    NotStored as "error" {
        Full: "full",
        /// The data file is no longer where it was opened.
        Missing: "missing",
        /// A part of the data file is damaged.
        Damaged: "damaged",
        Failed: "failed",
    }
}

label! {
    /// The result of forwarding a request to another shard.
    Hop as "result" {
        Answered: "answered",
        /// The shard said that another shard has the partition.
        Elsewhere: "elsewhere",
        /// The shard could not be asked, and nothing was run.
        Away: "away",
        /// The shard received the request but did not answer: a write may be stored.
        Unknown: "unknown",
    }
}

label! {
    /// What came out of a live request that a candidate was tried with.
    Rehearsed as "result" {
        Same: "same",
        Differ: "differ",
        /// The candidate failed, and the live guest did not.
        Failed: "failed",
        BothFailed: "both_failed",
        /// The live guest itself answered differently twice.
        Unsteady: "unsteady",
        /// There was no room or no time for it.
        LeftOut: "left_out",
    }
}

label! {
    /// Which guest of a rehearsal.
    RehearsedBy as "guest" {
        Live: "live",
        Candidate: "candidate",
    }
}

label! {
    /// Why a span was not exported.
    Unexported as "reason" {
        /// The queue of spans was full.
        QueueFull: "queue_full",
        /// The collector rejected it.
        Refused: "refused",
    }
}

label! {
    /// A port of the host.
    Listener as "listener" {
        /// The port for clients.
        Public: "public",
        /// The port for operators.
        Admin: "admin",
    }
}

label! {
    /// A port with tokens or certificates in the Secret.
    Guarded as "listener" {
        /// The port for clients.
        Public: "public",
        /// The port for operators.
        Admin: "admin",
        /// The port for other shards.
        Peers: "peers",
    }
}

/// One metric for each value of a label. Clones share them.
#[derive(Debug)]
pub(super) struct Labelled<L, M> {
    metrics: Arc<[M]>,
    label: PhantomData<L>,
}

impl<L: Label, M> Labelled<L, M> {
    pub(super) fn new(metric: impl Fn() -> M) -> Self {
        Self {
            metrics: L::VALUES.iter().map(|_| metric()).collect(),
            label: PhantomData,
        }
    }

    pub(super) fn of(&self, label: L) -> &M {
        &self.metrics[label.index()]
    }
}

impl<L, M> Clone for Labelled<L, M> {
    fn clone(&self) -> Self {
        Self {
            metrics: Arc::clone(&self.metrics),
            label: PhantomData,
        }
    }
}

impl<L: Label, M: EncodeMetric> EncodeMetric for Labelled<L, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> std::fmt::Result {
        for (value, metric) in L::VALUES.iter().zip(&*self.metrics) {
            metric.encode(encoder.encode_family(&[(L::NAME, *value)])?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        self.metrics[0].metric_type()
    }
}

/// One metric for each pair of values of two labels. Clones share them.
#[derive(Debug)]
pub(super) struct Paired<L, K, M> {
    metrics: Arc<[M]>,
    labels: PhantomData<(L, K)>,
}

impl<L: Label, K: Label, M> Paired<L, K, M> {
    pub(super) fn new(metric: impl Fn() -> M) -> Self {
        let pairs = L::VALUES.len() * K::VALUES.len();
        Self {
            metrics: (0..pairs).map(|_| metric()).collect(),
            labels: PhantomData,
        }
    }

    pub(super) fn of(&self, first: L, second: K) -> &M {
        &self.metrics[first.index() * K::VALUES.len() + second.index()]
    }
}

impl<L, K, M> Clone for Paired<L, K, M> {
    fn clone(&self) -> Self {
        Self {
            metrics: Arc::clone(&self.metrics),
            labels: PhantomData,
        }
    }
}

impl<L: Label, K: Label, M: EncodeMetric> EncodeMetric for Paired<L, K, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> std::fmt::Result {
        for (first, row) in L::VALUES.iter().zip(self.metrics.chunks(K::VALUES.len())) {
            for (second, metric) in K::VALUES.iter().zip(row) {
                let labels = [(L::NAME, *first), (K::NAME, *second)];
                metric.encode(encoder.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        self.metrics[0].metric_type()
    }
}
