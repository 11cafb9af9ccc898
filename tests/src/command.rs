//! Commands that must end by themselves.

use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::host::PATIENCE;

/// The exit code and standard error of a command that must soon end by itself. Its standard output
/// is included if the command pipes it and writes little.
///
/// # Panics
/// When it cannot be started, or does not end.
pub fn output_of(command: &mut Command) -> Output {
    let mut child = command
        .stderr(Stdio::piped())
        .spawn()
        .expect("the system can do that");
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().expect("the system can do that").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("the system can do that");
            panic!("it does not end");
        }
        thread::sleep(Duration::from_millis(1));
    }
    child.wait_with_output().expect("the system can do that")
}
