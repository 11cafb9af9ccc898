//! The last known state, for its users and for operators.

use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use ostrakon_base::unix_time::unix_time;
use ostrakon_cluster::Replicas;
use ostrakon_observe::metrics::Metrics;
use serde::Serialize;
use tokio::sync::watch;

use super::following::Following;
use super::pod_identity::PodIdentity;

/// The last known state.
#[derive(Debug, Default)]
pub(super) struct Standing {
    replicas: watch::Sender<Replicas>,
    /// A std mutex, held only for a copy.
    told: Mutex<Told>,
}

#[derive(Clone, Debug, Default)]
struct Told {
    is_followed: bool,
    number: Option<u32>,
    heard: Option<SystemTime>,
    problem: Option<String>,
}

/// The state of a shard's connection to the API server.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    pub namespace: String,
    pub statefulset: String,
    /// Whether this shard follows the number of replicas now.
    pub followed: bool,
    /// The number of replicas, as far as it is known.
    pub replicas: Option<u32>,
    /// When the API server last reported the number or confirmed it by silence, in Unix time.
    pub heard: Option<f64>,
    /// Why the number is unknown or cannot be used.
    pub problem: Option<String>,
    /// Why Events are not posted; `None` if they are.
    pub events_problem: Option<String>,
}

impl Standing {
    pub(super) fn replicas(&self) -> watch::Receiver<Replicas> {
        self.replicas.subscribe()
    }

    /// Marks the StatefulSet as followed until the returned guard is dropped.
    pub(super) fn followed<'a>(&'a self, metrics: &'a Metrics) -> Followed<'a> {
        *self.told() = Told {
            is_followed: true,
            ..Told::default()
        };
        metrics.kubernetes.followed();
        Followed {
            standing: self,
            metrics,
        }
    }

    /// Records the state after an answer.
    pub(super) fn note(&self, following: &Following) {
        let mut told = self.told();
        told.problem = following.problem().map(ToString::to_string);
        if let Some(number) = following.replicas().number() {
            told.number = Some(number);
        }
        if following.has_heard() {
            told.heard = Some(SystemTime::now());
        }
        drop(told);
        self.replicas.send_if_modified(|replicas| {
            let is_other = *replicas != following.replicas();
            *replicas = following.replicas();
            is_other
        });
    }

    pub(super) fn status(&self, identity: &PodIdentity, events_problem: Option<String>) -> Status {
        let told = self.told().clone();
        Status {
            namespace: identity.namespace.clone(),
            statefulset: identity.stateful_set.clone(),
            followed: told.is_followed,
            replicas: told.number,
            heard: told.heard.map(|heard| unix_time(heard).as_secs_f64()),
            problem: told.problem,
            events_problem,
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().expect("no holder of this lock panics")
    }
}

/// Marks the StatefulSet as followed while it exists.
pub(super) struct Followed<'a> {
    standing: &'a Standing,
    metrics: &'a Metrics,
}

impl Drop for Followed<'_> {
    fn drop(&mut self) {
        *self.standing.told() = Told::default();
        self.metrics.kubernetes.not_followed();
        // Last, because receivers then look at the other fields.
        self.standing.replicas.send_replace(Replicas::NotHeard);
    }
}
