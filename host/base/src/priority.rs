//! Thread priorities.

/// The niceness of background threads: all other threads run before them.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Lowers the calling thread's priority below that of all other threads.
#[cfg(target_os = "linux")]
pub fn lower_priority() {
    // On Linux this call sets the calling thread's niceness. If it is not permitted, the thread
    // keeps the priority of the others.
    let _ = rustix::process::setpriority_process(None, NICE);
}

/// Does nothing: on other systems the niceness belongs to the process.
#[cfg(not(target_os = "linux"))]
pub fn lower_priority() {}
