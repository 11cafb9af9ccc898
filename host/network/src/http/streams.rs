//! The tasks of an h2 connection's streams, each of which can be ended alone.

use std::sync::Arc;

use hyper::rt::Executor;
use tokio::sync::Notify;

tokio::task_local! {
    static END: End;
}

/// How a stream's task is ended: dropped, it resets its stream.
#[derive(Clone, Debug)]
pub(super) struct End(Arc<Notify>);

impl End {
    /// That of the stream whose task this is; none in no such task.
    pub(super) fn here() -> Option<Self> {
        END.try_with(Clone::clone).ok()
    }

    /// Ends the task.
    pub(super) fn now(&self) {
        self.0.notify_one();
    }
}

/// Starts the tasks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams;

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let end = End(Arc::default());
        let ended = Arc::clone(&end.0);
        // In a place of its own: a future that holds it twice, before and within `select`, would be twice
        // as large.
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
