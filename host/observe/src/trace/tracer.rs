//! Begins traces and queues their spans for export.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use http::HeaderMap;
use tokio::sync::mpsc;

use super::context::{Context, SpanId, TraceId};
use super::sampler::Sampler;
use super::span::{Open, Span};
use super::{Inner, Operation, Trace};

/// Begins the traces of requests. Clones share one queue; the default tracer records nothing.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Shared>);

#[derive(Clone, Debug)]
struct Shared {
    sampler: Sampler,
    recorder: Recorder,
}

/// Queues spans for export. Never waits: a span that finds no room is dropped.
#[derive(Clone, Debug)]
pub(super) struct Recorder {
    sender: mpsc::Sender<Span>,
    dropped: Arc<AtomicU64>,
}

/// The spans that wait for export. The queue ends when the last tracer and the last open span are
/// gone.
#[derive(Debug)]
pub struct Queue {
    pub spans: mpsc::Receiver<Span>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    /// The number of dropped spans since the last call.
    pub fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

impl Recorder {
    pub(super) fn take(&self, span: Span) {
        if self.sender.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Tracer {
    /// A tracer, and the queue of its spans, which holds at most `room`.
    pub fn new(sampler: Sampler, room: usize) -> (Self, Queue) {
        let (sender, spans) = mpsc::channel(room);
        let dropped = Arc::new(AtomicU64::new(0));
        let queue = Queue {
            spans,
            dropped: Arc::clone(&dropped),
        };
        let recorder = Recorder { sender, dropped };
        (Self(Some(Shared { sampler, recorder })), queue)
    }

    /// The trace of a request, from its headers, and the request's own span, if it is recorded.
    pub fn begin(&self, headers: &HeaderMap, operation: Operation) -> (Trace, Option<Open>) {
        let parent = Context::of(headers);
        let Some(shared) = &self.0 else {
            let inner = parent.map(|context| Inner {
                context,
                is_ours: false,
                recorder: None,
                asked: AtomicU32::new(0),
            });
            return (Trace(inner.map(Arc::new)), None);
        };
        let trace = parent.map_or_else(|| TraceId(fastrand::u128(1..)), |parent| parent.trace);
        let is_sampled = shared.sampler.takes(trace, parent);
        let span = match parent {
            // A span that is not recorded must not appear as a parent.
            Some(parent) if !is_sampled => parent.span,
            _ => SpanId(fastrand::u64(1..)),
        };
        let inner = Arc::new(Inner {
            context: Context {
                trace,
                span,
                is_sampled,
            },
            is_ours: true,
            recorder: is_sampled.then(|| shared.recorder.clone()),
            asked: AtomicU32::new(0),
        });
        let parent = parent.map(|parent| parent.span);
        let open = is_sampled.then(|| Open::root(Arc::clone(&inner), parent, operation));
        (Trace(Some(inner)), open)
    }
}
