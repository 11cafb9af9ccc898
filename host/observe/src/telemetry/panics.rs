//! Panics as lines of the log.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;
use std::thread;
use std::time::Duration;

use ostrakon_base::printable::Printable;

use super::Backlog;

/// How long a panic waits until its line is written: it may be the process's last.
const LAST_LINE: Duration = Duration::from_millis(100);

/// Has each panic from now on written as one line of the log; where the log's filter has no
/// errors, as plain text.
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
    /// Some while panics of this thread are caught: what the last one said.
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Does something of others that may panic, and says what the panic said. It is no line of the log:
/// whoever calls tells of it, or lives with it.
///
/// # Errors
/// When it panicked. What it was about must not be trusted to be whole.
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

/// What a panic says that cannot be caught: one that came while another was cleaned up after.
const IN_CLEANUP: &str = "panic in a destructor during cleanup";

fn is_caught() -> bool {
    CAUGHT
        .try_with(|caught| caught.borrow().is_some())
        .unwrap_or(false)
}

/// Ends the process, which would be aborted otherwise, with what there is to say.
#[expect(clippy::exit, reason = "an abort is the other way to end here")]
fn give_up() -> ! {
    let said = CAUGHT.take().unwrap_or_default();
    tracing::error!(
        error = said,
        "the data is damaged where it cannot be passed by: stop the shard and run `ostrakon check`"
    );
    // The writer of the log is not asked: it may be what has its lock.
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
    // None but where the environment asks for it.
    let backtrace = Backtrace::capture();
    let backtrace = matches!(backtrace.status(), BacktraceStatus::Captured)
        .then(|| tracing::field::display(&backtrace));
    tracing::error!(panic = said, place, thread, backtrace, "a thread panicked");
}
