//! Ending without losing a request: first not ready, then refusing, then empty, then durable.
//!
//! Clients are served, and each response asks them to go elsewhere, for as long as other
//! clients may still send requests and partitions are being handed over. Requests are refused
//! only at the very end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};

use crate::readiness::Readiness;

/// Whether the shard drains, and how far it has come. Clones share the drain.
///
/// Draining begins once, by a signal or a request on the admin port, and ends once. The process
/// may live on, drained, until it is told to end.
#[derive(Clone, Debug)]
pub(crate) struct Drain(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    readiness: Readiness,
    begun: watch::Sender<bool>,
    refusing: AtomicBool,
    in_flight: AtomicUsize,
    emptied: Notify,
    outcome: watch::Sender<Option<Outcome>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    /// How long to keep serving while not ready: others learn only after a while that they are
    /// to send no more requests. Part of the deadline.
    pub serve_for: Duration,
    /// The limit for the whole drain, `serve_for` included.
    pub deadline: Duration,
}

impl Timing {
    /// The part of the deadline that is not for handing over: requests in flight are answered,
    /// and the last commit is made.
    fn last(&self) -> Duration {
        (self.deadline / 10).min(Duration::from_secs(5))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every request was answered, and the last commit is durable.
    Complete,
    /// The deadline passed. Everything that was acknowledged is durable all the same.
    DeadlinePassed { in_flight: usize },
    /// Every request was answered, but not all the partitions of other shards could be handed
    /// over. The rest are on this shard's disk.
    PartitionsLeft,
}

impl Drain {
    /// A drain that has not begun.
    pub(crate) fn new(readiness: Readiness) -> Self {
        Self(Arc::new(Inner {
            readiness,
            begun: watch::Sender::new(false),
            refusing: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            emptied: Notify::new(),
            outcome: watch::Sender::new(None),
        }))
    }

    /// Counts a request until the guard is dropped. `None`: the request must be refused,
    /// because the shard is shutting down.
    pub(crate) fn enter(&self) -> Option<InFlight> {
        // In this order, and sequentially consistent, as in `run`: either this request sees
        // that it is refused, or the drain sees that it is in flight.
        self.0.in_flight.fetch_add(1, Ordering::SeqCst);
        let guard = InFlight(Arc::clone(&self.0));
        (!self.is_refusing()).then_some(guard)
    }

    pub(crate) fn has_begun(&self) -> bool {
        *self.0.begun.borrow()
    }

    /// The number of requests that are being answered.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::SeqCst)
    }

    pub(crate) fn is_refusing(&self) -> bool {
        self.0.refusing.load(Ordering::SeqCst)
    }

    /// Begins to drain: the shard is not ready from now on. Does nothing if the drain has begun
    /// already.
    pub(crate) fn begin(&self) {
        self.0.readiness.set_draining();
        self.0.begun.send_replace(true);
    }

    /// Begins to drain and refuses requests at once: this process's answers may be wrong.
    pub(crate) fn begin_refusing(&self) {
        self.0.refusing.store(true, Ordering::SeqCst);
        self.begin();
    }

    pub(crate) async fn begun(&self) {
        let mut begun = self.0.begun.subscribe();
        // This cannot fail: the sender lives as long as this handle.
        let _ = begun.wait_for(|begun| *begun).await;
    }

    /// Waits until the drain has ended, and returns its outcome.
    pub(crate) async fn outcome(&self) -> Outcome {
        ended(self.0.outcome.subscribe()).await
    }

