//! `rollout.barrier`: no request of a client begins on a new generation anywhere before the last one on
//! the old has ended everywhere.
//!
//! ```text
//! shard 0                                      another shard
//!   holds requests     -- hold requests -->    holds requests
//!   none is under way  <-- done -----------    none is under way
//!   [release]          -- there is news -->
//!   goes on                                    [release]
//!                                              goes on
//! ```
//!
//! If a shard has requests under way for too long, all go on with what they have, and it is tried
//! again later. What a request asks of other shards is part of it, and is not held there; but where
//! it comes from a shard that has gone over, it waits for one that is about to.
//!
//! A shard that holds and hears nothing asks shard 0, or the others if that is away. It goes on with
//! what it has when shard 0 says that the candidate does not go live now, or when nobody who can be
//! asked says anything for [`ASKS`]. So the barrier holds unless shard 0, or the way to it, is
//! lost in the moment between the two messages.

use std::time::Duration;

use futures_util::future::join_all;
use ostrakon_protocol::Ordinal;
use ostrakon_settings::settings::MOST_BARRIER;
use ostrakon_shard::service::Closing;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::state::State;
use crate::Cluster;
use crate::message::{Candidate, PeerRequest, PeerResponse, millis};

/// For how long at least a shard that holds requests asks whether it is to go on.
const ASKS: Duration = Duration::from_secs(5);

/// How long it waits before it asks again.
const AGAIN: Duration = Duration::from_millis(20);

/// The requests that a shard holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    candidate: Candidate,
    /// The number of this hold, in the coordinator's process: the same candidate may be held again.
    hold: u64,
    closing: Closing,
    since: Instant,
}

/// For answering peers.
impl Cluster {
    /// Holds requests until the candidate is live here, and returns when none is under way.
    ///
    /// # Errors
    /// If it is another shard that asks, if the candidate is not prepared here, or if requests are
    /// still under way after this time. Then no requests are held.
    pub(crate) async fn hold_requests(
        &self,
        from: Ordinal,
        (candidate, hold): (Candidate, u64),
        within: Duration,
    ) -> Result<(), String> {
        let until = Instant::now() + within.min(MOST_BARRIER);
        let is_ready = self.knows(|state| state.is_ready_for(candidate));
        if from != Ordinal::COORDINATOR || !is_ready {
            return Err("it is not prepared".to_owned());
        }
        let closing = self.0.gate.close();
        let held = self.now_holds(candidate, hold, closing);
        // Before anything else: this future ends with the connection.
        drop(tokio::spawn(self.clone().watch(held, until)));
        if timeout_at(until, self.0.gate.drained()).await.is_err() {
            let why = self.why_not_drained();
            self.go_on(held);
            return Err(why);
        }
        Ok(())
    }

    /// Whether requests are held for a candidate, or it is going live.
    pub(crate) fn is_held(&self, candidate: Candidate, hold: u64) -> bool {
        let held = self.knows(State::held);
        let held = held.filter(|held| (held.candidate, held.hold) == (candidate, hold));
        held.is_some_and(|held| self.0.gate.is_closed(held.closing))
    }

    /// If requests are held here until a generation is live, waits for it with a forwarded request of a
    /// client that is answered by no earlier one. Returns how much of the time is left.
    pub(crate) async fn until_gone_over(
        &self,
        at_least: Option<u64>,
        within: Duration,
    ) -> Duration {
        let Some(at_least) = at_least else {
            return within;
        };
        let until = Instant::now() + within;
        let view = |cluster: &Self| cluster.0.writer.views().get();
        loop {
            let changed = self.0.writer.views().changed();
            let is_behind = view(self).is_none_or(|view| view.generation < at_least);
            let held = self.knows(State::held);
            let is_held = held.is_some_and(|held| self.0.gate.is_closed(held.closing));
            let now = Instant::now();
            if !(is_behind && is_held) || now >= until {
                return until.saturating_duration_since(now);
            }
            // The gate may open with nothing new live.
            let _looked = timeout(AGAIN, changed).await;
        }
    }

    /// Ends a hold.
    pub(crate) fn let_requests(&self, from: Ordinal, candidate: Candidate, hold: u64) {
        let held = self.knows(State::held);
        let held = held.filter(|held| (held.candidate, held.hold) == (candidate, hold));
        if let Some(held) = held
            && from == Ordinal::COORDINATOR
        {
            self.go_on(held);
        }
    }
}

