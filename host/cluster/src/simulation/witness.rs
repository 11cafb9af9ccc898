//! Counts the events of all seeds together: a simulation that never reaches the interesting
//! cases proves nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use super::clock;

/// How often each event happened.
pub(super) type Counts = BTreeMap<&'static str, u64>;

/// The events that must happen at least once in enough seeds. For those with a second text, the
/// host logs that text.
pub(super) const SOMETIMES: [(&str, Option<&str>); 26] = [
    ("a request was forwarded", None),
    (
        "a request waited for its partition",
        Some("a request waits for its partition"),
    ),
    ("a batch came again", Some("a batch came again")),
    ("a batch waited", Some("a batch waits")),
    (
        "a guest of another generation was made for its owners",
        Some("a generation's guest is made for its owners"),
    ),
    ("a change was made", None),
    ("a change of placement was requested", None),
    ("a change was requested during another", None),
    ("the coordinator died in a change", None),
    ("another shard died in a change", None),
    ("a process died in the middle of its work", None),
    ("unsynced writes were lost", None),
    ("a process started with batches to send again", None),
    ("a process was silent from one moment to the next", None),
    ("a process was paused", None),
    (
        "a data file was compacted",
        Some("the data file was compacted"),
    ),
    ("a link was mended", None),
    ("a connection was reset", None),
    ("a stopped shard had handed its partitions over", None),
    ("a listing was answered in a change", None),
    (
        "a generation served a share of the partitions",
        Some("a generation serves a share of the partitions"),
    ),
    ("a generation that is tried answered", None),
    ("a trial was ended", None),
    ("a former generation was gone back to", None),
    ("a request was refused", None),
    ("an outcome was unknown", None),
];

/// The counts of one seed, and its log, if it is wanted.
#[derive(Default)]
struct Seen {
    counts: Counts,
    log: Option<String>,
}

thread_local! {
    static SEEN: RefCell<Seen> = RefCell::default();
}

/// Counts an event of `SOMETIMES`.
pub(super) fn saw(what: &'static str) {
    debug_assert!(SOMETIMES.iter().any(|(known, _)| *known == what), "{what}");
    SEEN.with_borrow_mut(|seen| *seen.counts.entry(what).or_default() += 1);
}

/// Writes a line to the log, if there is one.
pub(super) fn note(time: u64, who: impl fmt::Display, what: impl fmt::Display) {
    SEEN.with_borrow_mut(|seen| {
        if let Some(log) = &mut seen.log {
            let _infallible = writeln!(log, "{time:>6} {who:<8} {what}");
        }
    });
}

/// Runs a seed on this thread, and returns its result, its counts and its log.
pub(super) fn watch<T>(with_log: bool, run: impl FnOnce() -> T) -> (T, Counts, String) {
    SEEN.set(Seen {
        log: with_log.then(String::new),
        ..Seen::default()
    });
    let layer = Watching { with_log };
    let subscriber = tracing_subscriber::registry().with(layer);
    let done = tracing::subscriber::with_default(subscriber, run);
    let seen = SEEN.take();
    (done, seen.counts, seen.log.unwrap_or_default())
}

struct Watching {
    with_log: bool,
}

impl<S: Subscriber> Layer<S> for Watching {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.is_event()
            && *metadata.level() <= Level::DEBUG
            && metadata.target().starts_with("ostrakon")
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        for (what, message) in SOMETIMES {
            if message == Some(line.message.as_str()) {
                saw(what);
            }
        }
        if self.with_log
            && let Some((shard, time)) = clock::running()
        {
            let who = format!("shard {shard}");
            let level = event.metadata().level();
            note(
                time,
                who,
                format_args!("{level} {}{}", line.message, line.fields),
            );
        }
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _infallible = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}
