//! Queues Events and posts them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use k8s_openapi::api::events::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use ostrakon_base::causes::with_causes;
use ostrakon_base::unix_time::unix_time;
use ostrakon_observe::metrics::Metrics;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::super::follower::Timing;
use super::super::pod_identity::PodIdentity;
use super::super::server;
use super::series::{Decision, Series};
use super::{About, Event, shortened};

/// The most Events that wait to be posted.
const WAITING: usize = 64;
/// The most attempts to post one Event.
const TRIES: u32 = 3;
/// The reporting controller named in each Event.
const CONTROLLER: &str = "ostrakon";

/// Queues Events, and posts them while `post` runs.
#[derive(Debug)]
pub(in super::super) struct Recorder {
    send: mpsc::Sender<Event>,
    /// Locked by the running `post`.
    waiting: tokio::sync::Mutex<mpsc::Receiver<Event>>,
    /// Why Events are not posted. A std mutex, held only for a copy.
    problem: Mutex<Option<String>>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, thiserror::Error)]
enum NotPosted {
    #[error(transparent)]
    Client(#[from] kube::Error),
    #[error("the API server did not answer for {0:?}")]
    Silent(Duration),
}

impl NotPosted {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Client(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// Whether posting the same Event later may succeed.
    fn is_transient(&self) -> bool {
        // 429 and server faults are transient. With any other code the server has understood the
        // request and rejected it.
        self.code().is_none_or(|code| code == 429 || code >= 500)
    }
}

impl Recorder {
    pub(in super::super) fn new(metrics: Arc<Metrics>) -> Self {
        let (send, waiting) = mpsc::channel(WAITING);
        Self {
            send,
            waiting: tokio::sync::Mutex::new(waiting),
            problem: Mutex::default(),
            metrics,
        }
    }

    /// Queues an Event, or drops it if too many wait.
    pub(in super::super) fn record(&self, event: Event) {
        if self.send.try_send(event).is_err() {
            self.metrics.kubernetes.event_dropped();
        }
    }

    /// Why Events are not posted; `None` if they are.
    pub(in super::super) fn problem(&self) -> Option<String> {
        self.problem
            .lock()
            .expect("no holder of this lock panics")
            .clone()
    }

    /// Posts Events one after another, for as long as it is polled.
    pub(in super::super) async fn post(&self, identity: &PodIdentity, timing: &Timing) {
        let mut waiting = self.waiting.lock().await;
        let mut poster = Poster {
            identity,
            timing,
            series: Series::new(Instant::now()),
            set_uid: None,
        };
        while let Some(event) = waiting.recv().await {
            let posted = poster.try_some_times(&event).await;
            self.note(posted);
        }
    }

    fn note(&self, posted: Result<bool, NotPosted>) {
        let metrics = &self.metrics.kubernetes;
        match &posted {
            Ok(true) => metrics.event_posted(),
            Ok(false) | Err(_) => metrics.event_dropped(),
        }
        let problem = match posted {
            Ok(_) => None,
            Err(error) if error.code() == Some(403) => Some(format!(
                "{}: give this Pod's ServiceAccount a Role that allows it to create and patch events.events.k8s.io, or do without Events",
                with_causes(&error)
            )),
            Err(error) => Some(with_causes(&error)),
        };
        let mut known = self.problem.lock().expect("no holder of this lock panics");
        if let Some(problem) = &problem
            && known.is_none()
        {
            tracing::warn!(%problem, "Events are not posted");
        }
        *known = problem;
    }
}

/// Posts Events, and remembers the posted ones.
struct Poster<'a> {
    identity: &'a PodIdentity,
    timing: &'a Timing,
    series: Series,
    /// Distinguishes the StatefulSet from earlier ones of its name. Known once it has been looked
    /// up.
    set_uid: Option<String>,
}

impl Poster<'_> {
    /// Returns false if the Event exceeded the rate limit and was not posted.
    async fn try_some_times(&mut self, event: &Event) -> Result<bool, NotPosted> {
        let mut decision = self.series.decide(event, Instant::now());
        let mut tries = 0;
        loop {
            tries += 1;
            let most = self.timing.answer;
            let tried = timeout(most, self.once(event, &decision)).await;
            let tried = tried.unwrap_or(Err(NotPosted::Silent(most)));
            match tried {
                Err(error)
                    if error.code() == Some(404) && matches!(decision, Decision::Count(..)) =>
                {
                    // The Event that this one repeats is too old and has been deleted.
                    self.series.forget(event);
                    decision = Decision::Post;
                }
                Err(error) if error.is_transient() && tries < TRIES => {
                    sleep(self.timing.wait(tries, fastrand::u32(..))).await;
                }
                tried => return tried,
            }
        }
    }

    async fn once(&mut self, event: &Event, decision: &Decision) -> Result<bool, NotPosted> {
        if *decision == Decision::Drop {
            return Ok(false);
        }
        let client = server::client(self.identity, self.timing.answer)?;
        let events: Api<api::Event> = Api::namespaced(client.clone(), &self.identity.namespace);
        let now = MicroTime(Timestamp::now());
        if let Decision::Count(name, count) = decision {
            let series = json!({ "series": { "count": count, "lastObservedTime": now } });
            let patch = Patch::Merge(series);
            events.patch(name, &PatchParams::default(), &patch).await?;
            return Ok(true);
        }
        if event.kind.about() == About::StatefulSet && self.set_uid.is_none() {
            self.set_uid = self.uid_of_the_set(client).await;
        }
        let name = name(&self.identity.pod);
        let new = api::Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(self.identity.namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(now),
            type_: Some(event.kind.severity().to_owned()),
            reason: Some(event.kind.reason().to_owned()),
            action: Some(event.kind.action().to_owned()),
            note: Some(shortened(&event.note)),
            regarding: Some(event.kind.regarding(self.identity, self.set_uid.clone())),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.identity.pod.clone()),
            ..api::Event::default()
        };
        events.create(&PostParams::default(), &new).await?;
        self.series.posted(event.clone(), name, Instant::now());
        Ok(true)
    }

    /// `kubectl describe` shows only Events that name the object's uid. Without it, an Event
    /// appears only in the list of all Events.
    async fn uid_of_the_set(&self, client: kube::Client) -> Option<String> {
        let wanted = ListParams::default().fields(&server::selector(self.identity));
        let sets = server::stateful_sets(client, self.identity);
        let sets = sets.list(&wanted).await.ok()?;
        sets.items.first()?.uid()
    }
}

/// A unique name for an Event: the Pod's name, and the time in nanoseconds.
fn name(pod: &str) -> String {
    format!("{pod}.{:x}", unix_time(SystemTime::now()).as_nanos())
}
