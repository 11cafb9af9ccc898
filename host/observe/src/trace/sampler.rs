//! The choice of traces to record.

use super::context::{Context, TraceId};

/// The choice of traces to record, with OpenTelemetry's names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether a request that arrives with a trace is recorded if that trace is.
    follows_parent: bool,
    /// The fraction of the other traces that is recorded, from 0.0 to 1.0.
    ratio: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSampler {
    #[error(
        "{0:?} is not a sampler: write always_on, always_off or traceidratio, or one of them after parentbased_"
    )]
    Name(String),
    #[error("{0:?} is not a fraction of traces to record: write a number from 0 to 1")]
    Ratio(String),
}

impl Sampler {
    /// The sampler of this name. `ratio` applies to samplers by ratio; without it they record
    /// everything.
    ///
    /// # Errors
    /// When the name or the ratio is invalid.
    pub fn new(name: &str, ratio: Option<&str>) -> Result<Self, BadSampler> {
        let (follows_parent, kind) = match name.strip_prefix("parentbased_") {
            Some(kind) => (true, kind),
            None => (false, name),
        };
        let ratio = match (kind, ratio) {
            ("always_on", _) | ("traceidratio", None) => 1.0,
            ("always_off", _) => 0.0,
            ("traceidratio", Some(text)) => {
                let ratio = text.parse().ok();
                ratio
                    .filter(|ratio| (0.0..=1.0).contains(ratio))
                    .ok_or_else(|| BadSampler::Ratio(text.to_owned()))?
            }
            _ => return Err(BadSampler::Name(name.to_owned())),
        };
        Ok(Self {
            follows_parent,
            ratio,
        })
    }

    /// Whether a request's trace is recorded. All shards decide alike for one trace.
    pub(super) fn takes(&self, trace: TraceId, parent: Option<Context>) -> bool {
        match parent {
            Some(parent) if self.follows_parent => parent.is_sampled,
            _ => self.takes_by_number(trace),
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a ratio is as exact as 53 bits are; the low half of the number is what counts"
    )]
    fn takes_by_number(&self, trace: TraceId) -> bool {
        let place = (trace.0 as u64 >> 1) as f64 / (u64::MAX >> 1) as f64;
        self.ratio >= 1.0 || place < self.ratio
    }
}
