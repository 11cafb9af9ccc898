//! A generation's lines in the host's log, as many a second as it may write.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ostrakon_observe::metrics::Metrics;
use ostrakon_observe::trace::TraceId;

/// The longest line, in bytes; longer ones are cut.
const MAX_LINE: usize = 4 << 10;

/// The lines of one instance, whichever way it writes them. Clones are of the same instance.
#[derive(Clone)]
pub(super) struct Lines {
    log: Arc<GuestLog>,
    /// That of the call under way. A std mutex: held for a copy.
    trace: Arc<Mutex<Option<TraceId>>>,
    /// What was set last: most calls are of no trace, as those before them.
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

    /// Lines are of this trace from now on.
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

/// Writes a guest's lines, shared by all its instances.
pub(super) struct GuestLog {
    guest: String,
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
    /// `guest` tells one generation's lines from another's.
    pub(super) fn new(guest: String, lines_per_second: u32, metrics: Arc<Metrics>) -> Self {
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

    /// Writes a line; of a request's trace, where it has one.
    pub(super) fn write(&self, level: tracing::Level, text: &str, trace: Option<TraceId>) {
        let Some(dropped) = self.admit() else {
            self.metrics.log_lines_dropped(1);
            return;
        };
        let guest = &self.guest;
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

    /// Whether one more line may be written, and then how many were dropped in
    /// the second before.
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
        if let Ok(window) = self.window.get_mut()
            && window.dropped > 0
        {
            tracing::warn!(
                target: "guest",
                guest = %self.guest,
                dropped = window.dropped,
                "the guest logs too much: lines were dropped"
            );
        }
    }
}

/// The text of a line, not longer than it may be.
pub(super) fn cut(text: &str) -> &str {
    let text = text.trim_end();
    &text[..text.floor_char_boundary(MAX_LINE)]
}