impl Cluster {
    /// Has all shards hold requests, this one too, for a candidate that is prepared in each. Returns
    /// when no request is under way anywhere.
    ///
    /// # Errors
    /// If that is not so after this time. Then requests are held nowhere, or not for long.
    pub(super) async fn hold_everywhere(
        &self,
        shards: u32,
        candidate: Candidate,
        within: Duration,
    ) -> Result<(), String> {
        let until = Instant::now() + within;
        let closing = self.0.gate.close();
        let hold = closing.number();
        let held = self.now_holds(candidate, hold, closing);
        drop(tokio::spawn(self.clone().watch(held, until)));
        let asked = join_all((1..shards).map(Ordinal).map(async |shard| {
            let ask = PeerRequest::HoldRequests {
                candidate,
                hold,
                // So that its answer, and why, comes in time.
                within_ms: millis(within * 7 / 8),
            };
            let why = match timeout_at(until, self.ask(shard, &ask)).await {
                Ok(Ok(PeerResponse::Done {})) => return Ok(()),
                Ok(Ok(PeerResponse::Later { reason })) => reason,
                Ok(Ok(_)) => "its answer makes no sense".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("it has not answered for {within:?}"),
            };
            Err(format!("shard {}: {why}", shard.0))
        }));
        let drained = async {
            let drained = timeout_at(until, self.0.gate.drained()).await;
            drained.map_err(|_| format!("shard 0: {}", self.why_not_drained()))
        };
        let (drained, asked) = tokio::join!(drained, asked);
        let all = asked.into_iter().fold(drained, Result::and);
        if all.is_err() {
            self.go_on_everywhere(shards);
        }
        all
    }

    /// Lets requests begin again in all shards: the candidate does not go live now.
    pub(super) fn go_on_everywhere(&self, shards: u32) {
        let Some(Held {
            candidate, hold, ..
        }) = self.goes_on()
        else {
            return;
        };
        for shard in (1..shards).map(Ordinal) {
            let cluster = self.clone();
            drop(tokio::spawn(async move {
                let ask = PeerRequest::LetRequests { candidate, hold };
                // One that is not reached asks by itself.
                timeout(ASKS, cluster.ask(shard, &ask)).await
            }));
        }
    }

    fn now_holds(&self, candidate: Candidate, hold: u64, closing: Closing) -> Held {
        let since = Instant::now();
        let held = Held {
            candidate,
            hold,
            closing,
            since,
        };
        self.know_for_now(|state| state.holds(Some(held)));
        held
    }

    /// The number of the live generation, if no request may run on an earlier one elsewhere.
    pub(crate) fn at_least(&self) -> Option<u64> {
        let view = self.0.writer.views().load();
        let view = view.as_ref()?;
        let has_barrier = !view.guest.settings().rollout.barrier.is_zero();
        has_barrier.then_some(view.generation)
    }

    fn why_not_drained(&self) -> String {
        format!("requests under way: {}", self.0.gate.under_way())
    }

    /// Lets requests begin again. Returns whether they were held.
    fn go_on(&self, held: Held) -> bool {
        let was_held = self.0.gate.open(held.closing);
        if was_held {
            self.0.guests.metrics.requests_held(held.since.elapsed());
        }
        was_held
    }

    /// Lets requests begin again, on what is live now. Returns what was held.
    pub(super) fn goes_on(&self) -> Option<Held> {
        let held = self.know_for_now(|state| state.holds(None));
        if let Some(held) = held {
            self.go_on(held);
        }
        held
    }

    /// Sees that requests are not held for ever, where shard 0 or the way to it is lost.
    async fn watch(self, held: Held, until: Instant) {
        sleep_until(until).await;
        let last = Instant::now() + ASKS;
        while self.0.gate.is_closed(held.closing) {
            let is_to_wait = if self.0.me == Ordinal::COORDINATOR {
                self.knows(|state| state.going().is_some() || state.uncertain().is_some())
            } else {
                self.is_to_wait(held, last).await
            };
            if !is_to_wait || Instant::now() >= last {
                if self.go_on(held) {
                    tracing::warn!(
                        digest = %held.candidate.digest.short(),
                        "requests go on with what was live before: the candidate is not live here yet"
                    );
                }
                return;
            }
            sleep(AGAIN).await;
        }
    }

    /// Whether the candidate may be live elsewhere, or soon.
    async fn is_to_wait(&self, held: Held, last: Instant) -> bool {
        let Held {
            candidate, hold, ..
        } = held;
        let ask = PeerRequest::IsHeld { candidate, hold };
        let said = timeout_at(last, self.ask(Ordinal::COORDINATOR, &ask)).await;
        if matches!(said, Ok(Ok(PeerResponse::Done {}))) {
            return true;
        }
        // If it is live there, its release is known.
        self.ask_the_coordinator().await;
        if self.knows(State::is_coordinator_away) {
            self.ask_all_but_the_coordinator().await;
            return true;
        }
        self.knows(|state| state.due().is_some())
    }
}