    /// Waits until draining begins, then drains: keeps serving for a while and until
    /// `hand_over` has given partitions away; then refuses requests, waits for the requests in
    /// flight, and for `flush`, which makes the last commit durable. Must be run once, as a
    /// task of its own.
    pub(crate) async fn run(
        &self,
        timing: impl FnOnce() -> Timing,
        flush: impl Future<Output = ()>,
        hand_over: impl Future<Output = ()>,
    ) -> Outcome {
        self.begun().await;
        let timing = timing();
        let deadline = Instant::now() + timing.deadline;
        tracing::info!(serve_for = ?timing.serve_for, deadline = ?timing.deadline, "draining");
        let (handed_over, ()) = tokio::join!(
            timeout_at(deadline - timing.last(), hand_over),
            sleep(timing.serve_for.min(timing.deadline))
        );
        self.0.refusing.store(true, Ordering::SeqCst);
        let flushed = async {
            self.emptied().await;
            flush.await;
        };
        let outcome = match (timeout_at(deadline, flushed).await, handed_over) {
            (Ok(()), Ok(())) => Outcome::Complete,
            (Ok(()), Err(_)) => Outcome::PartitionsLeft,
            (Err(_), _) => Outcome::DeadlinePassed {
                in_flight: self.0.in_flight.load(Ordering::SeqCst),
            },
        };
        match outcome {
            Outcome::Complete => tracing::info!("drained"),
            Outcome::PartitionsLeft => {
                tracing::warn!("the drain's deadline passed with partitions to hand over");
            }
            Outcome::DeadlinePassed { in_flight } => {
                tracing::warn!(in_flight, "the drain's deadline passed");
            }
        }
        self.0.outcome.send_replace(Some(outcome));
        outcome
    }

    async fn emptied(&self) {
        // If the last request ends between the check and the wait, its permit is kept. A permit
        // from before only causes another check.
        while self.0.in_flight.load(Ordering::SeqCst) > 0 {
            self.0.emptied.notified().await;
        }
    }
}

async fn ended(mut outcome: watch::Receiver<Option<Outcome>>) -> Outcome {
    let ended = outcome.wait_for(Option::is_some).await;
    let ended = ended.expect("the sender lives as long as the handle that waits");
    ended.expect("the wait ends only with an outcome")
}

/// A request that is answered before the shard has drained.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Inner>);

