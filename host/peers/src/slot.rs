//! One of a pool's connections to a peer.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::addresses::Heard;
use super::cause::Cause;
use super::credentials::Credentials;
use super::dial::Dial;
use super::endpoint::Endpoint;
use super::lock::lock;
use super::race::{Opened, Race};

/// How long after its pause a failed attempt still means that the peer is away.
const RECENT: Duration = Duration::from_secs(5);
/// The pause before connecting again after another process answered in the peer's place.
const DISOWNED: Duration = Duration::from_millis(500);
/// The time limit for resolving a peer's name, to check whether it leads to the connected address.
const LOOK_UP: Duration = Duration::from_millis(500);

type Outcome = Result<Arc<Opened>, Cause>;

/// One of a pool's connections to a peer, opened on demand.
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
    Connecting(Arc<Attempt>),
    Open(Arc<Opened>),
    Resting {
        until: Instant,
        cause: Cause,
        /// The credentials that failed. With new ones, the next attempt starts at once.
        with: Weak<Credentials>,
        /// The peer's known addresses at the failure. If they change, the next attempt starts at
        /// once.
        heard: Heard,
    },
}

/// An attempt to connect. Waiting callers continue in the order in which they arrived.
struct Attempt {
    /// Empty if the attempt was abandoned.
    outcome: OnceLock<Outcome>,
    /// A semaphore without permits, which is closed at the end of the attempt.
    under_way: Semaphore,
}

/// Ends the attempt even if its task is dropped.
struct EndOnDrop(Arc<Attempt>);

impl Attempt {
    fn is_given_up(&self) -> bool {
        self.under_way.is_closed() && self.outcome.get().is_none()
    }

    async fn outcome(&self) -> Outcome {
        // There are no permits: this only waits for the close.
        let _ended = self.under_way.acquire().await;
        let outcome = self.outcome.get().cloned();
        outcome.unwrap_or_else(|| Err(Cause::Unreachable("the attempt was abandoned".to_owned())))
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.under_way.close();
    }
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

    /// Whether the last attempt reached the peer; `None` if there was no recent attempt.
    pub(super) fn reached(&self) -> Option<bool> {
        let state = lock(&self.state);
        match &state.phase {
            Phase::Open(opened) => opened.connection.is_open().then_some(true),
            Phase::Connecting(_) => (state.failures > 0).then_some(false),
            Phase::Resting { until, .. } => (until.elapsed() < RECENT).then_some(false),
            Phase::Empty => None,
        }
    }

    /// The slot's connection, or the outcome of the attempt to open one.
    pub(super) async fn opened<D: Dial>(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        dial: &Arc<D>,
    ) -> Outcome {
        match self.look(endpoint, dial) {
            Ok(attempt) => attempt.outcome().await,
            Err(outcome) => outcome,
        }
    }

    /// The current state, or the attempt to wait for.
    fn look<D: Dial>(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        dial: &Arc<D>,
    ) -> Result<Arc<Attempt>, Outcome> {
        let mut state = lock(&self.state);
        match &state.phase {
            Phase::Open(opened) if opened.connection.is_open() => {
                return Err(Ok(Arc::clone(opened)));
            }
            Phase::Resting {
                until,
                cause,
                with,
                heard,
            } if Instant::now() < *until
                && with.as_ptr() == Arc::as_ptr(&endpoint.credentials.borrow())
                && *heard == self.heard(endpoint) =>
            {
                return Err(Err(cause.clone()));
            }
            Phase::Connecting(attempt) if !attempt.is_given_up() => {
                return Ok(Arc::clone(attempt));
            }
            _ => {}
        }
        let attempt = Arc::new(Attempt {
            outcome: OnceLock::new(),
            under_way: Semaphore::new(0),
        });
        state.phase = Phase::Connecting(Arc::clone(&attempt));
        drop(state);
        // In a task of its own, so that it does not end with the request that began it.
        let slot = Arc::clone(self);
        let endpoint = Arc::clone(endpoint);
        let dial = Arc::clone(dial);
        let ending = EndOnDrop(Arc::clone(&attempt));
        tokio::spawn(async move {
            let outcome = slot.connect(&endpoint, &*dial).await;
            slot.settle(&endpoint, &outcome);
            let ended = ending.0.outcome.set(outcome);
            debug_assert!(ended.is_ok(), "an attempt ends once");
        });
        Ok(attempt)
    }

