//! Closed sets of label values, and metrics that are looked up by them without a hash.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;

/// A label whose values are all known.
pub trait Label: Copy + Debug + Send + Sync + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// The label's values, by index.
    const VALUES: &'static [&'static str];

    /// Which of the values this is.
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
    /// Where a request was answered.
    Target as "target" {
        /// By the owner of a partition.
        Partition: "partition",
        /// By the shard that got it.
        Here: "here",
        /// By each shard.
        Everywhere: "everywhere",
        /// Before it was routed.
        Unrouted: "none",
    }
}

label! {
    /// What a request may do.
    Access as "access" {
        /// A read, or a request that was not routed.
        Read: "read",
        /// A write, through the writer.
        Write: "write",
    }
}

label! {
    /// A guest's export.
    Export as "export" {
        /// `describe`
        Describe: "describe",
        /// `check`
        Check: "check",
        /// `owner`
        Owner: "owner",
        /// `route`
        Route: "route",
        /// `handle`
        Handle: "handle",
        /// `gather`
        Gather: "gather",
        /// `migrate`
        Migrate: "migrate",
    }
}

label! {
    /// How compiling a component ended.
    Compile as "result" {
        /// It is compiled.
        Done: "done",
        /// It is not a valid component.
        Invalid: "invalid",
        /// It took too much memory or time.
        Limit: "limit",
        /// Nobody wanted it any more.
        Unwanted: "unwanted",
        /// It was not tried: processes died of it.
        Remembered: "remembered",
        /// The compiler or the system failed.
        Failed: "failed",
    }
}

label! {
    /// Why a guest's instance was dropped.
    DropReason as "reason" {
        /// It trapped.
        Trap: "trap",
        /// It missed a deadline.
        Deadline: "deadline",
        /// A read overran its short budget, and ran again apart.
        Budget: "budget",
        /// Its memory grew beyond what an instance may keep.
        Memory: "memory",
        /// It answered its number of requests.
        Requests: "requests",
        /// Its generation is no longer live.
        Generation: "generation",
    }
}

label! {
    /// The limit for which a request was refused by the host.
    Limit as "limit" {
        /// The headers are too large.
        HeaderSize: "header_size",
        /// The headers came too slowly.
        HeaderTime: "header_time",
        /// The body is too large.
        BodySize: "body_size",
        /// All heads together are too large.
        Heads: "heads",
        /// All bodies together are too large.
        Bodies: "bodies",
        /// All replies together are too large.
        Replies: "replies",
        /// The body came too slowly.
        BodyTime: "body_time",
        /// The shard drains.
        Draining: "draining",
        /// The writer's queue is full.
        WriterFull: "writer_full",
        /// The request waited too long for the writer.
        WriterWait: "writer_wait",
        /// Too many slow reads run already.
        SlowReads: "too_many_slow_reads",
    }
}

label! {
    /// Why a write was not stored.
    NotStored as "error" {
        /// The disk is full.
        Full: "full",
        /// The data file is not where it was opened.
        Missing: "missing",
        /// A part of the data file is damaged.
        Damaged: "damaged",
        /// The disk failed.
        Failed: "failed",
    }
}

label! {
    /// What became of a request that was passed on to another shard.
    Hop as "result" {
        /// The shard answered.
        Answered: "answered",
        /// It said that the partition is another's.
        Elsewhere: "elsewhere",
        /// It could not be asked, and nothing was run.
        Away: "away",
        /// It was asked and did not answer: a write may be stored.
        Unknown: "unknown",
    }
}

label! {
    /// Why a span was not exported.
    Unexported as "reason" {
        /// Too many waited to be.
        QueueFull: "queue_full",
        /// The collector did not take it.
        Refused: "refused",
    }
}

label! {
    /// A port of the host.
    Listener as "listener" {
        /// The clients' port.
        Public: "public",
        /// The operators' port.
        Admin: "admin",
    }
}

label! {
    /// A port that the Secret has tokens or certificates for.
    Guarded as "listener" {
        /// The clients' port.
        Public: "public",
        /// The operators' port.
        Admin: "admin",
        /// The other shards' port.
        Peers: "peers",
    }
}

/// A metric for each value of a label. Clones share them.
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

/// A metric for each pair of values of two labels. Clones share them.
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