impl Drop for InFlight {
    fn drop(&mut self) {
        let others = self.0.in_flight.fetch_sub(1, Ordering::SeqCst) - 1;
        if others == 0 && self.0.refusing.load(Ordering::SeqCst) {
            self.0.emptied.notify_one();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was told to end, and has drained.
    Drained(Outcome),
    /// It was told to end twice, so it ends at once.
    Forced,
}

/// Waits for a signal, drains, and returns how the process is to end. `next_signal` returns the
/// name of the next signal each time.
pub(crate) async fn until_told(
    drain: &Drain,
    mut next_signal: impl AsyncFnMut() -> &'static str,
) -> End {
    // Not inside the macro, which would not wait where the log filter drops the line.
    let signal = next_signal().await;
    tracing::info!(signal, "told to end");
    drain.begin();
    tokio::select! {
        biased;
        outcome = drain.outcome() => End::Drained(outcome),
        signal = next_signal() => {
            tracing::warn!(signal, "told to end again: ending at once");
            End::Forced
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    const TIMING: Timing = Timing {
        serve_for: Duration::from_secs(3),
        deadline: Duration::from_secs(10),
    };

    fn ready() -> (Readiness, Drain) {
        let readiness = Readiness::default();
        readiness.set_started();
        readiness.set_generation_live();
        let drain = Drain::new(readiness.clone());
        (readiness, drain)
    }

    fn start(drain: &Drain, timing: Timing) -> tokio::task::JoinHandle<Outcome> {
        let drain = drain.clone();
        tokio::spawn(async move { drain.run(|| timing, async {}, async {}).await })
    }

    /// Lets the tasks run until each waits for something.
    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_not_ready_at_once_but_serves_on_for_a_while() {
        let (readiness, drain) = ready();
        let run = start(&drain, TIMING);
        settle().await;
        assert!(readiness.check().is_ok());
        drain.begin();
        assert!(readiness.check().is_err());
        settle().await;
        tokio::time::advance(Duration::from_millis(2_999)).await;
        assert!(drain.enter().is_some());
        assert!(!run.is_finished());
        let began = Instant::now();
        assert_eq!(run.await.unwrap(), Outcome::Complete);
        assert!(began.elapsed() <= Duration::from_millis(2));
        assert!(drain.enter().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn it_serves_on_while_it_hands_over_and_answers_what_is_in_flight_if_that_takes_too_long()
    {
        for (takes, outcome, served) in [
            (Duration::from_secs(6), Outcome::Complete, 6_000),
            (Duration::MAX, Outcome::PartitionsLeft, 9_000),
        ] {
            let (_, drain) = ready();
            let run = tokio::spawn({
                let drain = drain.clone();
                async move { drain.run(|| TIMING, async {}, sleep(takes)).await }
            });
            drain.begin();
            settle().await;
            tokio::time::advance(Duration::from_millis(served - 1)).await;
            settle().await;
            let request = drain.enter().expect("the request is served");
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert!(drain.enter().is_none() && !run.is_finished());
            drop(request);
            assert_eq!(run.await.unwrap(), outcome);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_requests_in_flight_and_then_for_the_last_commit() {
        let (_, drain) = ready();
        let request = drain.enter().unwrap();
        let (flushed, flush) = tokio::sync::oneshot::channel();
        let begun = Arc::new(AtomicBool::new(false));
        let run = tokio::spawn({
            let (drain, begun) = (drain.clone(), Arc::clone(&begun));
            async move {
                let timing = Timing {
                    serve_for: Duration::ZERO,
                    ..TIMING
                };
                let flush = async move {
                    begun.store(true, Ordering::SeqCst);
                    flush.await.unwrap();
                };
                drain.run(|| timing, flush, async {}).await
            }
        });
        drain.begin();
        // Past the timer's granularity.
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(drain.enter().is_none());
        assert!(!flushed.is_closed() && !run.is_finished());
        assert!(!begun.load(Ordering::SeqCst), "a request is in flight");
        drop(request);
        settle().await;
        assert!(begun.load(Ordering::SeqCst));
        assert!(!run.is_finished(), "the commit is awaited");
        flushed.send(()).unwrap();
        assert_eq!(run.await.unwrap(), Outcome::Complete);
    }

    #[tokio::test(start_paused = true)]
    async fn one_deadline_bounds_it_all() {
        let (_, drain) = ready();
        let request = drain.enter().unwrap();
        let run = start(&drain, TIMING);
        drain.begin();
        let began = Instant::now();
        assert_eq!(run.await.unwrap(), Outcome::DeadlinePassed { in_flight: 1 });
        assert_eq!(began.elapsed().as_secs(), 10);
        drop(request);

        let (_, drain) = ready();
        let run = start(
            &drain,
            Timing {
                serve_for: Duration::from_mins(10),
                ..TIMING
            },
        );
        drain.begin();
        let began = Instant::now();
        run.await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 10);
        assert!(drain.is_refusing());
    }

    #[tokio::test(start_paused = true)]
    async fn beginning_twice_gives_the_same_outcome_to_both() {
        let (_, drain) = ready();
        start(&drain, TIMING);
        drain.begin();
        drain.begin();
        let began = Instant::now();
        assert_eq!(
            tokio::join!(drain.outcome(), drain.outcome()),
            (Outcome::Complete, Outcome::Complete)
        );
        assert_eq!(began.elapsed().as_secs(), 3);
        drain.begin();
        assert_eq!(drain.outcome().await, Outcome::Complete);
        assert_eq!(began.elapsed().as_secs(), 3);
    }

    /// A regression test: the first signal was once awaited inside the macro that logs it, and
    /// so not at all where the log filter dropped that line. The process drained as soon as it
    /// had started.
    #[tokio::test(start_paused = true)]
    async fn a_signal_drains_a_second_one_ends_at_once_and_one_after_a_drain_ends_fast() {
        let (send, mut signals) = mpsc::unbounded_channel();
        let (readiness, drain) = ready();
        start(&drain, TIMING);
        send.send("SIGTERM").unwrap();
        let mut next = async || match signals.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        };
        assert_eq!(
            until_told(&drain, &mut next).await,
            End::Drained(Outcome::Complete)
        );
        assert!(readiness.check().is_err());

        let began = Instant::now();
        send.send("SIGTERM").unwrap();
        assert_eq!(
            until_told(&drain, &mut next).await,
            End::Drained(Outcome::Complete)
        );

        let (_, drain) = ready();
        let _request = drain.enter().unwrap();
        start(&drain, TIMING);
        send.send("SIGTERM").unwrap();
        send.send("SIGINT").unwrap();
        assert_eq!(until_told(&drain, &mut next).await, End::Forced);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
