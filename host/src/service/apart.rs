//! Slow reads, on threads of their own, where they hold nobody up.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

use super::Refused;

/// How many slow reads may run or wait to.
const MAX_WAITING: usize = 256;

/// The niceness of a slow read's thread: all else goes before it.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Runs slow reads, as many at a time as there are worker threads, and two at least.
#[derive(Clone, Debug)]
pub(super) struct Apart {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Apart {
    /// For the runtime that this is called in.
    pub(super) fn new() -> Self {
        let workers = Handle::current().metrics().num_workers();
        Self {
            running: Arc::new(Semaphore::new(workers.max(2))),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }

    /// Does what takes long, at most about as long as `deadline`, which bounds its
    /// wait for a thread, too. Dropping the future does not end the work: the
    /// deadline of its own calls does.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        deadline: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Refused> {
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return Err(Refused::TooManySlow);
        };
        let acquired = Arc::clone(&self.running).acquire_owned();
        let Ok(Ok(running)) = tokio::time::timeout(deadline, acquired).await else {
            return Err(Refused::TooManySlow);
        };
        let (sender, receiver) = oneshot::channel();
        let runtime = Handle::current();
        let spawned = thread::Builder::new()
            .name("slow-read".to_owned())
            .spawn(move || {
                lower_priority();
                let done = runtime.block_on(work);
                drop(running);
                // The client may be gone.
                let _ = sender.send(done);
            });
        if let Err(error) = spawned {
            tracing::warn!(%error, "a slow read cannot have a thread");
            return Err(Refused::TooManySlow);
        }
        // A thread that panics drops the sender.
        receiver.await.map_err(|_| Refused::Stopping)
    }
}

#[cfg(target_os = "linux")]
pub(crate) fn lower_priority() {
    // On Linux this is the calling thread's. Where it is not allowed, the
    // thread just has the same priority as the others.
    let _ = rustix::process::setpriority_process(None, NICE);
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn lower_priority() {}
