//! Panics in tasks, which a runtime takes for the task's end and goes on.

use std::cell::Cell;
use std::panic;
use std::sync::Once;

use super::clock;

thread_local! {
    static LAST: Cell<Option<String>> = const { Cell::new(None) };
}

/// From now on panics of processes are noted, and not printed.
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

/// The last panic of a process on this thread since the last look.
pub(super) fn take() -> Option<String> {
    LAST.take()
}
