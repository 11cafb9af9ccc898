//! This shard's part in the Kubernetes cluster: when it follows the StatefulSet, and which
//! Events it posts.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ostrakon_cluster::{Cluster, Missing};
use ostrakon_kubernetes::{Event, Kind, Kubernetes};
use ostrakon_protocol::{Ordinal, Plan};
use ostrakon_settings::settings::{Settings, Topology};
use ostrakon_shard::rehearsal::Findings;
use ostrakon_shard::swap::Status;
use ostrakon_shard::writer::Writer;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::baking::Baking;
use crate::drain::Drain;

/// How often the plan is checked for Events. The writer, which changes the plan, sends no
/// notification.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often to check whether shards are missing or writes refused, and which step a generation is in.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// How often an Event is repeated while its cause lasts: Kubernetes forgets an Event after an
/// hour.
const SAY_EVERY: Duration = Duration::from_mins(9);

/// The state that it works from. Clones share it.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) kubernetes: Kubernetes,
    pub(super) ordinal: u32,
    pub(super) settings: Arc<ArcSwap<Settings>>,
    pub(super) swap: watch::Receiver<Status>,
    pub(super) writer: Writer,
    pub(super) drain: Drain,
    /// `None` where the shard is alone.
    pub(super) cluster: Option<Cluster>,
    pub(super) baking: Baking,
}

impl Part {
    /// Starts the tasks that run until the process ends.
    pub(super) fn start(self) {
        let telling = self.kubernetes.clone();
        tokio::spawn(async move { telling.tell().await });
        if Ordinal(self.ordinal) == Ordinal::COORDINATOR {
            tokio::spawn(self.clone().see_plans());
            tokio::spawn(self.clone().see_steps());
            if let Some(cluster) = self.cluster.clone() {
                tokio::spawn(self.clone().see_missing(cluster.clone()));
                tokio::spawn(self.clone().see_rollouts(cluster));
            }
        }
        tokio::spawn(self.clone().see_swaps());
        tokio::spawn(self.clone().see_the_store());
        tokio::spawn(self.follow());
    }

    /// Follows the StatefulSet while the settings say so: the coordinator, which begins the
    /// changes, all the time; any other shard only when it is told to end, to know whether it
    /// leaves.
    async fn follow(mut self) {
        if Ordinal(self.ordinal) != Ordinal::COORDINATOR {
            self.drain.begun().await;
        }
        loop {
            self.until_topology_is(Topology::StatefulSet).await;
            let kubernetes = self.kubernetes.clone();
            tokio::select! {
                biased;
                () = self.until_topology_is(Topology::Settings) => {}
                () = kubernetes.follow() => {}
            }
        }
    }

