//! Which trace a request is part of, and the spans that are made of it.
//!
//! A trace comes with a request, in the header `traceparent` of W3C Trace Context, or is begun
//! here where spans are exported. Where nobody traces, a request carries nothing and costs a look
//! at its headers.

mod context;
mod sampler;
mod span;
mod tracer;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use http::HeaderValue;

pub use context::{Context, SpanId, TRACEPARENT, TraceId};
pub use sampler::{BadSampler, Sampler};
pub use span::{Kind, Open, Span, Value};
pub use tracer::{Queue, Tracer};

use tracer::Recorder;

/// The trace that a request is part of, if any. Clones are of the same request.
#[derive(Clone, Debug, Default)]
pub struct Trace(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    /// Its span is the request's own, or, where none is made here, that of whoever asked.
    context: Context,
    /// Whether what comes after is to hear of it from here; else it goes on as it came.
    is_ours: bool,
    /// None: no spans are made.
    recorder: Option<Recorder>,
    /// How many spans were asked for within the request's.
    asked: AtomicU32,
}

/// The most spans within one request's: one that waits tries again and again.
const MOST: u32 = 128;

impl Trace {
    /// The trace's number.
    pub fn id(&self) -> Option<TraceId> {
        self.0.as_ref().map(|inner| inner.context.trace)
    }

    /// Begins a span within the request's; none where it is not recorded.
    pub fn span(&self, name: &'static str, kind: Kind) -> Option<Open> {
        let inner = self.recorded()?;
        Some(Open::begin(Arc::clone(inner), name, kind, Instant::now()))
    }

    /// Records a span that began then and ends now.
    pub fn record(&self, name: &'static str, began: Instant) {
        if let Some(inner) = self.recorded() {
            drop(Open::begin(Arc::clone(inner), name, Kind::Internal, began));
        }
    }

    /// The header for whom the request is passed on to, within `span`; none: it stays as it came.
    pub fn header(&self, span: Option<&Open>) -> Option<HeaderValue> {
        let inner = self.0.as_ref().filter(|inner| inner.is_ours)?;
        let mut context = inner.context;
        if let Some(span) = span {
            context.span = span.id();
        }
        Some(context.header())
    }

    /// Where one more span is recorded, if it is.
    fn recorded(&self) -> Option<&Arc<Inner>> {
        let inner = self.0.as_ref()?;
        let is_recorded = inner.recorder.is_some();
        let has_room = || inner.asked.fetch_add(1, Ordering::Relaxed) < MOST;
        (is_recorded && has_room()).then_some(inner)
    }
}
