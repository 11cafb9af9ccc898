//! A generation's lines in the host's log, as many a second as it may write.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::metrics::Metrics;

/// The longest line, in bytes; longer ones are cut.
const MAX_LINE: usize = 4 << 10;

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

    pub(super) fn write(&self, level: tracing::Level, text: &str) {
        let Some(dropped) = self.admit() else {
            self.metrics.log_lines_dropped(1);
            return;
        };
        let guest = &self.guest;
        if dropped > 0 {
            tracing::warn!(target: "guest", %guest, dropped, "the guest logs too much: lines were dropped");
        }
        let text = cut(text);
        match level {
            tracing::Level::ERROR => tracing::error!(target: "guest", %guest, "{text}"),
            tracing::Level::WARN => tracing::warn!(target: "guest", %guest, "{text}"),
            tracing::Level::INFO => tracing::info!(target: "guest", %guest, "{text}"),
            _ => tracing::debug!(target: "guest", %guest, "{text}"),
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

fn cut(text: &str) -> &str {
    let text = text.trim_end();
    &text[..text.floor_char_boundary(MAX_LINE)]
}