    async fn until_topology_is(&mut self, topology: Topology) {
        loop {
            let is_live = self.swap.borrow_and_update().live.is_some();
            if is_live && self.settings.load().cluster.topology == topology {
                return;
            }
            if self.swap.changed().await.is_err() {
                // Nothing changes any more: the process ends.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn see_swaps(mut self) {
        let mut before = self.swap.borrow_and_update().clone();
        while self.swap.changed().await.is_ok() {
            let now = self.swap.borrow_and_update().clone();
            for event in of_swaps(&before, &now) {
                self.kubernetes.record(event);
            }
            if now.live != before.live
                && let Some(found) = self.writer.stage().findings()
                && now.live.as_ref().map(|live| live.digest) == Some(found.candidate)
                && let Some(event) = of_rehearsal(&found)
            {
                self.kubernetes.record(event);
            }
            before = now;
        }
    }

    async fn see_missing(self, cluster: Cluster) {
        self.see_trouble(|| cluster.missing(), of_missing).await;
    }

    async fn see_rollouts(self, cluster: Cluster) {
        self.see_trouble(|| cluster.rollout_waits_for(), of_rollouts)
            .await;
    }

    async fn see_the_store(self) {
        self.see_trouble(|| self.writer.writes_problem(), of_writes)
            .await;
    }

    /// Posts an Event when a trouble begins, changes or ends, and repeatedly while it lasts.
    /// `event` gets whether there was trouble before, and the current trouble.
    async fn see_trouble<T: PartialEq>(
        &self,
        look: impl Fn() -> Option<T>,
        event: impl Fn(bool, Option<&T>) -> Option<Event>,
    ) {
        let mut looks = interval(COUNT_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before: Option<(T, Instant)> = None;
        loop {
            looks.tick().await;
            let now = look();
            let known = before
                .as_ref()
                .filter(|(_, said)| said.elapsed() < SAY_EVERY);
            let is_news = before.is_some() != now.is_some();
            if is_news || known.map(|(trouble, _)| trouble) != now.as_ref() {
                if let Some(event) = event(before.is_some(), now.as_ref()) {
                    self.kubernetes.record(event);
                }
                before = now.map(|trouble| (trouble, Instant::now()));
            }
        }
    }

    async fn see_steps(self) {
        let mut looks = interval(COUNT_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut step, mut back) = (None, None);
        loop {
            looks.tick().await;
            let (now, went) = (self.baking.step(), self.baking.went_back());
            if let Some(now) = now.filter(|now| step.as_ref() != Some(now)) {
                let (generation, share) = now;
                let percent = f64::from(share) / 10_000.0;
                self.kubernetes.record(Event {
                    kind: Kind::RolloutStep,
                    note: format!("generation {generation} serves {percent}% of the partitions"),
                });
                step = Some(now);
            }
            if went != back {
                let note = went.as_ref().map(ToString::to_string);
                if let Some(note) = note {
                    let kind = Kind::WentBack;
                    self.kubernetes.record(Event { kind, note });
                }
                back = went;
            }
        }
    }

    async fn see_plans(self) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before: Option<Plan> = None;
        loop {
            looks.tick().await;
            let view = self.writer.views().get();
            let membership = view.as_ref().and_then(|view| view.membership.as_ref());
            let Some(now) = membership.and_then(|membership| membership.shard.plan()) else {
                continue;
            };
            if let Some(before) = &before {
                for event in of_plans(before, now) {
                    self.kubernetes.record(event);
                }
            }
            if before.as_ref() != Some(now) {
                before = Some(now.clone());
            }
        }
    }
}

/// The Events for the difference between two statuses of the swaps. A process's first
/// generation is not one: each start would repeat it. A refusal that ends with a swap needs no
/// Event other than the swap's.
fn of_swaps(before: &Status, now: &Status) -> Vec<Event> {
    let mut events = Vec::new();
    if let Some(refused) = &now.refused
        && before.refused.as_ref() != Some(refused)
    {
        events.push(Event {
            kind: Kind::SwapRefused,
            note: format!(
                "the ConfigMap's content is refused, at the step {}: {}",
                refused.step.name(),
                refused.reason
            ),
        });
    }
    if let (Some(was), Some(live)) = (&before.live, &now.live)
        && was != live
    {
        let (generation, name, version) = (live.generation, &live.name, &live.version);
        events.push(Event {
            kind: Kind::GenerationLive,
            note: format!("generation {generation} is live: {name} {version}"),
        });
    } else if let (Some(_), None, Some(live)) = (&before.refused, &now.refused, &now.live) {
        events.push(Event {
            kind: Kind::SwapRefusalEnded,
            note: format!(
                "the ConfigMap's content is no longer refused: it is that of generation {}, which is live",
                live.generation
            ),
        });
    }
    events
}

/// How many times as long a request takes that is to be told.
const SLOWER: u64 = 2;

/// The Event for a generation that went live after this rehearsal. It has no data in it.
fn of_rehearsal(found: &Findings) -> Option<Event> {
    let (differ, requests) = (found.differ, found.requests);
    let mut told = Vec::new();
    if differ > 0 {
        told.push(format!(
            "{differ} of {requests} live requests are answered or written differently"
        ));
    }
    if found.candidate_us >= SLOWER * found.live_us.max(1) {
        told.push(format!(
            "a request takes {} us, and took {} us",
            found.candidate_us, found.live_us
        ));
    }
    (!told.is_empty()).then(|| Event {
        kind: Kind::RehearsalDiffers,
        note: format!(
            "the new generation is live, and in its rehearsal {}; see rehearsal in /status",
            told.join("; ")
        ),
    })
}

/// The Event for the shards that are missing now; `were` says whether any were missing before.
fn of_missing(were: bool, now: Option<&Missing>) -> Option<Event> {
    match now {
        Some(missing) => Some(Event {
            kind: Kind::ShardsMissing,
            note: missing.to_string(),
        }),
        None => were.then(|| Event {
            kind: Kind::ShardsBack,
            note: "all shards that have data run".to_owned(),
        }),
    }
}

/// The Event for a generation that waits for shards; `was` says whether one did before.
fn of_rollouts(was: bool, now: Option<&String>) -> Option<Event> {
    match now {
        Some(why) => Some(Event {
            kind: Kind::RolloutWaits,
            note: why.clone(),
        }),
        None => was.then(|| Event {
            kind: Kind::RolloutGoesOn,
            note: "no generation waits any longer to go live in all shards".to_owned(),
        }),
    }
}

/// The Event for refused writes; `were` says whether writes were refused before.
fn of_writes(were: bool, now: Option<&String>) -> Option<Event> {
    match now {
        Some(why) => Some(Event {
            kind: Kind::WritesRefused,
            note: format!("writes are refused: {why}"),
        }),
        None => were.then(|| Event {
            kind: Kind::WritesResumed,
            note: "writes are stored again".to_owned(),
        }),
    }
}

/// The Events for the difference between two plans. A change can begin and end between them.
fn of_plans(before: &Plan, now: &Plan) -> Vec<Event> {
    let mut events = Vec::new();
    if now.epoch <= before.epoch {
        return events;
    }
    if !now.is_stable() || before.is_stable() {
        let (from, to) = (before.to.shards, now.to.shards);
        let note = if from == to {
            let sharding = now.to.sharding;
            format!("partitions move among {to} shards, to where sharding {sharding} places them")
        } else {
            format!("partitions move from {from} shards to {to}")
        };
        let kind = Kind::ReshardingStarted;
        events.push(Event { kind, note });
    }
    if now.is_stable() {
        let shards = now.to.shards;
        let note = format!("all partitions are where they belong, in {shards} shards");
        let kind = Kind::ReshardingDone;
        events.push(Event { kind, note });
    }
    events
}

#[cfg(test)]
mod tests;
