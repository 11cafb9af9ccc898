//! The current tokens and certificates of the ports, from the Secret.
//!
//! A port's credentials are made of some of the Secret's keys as a whole. If these cannot be
//! used together, none are used, and the credentials from before stay in force.

mod clients;
mod operators;
mod peers;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

pub(crate) use clients::ClientsError;
pub(super) use clients::ClientsPort;
pub(crate) use operators::OperatorsError;
pub(super) use operators::OperatorsPort;
pub(crate) use peers::PeersError;
pub(super) use peers::PeersPort;

use ostrakon_base::unix_time::unix_time;
use ostrakon_network::tls::{Pair, PairError};
use ostrakon_observe::metrics::{Guarded, Label as _, Metrics};
use ostrakon_volumes::secrets::{Secret, Secrets};

/// How often refused credentials are checked again: a certificate becomes valid without any
/// change of the Secret.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A port, and how its credentials are made of the Secret.
pub(super) trait Port: Send + Sync + 'static {
    /// The port's credentials.
    type Made: Send + Sync + 'static;
    type Error: Error + Send + Sync + 'static;

    const NAME: Guarded;
    /// The Secret's keys for this port.
    const KEYS: &'static [&'static str];

    /// Makes credentials of the values, if they may be used from now on; `before` is in force.
    fn make(
        &self,
        values: &Values,
        before: Option<&Self::Made>,
        now: SystemTime,
    ) -> Result<Self::Made, Self::Error>;

    /// Has the port use these credentials from now on.
    fn put_in_force(&self, made: &Arc<Self::Made>);

    /// The credentials' part of `/status`.
    fn status(made: &Self::Made) -> Value;

    /// The certificate that the port presents; `None` without TLS.
    fn pair(made: &Self::Made) -> Option<&Pair>;
}

/// The values of a port's keys at one moment, including empty ones.
pub(super) struct Values(BTreeMap<&'static str, Secret>);

impl Values {
    fn of<P: Port>(secrets: &Secrets) -> Self {
        Self(secrets.get_together(P::KEYS))
    }

    fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(Secret::reveal)
    }

    fn are_those_of(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().all(|(key, value)| {
                let other = other.0.get(key);
                other.is_some_and(|other| other.reveal() == value.reveal())
            })
    }
}

/// A port's credentials, which follow the Secret. Clones share them.
pub(super) struct Credentials<P: Port> {
    shared: Arc<Shared<P>>,
}

struct Shared<P: Port> {
    port: P,
    secrets: Secrets,
    metrics: Arc<Metrics>,
    current: ArcSwap<P::Made>,
    problem: ArcSwapOption<P::Error>,
}

impl<P: Port> Clone for Credentials<P> {
    fn clone(&self) -> Self {
        let shared = Arc::clone(&self.shared);
        Self { shared }
    }
}

impl<P: Port> Credentials<P> {
    /// The first credentials, and the task that follows the Secret.
    ///
    /// # Errors
    /// When the Secret's keys cannot be used.
    pub(super) fn start(
        port: P,
        secrets: &Secrets,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, P::Error> {
        // Subscribes before reading, so that no change is missed.
        let changes = secrets.changes();
        let values = Values::of::<P>(secrets);
        let first = port.make(&values, None, SystemTime::now())?;
        let shared = Arc::new(Shared {
            port,
            secrets: secrets.clone(),
            metrics: Arc::clone(metrics),
            current: ArcSwap::from_pointee(first),
            problem: ArcSwapOption::empty(),
        });
        shared.put_in_force(&shared.current.load_full());
        tokio::spawn(Arc::clone(&shared).follow(values, changes));
        Ok(Self { shared })
    }

    pub(super) fn current(&self) -> arc_swap::Guard<Arc<P::Made>> {
        self.shared.current.load()
    }

    pub(super) fn port(&self) -> &P {
        &self.shared.port
    }

    /// The credentials' part of `/status`.
    pub(super) fn status(&self) -> Value {
        let current = self.current();
        let pair = P::pair(&current);
        let refused = self.shared.problem.load_full();
        let refused = refused.map(|error| error.to_string());
        // The certificate in force may have expired since.
        let aged = pair.and_then(|pair| pair.check(SystemTime::now()).err());
        let mut status = P::status(&current);
        status["problem"] = json!(refused.or_else(|| aged.as_ref().map(aged_in_force)));
        if let Some(pair) = pair {
            status["certificate_expires"] = json!(unix_time(pair.expires()).as_secs_f64());
            status["certificate_days_left"] = json!(days_left(pair.expires()));
        }
        status
    }
}

impl<P: Port> Shared<P> {
    async fn follow(self: Arc<Self>, mut seen: Values, mut changes: watch::Receiver<()>) {
        loop {
            let refused = self.problem.load().is_some();
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
                () = sleep(LOOK_EVERY), if refused => {}
            }
            let values = Values::of::<P>(&self.secrets);
            let is_new = !values.are_those_of(&seen);
            // A change of the Secret may concern only other keys.
            if is_new || refused {
                self.take(&values, is_new);
                seen = values;
            }
        }
    }

    /// Adopts the values as a whole, or not at all.
    fn take(&self, values: &Values, is_new: bool) {
        let before = self.current.load_full();
        let made = self.port.make(values, Some(&before), SystemTime::now());
        let refused = made.is_err();
        match made {
            Ok(made) => {
                let made = Arc::new(made);
                self.current.store(Arc::clone(&made));
                self.problem.store(None);
                self.put_in_force(&made);
                self.metrics.credentials_taken(P::NAME);
            }
            Err(error) => {
                let listener = listener::<P>();
                if is_new {
                    tracing::warn!(%error, listener, "credentials refused, the old ones stay in force");
                }
                self.problem.store(Some(Arc::new(error)));
                if is_new {
                    self.metrics.credentials_refused(P::NAME);
                }
            }
        }
        self.metrics.credentials_are_refused(P::NAME, refused);
    }

    fn put_in_force(&self, made: &Arc<P::Made>) {
        self.port.put_in_force(made);
        let expires = P::pair(made).map(|pair| unix_time(pair.expires()).as_secs_f64());
        self.metrics.certificate_expires(P::NAME, expires);
        let in_force = P::status(made);
        tracing::info!(listener = listener::<P>(), %in_force, certificate_expires = expires, "credentials");
    }
}

/// The port's name in metrics and in the log.
fn listener<P: Port>() -> &'static str {
    Guarded::VALUES[P::NAME.index()]
}

fn aged_in_force(error: &PairError) -> String {
    format!("the certificate in force cannot be used any more: {error}")
}

/// The whole days until a time; negative if it has passed.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a time has fewer days than an i64"
)]
fn days_left(until: SystemTime) -> i64 {
    let [until, now] = [until, SystemTime::now()].map(unix_time);
    let seconds = until.as_secs_f64() - now.as_secs_f64();
    (seconds / 86_400.0).floor() as i64
}
