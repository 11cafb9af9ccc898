//! Panics as log lines.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;
use std::thread;
use std::time::Duration;

use ostrakon_base::printable::Printable;

use super::Backlog;

/// How long a panicking thread waits until its line is written, which may be the process's last.
const LAST_LINE: Duration = Duration::from_millis(100);

/// Makes each panic from now on one line of the log, or plain text if the log's filter excludes
/// errors.
pub(super) fn log(lines: Backlog) {
    panic::set_hook(Box::new(move |info| {
        if tracing::enabled!(tracing::Level::ERROR) {
            write(info);
        } else {
            let text = info.to_string();
            lines.put(format!("{}\n", Printable(&text)).as_bytes());
        }
        lines.flush(LAST_LINE);
    }));
}

thread_local! {
    /// `Some` while this thread's panics are being caught; contains the message of the last one.
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `work`, such as a library call, which may panic. The panic is not logged: the caller
/// reports it or ignores it.
///
/// # Errors
/// The panic's message. The state that `work` used may then be inconsistent.
pub fn contain<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if is_caught() && info.payload_as_str() == Some(IN_CLEANUP) {
                give_up();
            }
            let is_caught = CAUGHT.try_with(|caught| {
                let mut caught = caught.borrow_mut();
                caught.as_mut().map(|said| *said = one_line(info)).is_some()
            });
            if !is_caught.unwrap_or(false) {
                before(info);
            }
        }));
    });
    let outer = CAUGHT.replace(Some(String::new()));
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    let said = CAUGHT.replace(outer).unwrap_or_default();
    done.map_err(|_| said)
}

/// The message of a panic that cannot be caught, because it occurred during another panic's
/// cleanup.
const IN_CLEANUP: &str = "panic in a destructor during cleanup";

fn is_caught() -> bool {
    CAUGHT
        .try_with(|caught| caught.borrow().is_some())
        .unwrap_or(false)
}

/// Logs the cause and exits the process, which would otherwise be aborted.
#[expect(clippy::exit, reason = "an abort is the other way to end here")]
fn give_up() -> ! {
    let said = CAUGHT.take().unwrap_or_default();
    tracing::error!(
        error = said,
        "the data is damaged in a place that cannot be skipped: stop the shard and run `ostrakon check`"
    );
    // Not [`Backlog::flush`]: this thread may hold the backlog's lock.
    thread::sleep(LAST_LINE);
    std::process::exit(DAMAGED.into())
}

/// The exit code for damaged data.
pub const DAMAGED: u8 = 65;

fn one_line(info: &PanicHookInfo<'_>) -> String {
    let said = info.payload_as_str().unwrap_or("it does not say why");
    let place = info.location().map(|place| {
        let file = place.file().rsplit('/').next().unwrap_or_default();
        format!(" ({file}:{})", place.line())
    });
    format!("{}{}", Printable(said), place.unwrap_or_default())
}

fn write(info: &PanicHookInfo<'_>) {
    let said = info.payload_as_str().unwrap_or("it does not say why");
    let place = info.location().map(tracing::field::display);
    let thread = thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    // Present only if the environment requests backtraces.
    let backtrace = Backtrace::capture();
    let backtrace = matches!(backtrace.status(), BacktraceStatus::Captured)
        .then(|| tracing::field::display(&backtrace));
    tracing::error!(panic = said, place, thread, backtrace, "a thread panicked");
}
