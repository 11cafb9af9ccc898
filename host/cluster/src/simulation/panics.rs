//! Catches panics in tasks, which a runtime takes for the end of the task.

use std::cell::Cell;
use std::panic;
use std::sync::Once;

use super::clock;

thread_local! {
    static LAST: Cell<Option<String>> = const { Cell::new(None) };
}

/// Has panics of processes noted instead of printed from now on.
pub(super) fn note() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let otherwise = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if clock::is_running() {
                LAST.set(Some(format!("a task panics: {panic}")));
            } else {
                otherwise(panic);
            }
        }));
    });
}

/// Takes the last panic of a process on this thread since the last call.
pub(super) fn take() -> Option<String> {
    LAST.take()
}
