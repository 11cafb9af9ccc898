//! Writes a generation's lines to the host's log, with a rate limit.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ostrakon_observe::metrics::Metrics;
use ostrakon_observe::trace::TraceId;

/// The limit on a line's length, in bytes; longer lines are cut.
const MAX_LINE: usize = 4 << 10;

/// The log lines of one instance, from all its ways of logging. Clones belong to the same
/// instance.
#[derive(Clone)]
pub(super) struct Lines {
    log: Arc<GuestLog>,
    /// The trace of the current call. A std mutex: held only for a copy.
    trace: Arc<Mutex<Option<TraceId>>>,
    /// The trace set last, to avoid locking: most calls have no trace, like those before them.
    set: Option<TraceId>,
}

impl Lines {
    pub(super) fn new(log: Arc<GuestLog>) -> Self {
        Self {
            log,
            trace: Arc::default(),
            set: None,
        }
    }

    /// Sets the trace of subsequent lines.
    pub(super) fn set_trace(&mut self, trace: Option<TraceId>) {
        if self.set != trace {
            self.set = trace;
            *self.trace.lock().expect("no holder of this lock panics") = trace;
        }
    }

    pub(super) fn write(&self, level: tracing::Level, text: &str) {
        let trace = *self.trace.lock().expect("no holder of this lock panics");
        self.log.write(level, text, trace);
    }
}

/// Writes a guest's lines; shared by all its instances.
pub(super) struct GuestLog {
    /// Distinguishes one generation's lines from another's; none if no lines are written.
    guest: Option<String>,
    lines_per_second: u32,
    metrics: Arc<Metrics>,
    /// A std mutex: held for a few instructions, never over an await.
    window: Mutex<Window>,
}

struct Window {
    began: Instant,
    lines: u32,
    dropped: u64,
}

impl GuestLog {
    pub(super) fn new(guest: String, lines_per_second: u32, metrics: Arc<Metrics>) -> Self {
        Self::of(Some(guest), lines_per_second, metrics)
    }

    /// Writes nothing.
    pub(super) fn silent(metrics: Arc<Metrics>) -> Self {
        Self::of(None, 0, metrics)
    }

    fn of(guest: Option<String>, lines_per_second: u32, metrics: Arc<Metrics>) -> Self {
        let window = Window {
            began: Instant::now(),
            lines: 0,
            dropped: 0,
        };
        Self {
            guest,
            lines_per_second,
            metrics,
            window: Mutex::new(window),
        }
    }

    /// Writes a line, with the request's trace if it has one.
    pub(super) fn write(&self, level: tracing::Level, text: &str, trace: Option<TraceId>) {
        let Some(guest) = &self.guest else {
            return;
        };
        let Some(dropped) = self.admit() else {
            self.metrics.log_lines_dropped(1);
            return;
        };
        if dropped > 0 {
            tracing::warn!(target: "guest", %guest, dropped, "the guest logs too much: lines were dropped");
        }
        let text = cut(text);
        let trace_id = trace.map(tracing::field::display);
        match level {
            tracing::Level::ERROR => tracing::error!(target: "guest", %guest, trace_id, "{text}"),
            tracing::Level::WARN => tracing::warn!(target: "guest", %guest, trace_id, "{text}"),
            tracing::Level::INFO => tracing::info!(target: "guest", %guest, trace_id, "{text}"),
            _ => tracing::debug!(target: "guest", %guest, trace_id, "{text}"),
        }
    }

    /// Whether one more line may be written; if so, returns how many were dropped in the second
    /// before.
    fn admit(&self) -> Option<u64> {
        let mut window = self.window.lock().expect("no holder of this lock panics");
        let mut dropped = 0;
        if window.began.elapsed() >= Duration::from_secs(1) {
            dropped = window.dropped;
            *window = Window {
                began: Instant::now(),
                lines: 0,
                dropped: 0,
            };
        }
        if window.lines < self.lines_per_second {
            window.lines += 1;
            Some(dropped)
        } else {
            window.dropped += 1;
            None
        }
    }
}

impl Drop for GuestLog {
    fn drop(&mut self) {
        if let (Some(guest), Ok(window)) = (&self.guest, self.window.get_mut())
            && window.dropped > 0
        {
            tracing::warn!(
                target: "guest",
                %guest,
                dropped = window.dropped,
                "the guest logs too much: lines were dropped"
            );
        }
    }
}

/// The text of a line, cut to the allowed length.
pub(super) fn cut(text: &str) -> &str {
    let text = text.trim_end();
    &text[..text.floor_char_boundary(MAX_LINE)]
}
