//! The place of one connection in a pool.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::backoff::pause;
use super::cause::Cause;
use super::connection::Connection;
use super::dial::Dial;
use super::endpoint::Endpoint;
use super::lock::lock;

type Outcome = Result<Connection, Cause>;

/// The place of one connection in a pool, filled on demand.
pub(super) struct Slot {
    ordinal: u32,
    address: String,
    state: Mutex<State>,
}

struct State {
    failures: u32,
    phase: Phase,
}

enum Phase {
    Empty,
    Connecting(watch::Receiver<Option<Outcome>>),
    Open(Connection),
    Resting { until: Instant, cause: Cause },
}

impl Slot {
    pub(super) fn new(ordinal: u32, address: &str) -> Arc<Self> {
        Arc::new(Self {
            ordinal,
            address: address.to_owned(),
            state: Mutex::new(State {
                failures: 0,
                phase: Phase::Empty,
            }),
        })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The connection of the slot, or the outcome of the attempt to make one.
    pub(super) async fn connection<D: Dial>(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        dial: &Arc<D>,
    ) -> Outcome {
        let mut attempt = match self.look(endpoint, dial) {
            Ok(attempt) => attempt,
            Err(outcome) => return outcome,
        };
        let outcome = attempt.wait_for(Option::is_some).await;
        outcome
            .ok()
            .and_then(|outcome| outcome.clone())
            .unwrap_or_else(|| Err(Cause::Unreachable("the attempt was given up".to_owned())))
    }

    /// What is known now, or the attempt to wait for.
    fn look<D: Dial>(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        dial: &Arc<D>,
    ) -> Result<watch::Receiver<Option<Outcome>>, Outcome> {
        let mut state = lock(&self.state);
        match &state.phase {
            Phase::Open(connection) if connection.is_open() => {
                return Err(Ok(connection.clone()));
            }
            Phase::Resting { until, cause } if Instant::now() < *until => {
                return Err(Err(cause.clone()));
            }
            // The sender is gone only when the attempt was given up.
            Phase::Connecting(attempt) if attempt.has_changed().is_ok() => {
                return Ok(attempt.clone());
            }
            _ => {}
        }
        let (sender, attempt) = watch::channel(None);
        state.phase = Phase::Connecting(attempt.clone());
        drop(state);
        // In a task of its own, so that it does not end with the request that began it.
        let slot = Arc::clone(self);
        let endpoint = Arc::clone(endpoint);
        let dial = Arc::clone(dial);
        tokio::spawn(async move {
            let outcome = slot.connect(&endpoint, &*dial).await;
            slot.settle(&endpoint, &outcome);
            sender.send_replace(Some(outcome));
        });
        Ok(attempt)
    }

    async fn connect<D: Dial>(&self, endpoint: &Endpoint, dial: &D) -> Outcome {
        let limit = endpoint.settings.connect_timeout;
        let attempt = async {
            let stream = dial
                .dial(&self.address)
                .await
                .map_err(|error| error.to_string())?;
            Connection::open(stream, endpoint, Some(self.ordinal))
                .await
                .map_err(|error| error.to_string())
        };
        timeout(limit, attempt)
            .await
            .unwrap_or_else(|_| Err(format!("no connection within {limit:?}")))
            .map_err(Cause::Unreachable)
    }

    fn settle(&self, endpoint: &Endpoint, outcome: &Outcome) {
        let settings = &endpoint.settings;
        let mut state = lock(&self.state);
        match outcome {
            Ok(connection) => {
                state.failures = 0;
                state.phase = Phase::Open(connection.clone());
            }
            Err(cause) => {
                state.failures = state.failures.saturating_add(1);
                let rest = pause(
                    settings.backoff_first,
                    settings.backoff_most,
                    state.failures,
                );
                state.phase = Phase::Resting {
                    until: Instant::now() + rest,
                    cause: cause.clone(),
                };
                drop(state);
                tracing::debug!(peer = self.ordinal, error = %cause, ?rest, "cannot connect");
            }
        }
    }
}
