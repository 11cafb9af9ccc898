//! The tasks of an h2 connection's streams. Each can be ended separately.

use std::cell::Cell;
use std::sync::Arc;

use hyper::rt::Executor;
use tokio::sync::Notify;

use super::together::HeadAlone;

tokio::task_local! {
    static STREAM: Stream;
}

/// What a stream's task knows about itself.
struct Stream {
    end: End,
    /// Its early answer, while HTTP has only the head of it.
    head: Cell<Option<HeadAlone>>,
}

/// A handle that ends a stream's task. Dropping the task resets its stream.
#[derive(Clone, Debug, Default)]
pub(super) struct End(Arc<Notify>);

impl End {
    /// The handle of the current task's stream; `None` outside such a task.
    pub(super) fn here() -> Option<Self> {
        STREAM.try_with(|stream| stream.end.clone()).ok()
    }

    pub(super) fn now(&self) {
        self.0.notify_one();
    }
}

/// Keeps `head` until the current task has been polled: by then HTTP has the beginning of the body,
/// too. Dropped at once outside a stream's task.
pub(super) fn keep_while_polled(head: HeadAlone) {
    let _ = STREAM.try_with(|stream| stream.head.set(Some(head)));
}

/// Spawns the streams' tasks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams;

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let end = End::default();
        let ended = Arc::clone(&end.0);
        // Boxed: the future below would otherwise hold the stream twice, before and within
        // `select`, and be twice as large.
        let mut stream = Box::pin(stream);
        let polled = std::future::poll_fn(move |context| {
            let polled = stream.as_mut().poll(context);
            STREAM.with(|stream| stream.head.take());
            polled
        });
        let head = Cell::new(None);
        tokio::spawn(STREAM.scope(Stream { end, head }, async move {
            tokio::select! {
                biased;
                () = polled => {}
                () = ended.notified() => {}
            }
        }));
    }
}
