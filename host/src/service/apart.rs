//! Slow reads, on threads of their own, where they hold nobody up.

use std::sync::Arc;
use std::thread;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

use super::{Progress, Refused, attempt};
use crate::contract::{Request, Route};
use crate::guest::Failure;
use crate::lane::View;
use crate::topology::Passed;

/// How many slow reads may run or wait to.
const MAX_WAITING: usize = 256;

/// The niceness of a slow read's thread: all else goes before it.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Runs slow reads, as many at a time as the machine has processors.
#[derive(Clone, Debug)]
pub(super) struct Apart {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Apart {
    pub(super) fn new() -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self {
            running: Arc::new(Semaphore::new(processors.max(2))),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }

    /// Routes and reads with the whole deadline for each call; gives the route
    /// too, if it came so far. Dropping the future does not end the thread: the
    /// deadline does.
    pub(super) async fn run(
        &self,
        view: &Arc<View>,
        request: &Arc<Request>,
        told: Option<&Passed>,
        ordinal: u32,
    ) -> Result<(Option<Route>, Result<Progress, Failure>), Refused> {
        let deadline = view.guest.settings().guest.read_deadline;
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return Err(Refused::TooManySlow);
        };
        let acquired = Arc::clone(&self.running).acquire_owned();
        let Ok(Ok(running)) = tokio::time::timeout(deadline, acquired).await else {
            return Err(Refused::TooManySlow);
        };
        let (sender, receiver) = oneshot::channel();
        let (runtime, view, request) = (Handle::current(), Arc::clone(view), Arc::clone(request));
        let told = told.cloned();
        let spawned = thread::Builder::new()
            .name("slow-read".to_owned())
            .spawn(move || {
                lower_priority();
                let mut route = None;
                let attempt = attempt(
                    &view,
                    &request,
                    told.as_ref(),
                    ordinal,
                    deadline,
                    &mut route,
                );
                let progress = runtime.block_on(attempt);
                drop(running);
                // The client may be gone.
                let _ = sender.send((route, progress));
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
fn lower_priority() {
    // On Linux this is the calling thread's. Where it is not allowed, the
    // thread just has the same priority as the others.
    let _ = rustix::process::setpriority_process(None, NICE);
}

#[cfg(not(target_os = "linux"))]
fn lower_priority() {}
