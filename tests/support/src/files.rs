//! Files that are not regular, and a check that nothing hangs on them.

use std::fs;
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

/// Copies a directory with everything in it, over what is there.
///
/// # Panics
/// When something cannot be copied.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the directory can be created");
    for entry in fs::read_dir(from).expect("the directory can be listed") {
        let entry = entry.expect("it is read").path();
        let copied = to.join(entry.file_name().expect("it has a name"));
        if entry.is_dir() {
            copy(&entry, &copied);
        } else {
            fs::copy(&entry, &copied).expect("the file can be copied");
        }
    }
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
