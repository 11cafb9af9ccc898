//! The cluster that this Pod is in: how many replicas its StatefulSet is to have,
//! heard from the API server, and Events told to it.
//!
//! Nothing here is waited for by a request, and nothing that fails here stops a
//! shard. Who cannot be asked now is asked again later; what was heard last goes
//! on to count.

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

/// What a shard knows of its cluster, and tells it. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Kubernetes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    place: PodIdentity,
    timing: Timing,
    standing: Standing,
    recorder: Recorder,
    metrics: Arc<Metrics>,
}

impl Kubernetes {
    /// Nothing is heard before [`Kubernetes::follow`], and nothing told before
    /// [`Kubernetes::tell`].
    pub fn new(place: PodIdentity, metrics: Arc<Metrics>) -> Self {
        Self::with(place, Timing::default(), metrics)
    }

    fn with(place: PodIdentity, timing: Timing, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Inner {
            place,
            timing,
            standing: Standing::default(),
            recorder: Recorder::new(Arc::clone(&metrics)),
            metrics,
        }))
    }

    /// How many replicas the StatefulSet is to have, as far as it is heard.
    pub fn replicas(&self) -> watch::Receiver<Replicas> {
        self.0.standing.replicas()
    }

    /// Hears how many replicas the StatefulSet is to have, for as long as the
    /// future is polled. To be run by one at a time.
    pub async fn follow(&self) {
        follower::follow(
            &self.0.place,
            &self.0.timing,
            &self.0.standing,
            &self.0.metrics,
        )
        .await;
    }

    /// Has an Event posted, if that can be; whoever says it does not wait.
    pub fn record(&self, event: Event) {
        self.0.recorder.record(event);
    }

    /// Posts Events for as long as the future is polled. To be run once.
    pub async fn tell(&self) {
        let inner = &self.0;
        inner.recorder.post(&inner.place, &inner.timing).await;
    }

    /// How it stands, for operators.
    pub fn status(&self) -> Status {
        let Inner {
            place,
            standing,
            recorder,
            ..
        } = &*self.0;
        standing.status(place, recorder.problem())
    }
}
