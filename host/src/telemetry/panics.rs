//! Panics as lines of the log.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::thread;

/// Has each panic from now on written as one line of the log; where the log's filter has no
/// errors, as before.
pub(super) fn log() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if tracing::enabled!(tracing::Level::ERROR) {
            write(info);
        } else {
            before(info);
        }
    }));
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
