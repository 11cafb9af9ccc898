//! Work that would hold a runtime's worker thread up: compiling, files.

/// Where such work is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Blocking {
    /// On a thread of the runtime that is for it, and to its end, whoever waits for it.
    #[default]
    OnThreads,
    /// On the thread that asks for it. A simulation has one thread, so that a run can be repeated.
    Inline,
}

impl Blocking {
    /// Does the work.
    ///
    /// # Panics
    /// When the work does.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self {
            Self::OnThreads => {
                let done = tokio::task::spawn_blocking(work).await;
                done.expect("what blocks does not panic")
            }
            Self::Inline => work(),
        }
    }
}
