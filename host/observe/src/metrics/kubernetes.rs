//! What is measured of the API server, where there is one.

use std::time::SystemTime;

use ostrakon_base::unix_time::unix_time;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};

use super::maybe::Maybe;

/// What is measured of the API server.
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
        let help = "How many replicas the StatefulSet is to have, as last heard";
        to.register("statefulset_replicas", help, self.replicas.clone());
        let help = "When the API server last confirmed that number or, until it has, was first asked, in Unix time";
        to.register_with_unit(
            "kubernetes_heard_timestamp",
            help,
            Unit::Seconds,
            self.heard.clone(),
        );
        let help = "Times the API server could not be asked for that number, or did not say it";
        to.register("kubernetes_failures", help, self.failures.clone());
        let help = "Kubernetes Events posted";
        to.register("kubernetes_events_posted", help, self.events_posted.clone());
        let help = "Kubernetes Events that could not be posted, or were too many";
        to.register(
            "kubernetes_events_dropped",
            help,
            self.events_dropped.clone(),
        );
    }

    /// The StatefulSet is to have so many replicas.
    pub fn replicas(&self, replicas: u32) {
        self.replicas.set(Some(replicas.into()));
    }

    /// It is followed from now on. Until the API server has said anything, the time since when it
    /// has not counts from here: it may be away when a shard starts.
    pub fn followed(&self) {
        self.heard();
    }

    /// The API server confirmed what is known of it, just now.
    pub fn heard(&self) {
        let now = unix_time(SystemTime::now());
        self.heard.set(Some(now.as_secs_f64()));
    }

    /// It is not followed any more.
    pub fn not_followed(&self) {
        self.replicas.set(None);
        self.heard.set(None);
    }

    /// It could not be asked, or did not say it.
    pub fn failed(&self) {
        self.failures.inc();
    }

    /// An Event was posted.
    pub fn event_posted(&self) {
        self.events_posted.inc();
    }

    /// An Event was not posted.
    pub fn event_dropped(&self) {
        self.events_dropped.inc();
    }
}