    /// Ends a connection on which another process answers, which runs no requests from here.
    pub(super) fn disown(&self, endpoint: &Endpoint, opened: &Arc<Opened>, cause: &Cause) {
        self.leave(endpoint, opened, cause);
        opened.connection.disown(cause);
    }

    /// Stops using a connection. After a short pause the peer is looked for again, starting from
    /// its name, and the connection's address is forgotten.
    pub(super) fn leave(&self, endpoint: &Endpoint, opened: &Arc<Opened>, cause: &Cause) {
        let mut state = lock(&self.state);
        if let Phase::Open(open) = &state.phase
            && Arc::ptr_eq(open, opened)
        {
            endpoint.addresses.forget(self.ordinal, opened.at);
            state.failures = state.failures.saturating_add(1);
            state.phase = Phase::Resting {
                until: Instant::now() + DISOWNED,
                cause: cause.clone(),
                with: Arc::downgrade(&endpoint.credentials.borrow()),
                heard: self.heard(endpoint),
            };
        }
    }

    /// Whether the peer's configured address leads to a connection's other side.
    pub(super) async fn is_at_its_name<D: Dial>(&self, opened: &Opened, dial: &D) -> bool {
        if !opened.is_at_its_name.load(Ordering::Relaxed) {
            let found = timeout(LOOK_UP, dial.resolve(&self.address)).await;
            let leads_there = matches!(found, Ok(Ok(found)) if found.contains(&opened.at));
            opened.is_at_its_name.store(leads_there, Ordering::Relaxed);
        }
        opened.is_at_its_name.load(Ordering::Relaxed)
    }

    async fn connect<D: Dial>(&self, endpoint: &Endpoint, dial: &D) -> Outcome {
        let limit = endpoint.settings.connect_timeout;
        let race = Race {
            ordinal: self.ordinal,
            address: &self.address,
            endpoint,
            dial,
        };
        timeout(limit, race.run())
            .await
            .unwrap_or_else(|_| Err(format!("no connection within {limit:?}")))
            .map(Arc::new)
            .map_err(Cause::Unreachable)
    }

    /// Abandons the connection if it leads to an earlier process of the peer than `incarnation`.
    pub(super) fn leave_older(&self, incarnation: u64) {
        let mut state = lock(&self.state);
        if let Phase::Open(opened) = &state.phase
            && opened.connection.peer().incarnation < incarnation
        {
            let older = Arc::clone(opened);
            state.phase = Phase::Empty;
            drop(state);
            older.connection.give_up(&Cause::Replaced);
        }
    }

    /// The reported addresses of the peer.
    fn heard(&self, endpoint: &Endpoint) -> Heard {
        endpoint.addresses.heard(self.ordinal).said()
    }

    fn settle(&self, endpoint: &Endpoint, outcome: &Outcome) {
        let settings = &endpoint.settings;
        let mut state = lock(&self.state);
        match outcome {
            Ok(opened) => {
                state.failures = 0;
                state.phase = Phase::Open(Arc::clone(opened));
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
                    with: Arc::downgrade(&endpoint.credentials.borrow()),
                    heard: self.heard(endpoint),
                };
                drop(state);
                tracing::debug!(peer = self.ordinal, error = %cause, ?rest, "cannot connect");
            }
        }
    }
}

/// The pause after this many consecutive failures.
fn pause(first: Duration, most: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    first.saturating_mul(1 << doublings).min(most)
}
