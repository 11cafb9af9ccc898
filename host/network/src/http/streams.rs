//! The tasks of an h2 connection's streams. Each can be ended separately.

use std::sync::Arc;

use hyper::rt::Executor;
use tokio::sync::Notify;

tokio::task_local! {
    static END: End;
}

/// A handle that ends a stream's task. Dropping the task resets its stream.
#[derive(Clone, Debug)]
pub(super) struct End(Arc<Notify>);

impl End {
    /// The handle of the current task's stream; `None` outside such a task.
    pub(super) fn here() -> Option<Self> {
        END.try_with(Clone::clone).ok()
    }

    pub(super) fn now(&self) {
        self.0.notify_one();
    }
}

/// Spawns the streams' tasks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams;

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let end = End(Arc::default());
        let ended = Arc::clone(&end.0);
        // Boxed: the future below would otherwise hold the stream twice, before and within
        // `select`, and be twice as large.
        let mut stream = Box::pin(stream);
        tokio::spawn(END.scope(end, async move {
            tokio::select! {
                biased;
                () = &mut stream => {}
                () = ended.notified() => {}
            }
        }));
    }
}
