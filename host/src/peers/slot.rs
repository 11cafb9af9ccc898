//! The place of one connection in a pool.

use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::cause::Cause;
use super::connection::Connection;
use super::credentials::{Credentials, Way};
use super::dial::Dial;
use super::endpoint::Endpoint;
use super::handshake_error::HandshakeError;
use super::lock::lock;
use crate::tls::Problem;

/// How long after its pause a failed attempt says that the peer is away.
const RECENT: Duration = Duration::from_secs(5);
/// How long nobody connects anew to where somebody else was found.
const DISOWNED: Duration = Duration::from_millis(500);

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
    Connecting(Arc<Attempt>),
    Open(Connection),
    Resting {
        until: Instant,
        cause: Cause,
        /// What did not help: with others it is tried at once.
        with: Weak<Credentials>,
    },
}

/// An attempt to connect. Those who wait for it go on in the order in which they
/// came.
struct Attempt {
    /// Empty if it was given up.
    outcome: OnceLock<Outcome>,
    /// Without permits, and closed at the end.
    under_way: Semaphore,
}

/// Ends the attempt also when its task is dropped.
struct EndOnDrop(Arc<Attempt>);

impl Attempt {
    fn is_given_up(&self) -> bool {
        self.under_way.is_closed() && self.outcome.get().is_none()
    }

    async fn outcome(&self) -> Outcome {
        // There is no permit to get, only the end to wait for.
        let _ended = self.under_way.acquire().await;
        let outcome = self.outcome.get().cloned();
        outcome.unwrap_or_else(|| Err(Cause::Unreachable("the attempt was given up".to_owned())))
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

    /// The name or address in the address.
    fn host(&self) -> &str {
        let split = self.address.rsplit_once(':');
        split.map_or(&*self.address, |(host, _)| host)
    }

    /// Whether the peer could be reached last; none: nobody has tried of late.
    pub(super) fn reached(&self) -> Option<bool> {
        let state = lock(&self.state);
        match &state.phase {
            Phase::Open(connection) => connection.is_open().then_some(true),
            Phase::Connecting(_) => (state.failures > 0).then_some(false),
            Phase::Resting { until, .. } => (until.elapsed() < RECENT).then_some(false),
            Phase::Empty => None,
        }
    }

    /// The connection of the slot, or the outcome of the attempt to make one.
    pub(super) async fn connection<D: Dial>(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        dial: &Arc<D>,
    ) -> Outcome {
        match self.look(endpoint, dial) {
            Ok(attempt) => attempt.outcome().await,
            Err(outcome) => outcome,
        }
    }

    /// What is known now, or the attempt to wait for.
    fn look<D: Dial>(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        dial: &Arc<D>,
    ) -> Result<Arc<Attempt>, Outcome> {
        let mut state = lock(&self.state);
        match &state.phase {
            Phase::Open(connection) if connection.is_open() => {
                return Err(Ok(connection.clone()));
            }
            Phase::Resting { until, cause, with }
                if Instant::now() < *until
                    && with.as_ptr() == Arc::as_ptr(&endpoint.credentials.borrow()) =>
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

    /// Somebody else answers on a connection, and runs nothing that is sent there.
    pub(super) fn disown(&self, endpoint: &Endpoint, connection: &Connection, cause: &Cause) {
        self.leave(endpoint, connection, cause);
        connection.disown(cause);
    }

    /// A connection is not to be used: another one is made, from the name on, after a
    /// short pause.
    pub(super) fn leave(&self, endpoint: &Endpoint, connection: &Connection, cause: &Cause) {
        let mut state = lock(&self.state);
        if let Phase::Open(open) = &state.phase
            && open.is(connection)
        {
            state.failures = state.failures.saturating_add(1);
            state.phase = Phase::Resting {
                until: Instant::now() + DISOWNED,
                cause: cause.clone(),
                with: Arc::downgrade(&endpoint.credentials.borrow()),
            };
        }
    }

    async fn connect<D: Dial>(&self, endpoint: &Endpoint, dial: &D) -> Outcome {
        let limit = endpoint.settings.connect_timeout;
        let attempt = async {
            let mut refused = String::new();
            let credentials = Arc::clone(&endpoint.credentials.borrow());
            for way in credentials.ways() {
                let stream = dial.dial(&self.address).await;
                let stream = stream.map_err(|error| error.to_string())?;
                let wanted = Some(self.ordinal);
                let opened = match way {
                    Way::Tls => Connection::open_tls(stream, endpoint, self.host(), wanted).await,
                    Way::Plain => Connection::open(stream, endpoint, wanted).await,
                };
                match opened {
                    Ok(connection) => return Ok(connection),
                    // It does not know TLS, so it is worth going on without.
                    Err(error @ HandshakeError::Tls(Problem::Closed)) => {
                        refused = error.to_string();
                    }
                    Err(error) => return Err(error.to_string()),
                }
            }
            Err(refused)
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
                    with: Arc::downgrade(&endpoint.credentials.borrow()),
                };
                drop(state);
                tracing::debug!(peer = self.ordinal, error = %cause, ?rest, "cannot connect");
            }
        }
    }
}

/// The pause before the attempt that follows so many failures in a row.
fn pause(first: Duration, most: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    first.saturating_mul(1 << doublings).min(most)
}
