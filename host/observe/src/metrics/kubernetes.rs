//! Metrics of the connection to the Kubernetes API server, if there is one.

use std::time::SystemTime;

use ostrakon_base::unix_time::unix_time;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};

use super::maybe::Maybe;

/// Metrics of the connection to the Kubernetes API server.
#[derive(Debug, Default)]
pub struct Kubernetes {
    replicas: Maybe,
    heard: Maybe<f64>,
    failures: Counter,
    events_posted: Counter,
    events_dropped: Counter,
}

impl Kubernetes {
    pub(super) fn register(&self, to: &mut Registry) {
        let help = "The StatefulSet's desired replicas, as last reported by the API server";
        to.register("statefulset_replicas", help, self.replicas.clone());
        let help = "When the API server last confirmed that number, or was first asked if it has not yet, in Unix time";
        to.register_with_unit(
            "kubernetes_heard_timestamp",
            help,
            Unit::Seconds,
            self.heard.clone(),
        );
        let help =
            "Times the API server could not be asked for that number, or did not answer with it";
        to.register("kubernetes_failures", help, self.failures.clone());
        let help = "Kubernetes Events posted";
        to.register("kubernetes_events_posted", help, self.events_posted.clone());
        let help = "Kubernetes Events that could not be posted, or exceeded the rate limit";
        to.register(
            "kubernetes_events_dropped",
            help,
            self.events_dropped.clone(),
        );
    }

    /// Sets the StatefulSet's desired replicas.
    pub fn replicas(&self, replicas: u32) {
        self.replicas.set(Some(replicas.into()));
    }

    /// Notes that the StatefulSet is followed from now on. Until the API server has answered, its
    /// silence is measured from this time, because it may be away when a shard starts.
    pub fn followed(&self) {
        self.heard();
    }

    /// Notes that the API server has just confirmed the number of replicas.
    pub fn heard(&self) {
        let now = unix_time(SystemTime::now());
        self.heard.set(Some(now.as_secs_f64()));
    }

    /// Notes that the StatefulSet is no longer followed.
    pub fn not_followed(&self) {
        self.replicas.set(None);
        self.heard.set(None);
    }

    /// Counts a failure to ask the API server, or to get the number.
    pub fn failed(&self) {
        self.failures.inc();
    }

    pub fn event_posted(&self) {
        self.events_posted.inc();
    }

    /// Counts an Event that was not posted.
    pub fn event_dropped(&self) {
        self.events_dropped.inc();
    }
}
