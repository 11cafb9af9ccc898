//! Files that are not regular, and a check that nothing hangs on them.

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};

/// Makes a FIFO.
///
/// # Panics
/// When it cannot be made.
pub fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO can be made");
}

/// Returns the result of `act`, which must not hang.
///
/// # Panics
/// When it hangs for 10 s.
#[track_caller]
pub fn in_time<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(act()));
    let given = receiver.recv_timeout(Duration::from_secs(10));
    given.expect("the action does not hang")
}
