//! A gauge whose value may be unknown.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::{EncodeGaugeValue, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;

/// A gauge that is hidden while its value is unknown. Clones share it.
///
/// A std mutex, held only for a copy, before and during a scrape.
#[derive(Clone, Debug)]
pub(super) struct Maybe<N = u64>(Arc<Mutex<Option<N>>>);

impl<N> Default for Maybe<N> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<N: Copy> Maybe<N> {
    pub(super) fn set(&self, level: Option<N>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = level;
    }

    fn get(&self) -> Option<N> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<N: Copy + EncodeGaugeValue> EncodeMetric for Maybe<N> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match self.get() {
            Some(level) => encoder.encode_gauge(&level),
            None => Ok(()),
        }
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }

    fn is_empty(&self) -> bool {
        self.get().is_none()
    }
}
