//! Request counters by outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::labels::{Access, Label as _, Target};

/// The lowest status that a response may have.
const FIRST_STATUS: u16 = 200;
const STATUSES: usize = 400;

/// Requests by target, access and status. There is a counter for each possible combination (25
/// KiB), so that none has to be looked up; those that are 0 are hidden. Clones share the counters.
#[derive(Clone, Debug)]
pub(super) struct Outcomes(Arc<[AtomicU64]>);

impl Outcomes {
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

impl EncodeMetric for Outcomes {
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
