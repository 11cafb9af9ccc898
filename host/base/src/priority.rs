//! The priority of threads.

/// The niceness of threads whose work can wait: all others go before them.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Lets all other threads go before the calling one.
#[cfg(target_os = "linux")]
pub fn lower_priority() {
    // On Linux this is the calling thread's. Where it is not allowed, the
    // thread just has the same priority as the others.
    let _ = rustix::process::setpriority_process(None, NICE);
}

/// Does nothing: elsewhere priorities are not those of threads.
#[cfg(not(target_os = "linux"))]
pub fn lower_priority() {}
