//! Slow and large reads, run on threads of their own so that they delay no other request.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use ostrakon_base::priority::lower_priority;
use ostrakon_contract::client::Client;
use ostrakon_observe::metrics::Metrics;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Refused;
use super::queue::{Bounds, Entered, Queue, Ticket};

/// How many reads may wait for a thread.
const MAX_WAITING: usize = 256;
/// How many reads of one connection may wait.
const MAX_WAITING_OF_ONE: usize = MAX_WAITING / 4;

/// Runs slow reads, as many at a time as there are worker threads, and at least two.
///
/// Connections take turns: one with many slow reads delays only itself. A waiting read holds
/// its request and nothing else: no instance and no snapshot.
#[derive(Clone, Debug)]
pub(super) struct Apart {
    /// A std mutex, because it is held only briefly.
    queue: Arc<Mutex<Queue<Job>>>,
    metrics: Arc<Metrics>,
}

/// A waiting read. Called with `true` to run it, with `false` to refuse it.
struct Job(Box<dyn FnOnce(bool) + Send>);

impl std::fmt::Debug for Job {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Job").finish_non_exhaustive()
    }
}

/// On drop, takes a read back unless it already runs: its client is gone.
struct Waits<'a> {
    apart: &'a Apart,
    place: Ticket,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if self.apart.queue().take_back(self.place).is_some() {
            self.apart.metrics.request_gone();
        }
    }
}

impl Apart {
    /// Uses the runtime that it is called in.
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let running = Handle::current().metrics().num_workers().max(2);
        let queue = Queue::new(Bounds {
            running,
            running_of_one: running - 1,
            waiting: MAX_WAITING,
            waiting_of_one: MAX_WAITING_OF_ONE,
        });
        Self {
            queue: Arc::new(Mutex::new(queue)),
            metrics,
        }
    }

    /// Runs slow work for at most about `deadline`, which also bounds the wait for a thread. If
    /// the future is dropped before the work has begun, the work never begins. If it is dropped
    /// later, the deadline of the work's own calls ends the work.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        client: &Client,
        deadline: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Refused> {
        let (sender, receiver) = oneshot::channel();
        let runtime = Handle::current();
        let job = Job(Box::new(move |is_to_run| {
            let done = if is_to_run {
                Ok(runtime.block_on(work))
            } else {
                Err(Refused::TooManySlow)
            };
            // The client may be gone.
            let _ = sender.send(done);
        }));
        let entered = self.queue().enter(client.number(), job);
        let Entered::Waits(place, put_out) = entered else {
            return Err(Refused::TooManySlow);
        };
        if let Some(Job(put_out)) = put_out {
            put_out(false);
        }
        let _waits = Waits { apart: self, place };
        self.employ();
        let mut receiver = pin!(receiver);
        let done = match timeout(deadline, &mut receiver).await {
            Ok(done) => done,
            Err(_) if self.queue().take_back(place).is_some() => return Err(Refused::TooManySlow),
            Err(_) => receiver.await,
        };
        // A panic in the work drops the sender.
        done.unwrap_or(Err(Refused::Stopping))
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Job>> {
        self.queue.lock().expect("no holder of this lock panics")
    }

    /// Has a thread run the jobs that may run now, until none is left.
    fn employ(&self) {
        let Some(first) = self.queue().next() else {
            return;
        };
        let apart = self.clone();
        let (to_thread, from_here) = std::sync::mpsc::channel();
        let spawned = thread::Builder::new()
            .name("slow-read".to_owned())
            .spawn(move || {
                lower_priority();
                let mut next = from_here.recv().ok();
                while let Some((client, Job(job))) = next {
                    // Unwind safe: the job shares only locks and atomics, whose users accept
                    // any state they are left in.
                    let _reported = catch_unwind(AssertUnwindSafe(|| job(true)));
                    let mut queue = apart.queue();
                    queue.done(client);
                    next = queue.next();
                }
            });
        match spawned {
            Ok(_) => {
                let _sent = to_thread.send(first);
            }
            Err(error) => {
                tracing::warn!(%error, "a slow read was refused: the system has no thread for it");
                let (client, Job(job)) = first;
                self.queue().done(client);
                job(false);
            }
        }
    }
}
