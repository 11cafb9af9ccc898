//! Work that would hold a runtime's worker thread up: compiling, files.

/// Does it on a thread for that, and to its end, whoever waits for it.
///
/// # Panics
/// When the work does.
#[cfg(not(test))]
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.expect("what blocks does not panic")
}

/// Does it here: a simulation has one thread, so that it can be repeated.
#[cfg(test)]
pub(crate) async fn blocking<T>(work: impl FnOnce() -> T) -> T {
    work()
}
