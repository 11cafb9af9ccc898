//! The trace that a request belongs to, and the spans that are recorded for it.
//!
//! A trace arrives with a request in the `traceparent` header of W3C Trace Context, or begins here
//! if spans are exported. Without tracing, a request carries nothing and costs one look-up in its
//! headers.

mod context;
mod names;
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
pub use names::{Attribute, Operation};
pub use sampler::{BadSampler, Sampler};
pub use span::{Kind, Open, Span, Value};
pub use tracer::{Queue, Tracer};

use tracer::Recorder;

/// The trace that a request belongs to, if any. Clones belong to the same request.
#[derive(Clone, Debug, Default)]
pub struct Trace(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    /// Its span is the request's own, or the caller's if none is recorded here.
    context: Context,
    /// Whether forwarded requests carry this context; otherwise the header is passed through
    /// unchanged.
    is_ours: bool,
    /// `None` if no spans are recorded.
    recorder: Option<Recorder>,
    /// The number of spans requested within the request's own.
    asked: AtomicU32,
}

/// The most spans within one request's: a waiting request may retry many times.
const MOST: u32 = 128;

impl Trace {
    pub fn id(&self) -> Option<TraceId> {
        self.0.as_ref().map(|inner| inner.context.trace)
    }

    /// Begins a span within the request's. Returns `None` if it is not recorded.
    pub fn span(&self, operation: Operation) -> Option<Open> {
        let inner = self.recorded()?;
        Some(Open::begin(Arc::clone(inner), operation, Instant::now()))
    }

    /// Records a span that began at `began` and ends now.
    pub fn record(&self, operation: Operation, began: Instant) {
        if let Some(inner) = self.recorded() {
            drop(Open::begin(Arc::clone(inner), operation, began));
        }
    }

    /// The header for a forwarded request, within `span`. Returns `None` if the request's own
    /// header is passed through unchanged.
    pub fn header(&self, span: Option<&Open>) -> Option<HeaderValue> {
        let inner = self.0.as_ref().filter(|inner| inner.is_ours)?;
        let mut context = inner.context;
        if let Some(span) = span {
            context.span = span.id();
        }
        Some(context.header())
    }

    /// The recorder for one more span, if it is to be recorded.
    fn recorded(&self) -> Option<&Arc<Inner>> {
        let inner = self.0.as_ref()?;
        let is_recorded = inner.recorder.is_some();
        let has_room = || inner.asked.fetch_add(1, Ordering::Relaxed) < MOST;
        (is_recorded && has_room()).then_some(inner)
    }
}
