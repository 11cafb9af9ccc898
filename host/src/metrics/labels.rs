//! Closed sets of label values, and metrics that are looked up by them without a hash.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::contract;

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
        /// A write, through the lane.
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
        /// All bodies together are too large.
        Bodies: "bodies",
        /// The body came too slowly.
        BodyTime: "body_time",
        /// The shard drains.
        Draining: "draining",
        /// The lane's queue is full.
        LaneFull: "lane_full",
        /// The request waited too long for the lane.
        LaneWait: "lane_wait",
        /// Too many slow reads run already.
        SlowReads: "too_many_slow_reads",
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

impl From<&contract::Target> for Target {
    fn from(target: &contract::Target) -> Self {
        match target {
            contract::Target::Partition(_) => Self::Partition,
            contract::Target::Here => Self::Here,
            contract::Target::Everywhere => Self::Everywhere,
        }
    }
}

impl From<contract::Access> for Access {
    fn from(access: contract::Access) -> Self {
        match access {
            contract::Access::Read => Self::Read,
            contract::Access::Write => Self::Write,
        }
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

/// The first status that a response may have.
const FIRST_STATUS: u16 = 200;
/// How many there are.
const STATUSES: usize = 400;

/// Requests by target, access and status: a counter for each combination there can be (25 KiB), so
/// that none has to be looked up. Those that are 0 are not shown. Clones share the counters.
#[derive(Clone, Debug)]
pub(super) struct Requests(Arc<[AtomicU64]>);

impl Requests {
    pub(super) fn new() -> Self {
        let combinations = Target::VALUES.len() * Access::VALUES.len() * STATUSES;
        Self((0..combinations).map(|_| AtomicU64::new(0)).collect())
    }

    /// Counts a request. A status outside 200..=599 is counted as 599.
    pub(super) fn count(&self, target: Target, access: Access, status: http::StatusCode) {
        let status = usize::from(status.as_u16().wrapping_sub(FIRST_STATUS)).min(STATUSES - 1);
        let row = target.index() * Access::VALUES.len() + access.index();
        self.0[row * STATUSES + status].fetch_add(1, Ordering::Relaxed);
    }
}

impl EncodeMetric for Requests {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> std::fmt::Result {
        let rows = Target::VALUES
            .iter()
            .flat_map(|target| Access::VALUES.iter().map(move |access| (target, access)));
        for ((target, access), counters) in rows.zip(self.0.chunks(STATUSES)) {
            for (status, counter) in (FIRST_STATUS..).zip(counters) {
                let count = counter.load(Ordering::Relaxed);
                if count == 0 {
                    continue;
                }
                let status = status.to_string();
                let labels = [
                    (Target::NAME, *target),
                    (Access::NAME, *access),
                    ("status", &status),
                ];
                encoder
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}
