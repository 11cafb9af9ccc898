//! The connection to the Kubernetes cluster: the number of replicas that the StatefulSet
//! specifies, from the API server, and Events posted to it.
//!
//! No request waits for anything here, and no failure here stops a shard. A failed question is
//! asked again later; the last answer remains valid.

mod pod_identity;
mod problem;
mod server;
mod standing;
mod following;
mod follower;
mod events;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::watch;

pub use events::{Event, Kind};
pub use pod_identity::{ACCOUNT, Given, NoIdentity, PodIdentity};
pub use standing::Status;

use events::Recorder;
use follower::Timing;
use ostrakon_cluster::Replicas;
use ostrakon_observe::metrics::Metrics;
use standing::Standing;

/// A shard's connection to the Kubernetes API. Clones share it.
#[derive(Clone, Debug)]
pub struct Kubernetes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    identity: PodIdentity,
    timing: Timing,
    standing: Standing,
    recorder: Recorder,
    metrics: Arc<Metrics>,
}

impl Kubernetes {
    /// Nothing is received before [`Kubernetes::follow`] runs, and nothing posted before
    /// [`Kubernetes::tell`] runs.
    pub fn new(identity: PodIdentity, metrics: Arc<Metrics>) -> Self {
        Self::with(identity, Timing::default(), metrics)
    }

    fn with(identity: PodIdentity, timing: Timing, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Inner {
            identity,
            timing,
            standing: Standing::default(),
            recorder: Recorder::new(Arc::clone(&metrics)),
            metrics,
        }))
    }

    /// The number of replicas that the StatefulSet specifies, as far as it is known.
    pub fn replicas(&self) -> watch::Receiver<Replicas> {
        self.0.standing.replicas()
    }

    /// Follows the number of replicas for as long as the future is polled. Only one caller may run
    /// it at a time.
    pub async fn follow(&self) {
        follower::follow(
            &self.0.identity,
            &self.0.timing,
            &self.0.standing,
            &self.0.metrics,
        )
        .await;
    }

    /// Queues an Event to be posted if possible. Does not wait.
    pub fn record(&self, event: Event) {
        self.0.recorder.record(event);
    }

    /// Posts Events for as long as the future is polled. To be run once.
    pub async fn tell(&self) {
        let inner = &self.0;
        inner.recorder.post(&inner.identity, &inner.timing).await;
    }

    /// The connection's status, for operators.
    pub fn status(&self) -> Status {
        let Inner {
            identity,
            standing,
            recorder,
            ..
        } = &*self.0;
        standing.status(identity, recorder.problem())
    }
}
