//! Work that would block a runtime's worker thread: compiling, reading and writing files.

/// Where blocking work runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Blocking {
    /// On a thread of the runtime's blocking pool. It runs to its end even if its caller is
    /// dropped.
    #[default]
    OnThreads,
    /// On the calling thread. A simulation has one thread, so that a run can be repeated.
    Inline,
}

impl Blocking {
    /// Runs the work and returns its result.
    ///
    /// # Panics
    /// If the work panics.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self {
            Self::OnThreads => {
                let done = tokio::task::spawn_blocking(work).await;
                done.expect("blocking work does not panic")
            }
            Self::Inline => work(),
        }
    }
}
