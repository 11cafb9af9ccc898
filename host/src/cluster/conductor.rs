//! What a shard does by itself: learning the plan, giving its partitions away,
//! and, as the coordinator, beginning and ending changes.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::Cluster;
use super::message::{Ask, Said};
use crate::lane::{Change, ChangeError, Changed, Place, View};
use crate::topology::{Cursor, Ordinal, Placement, Plan};

/// How often a shard looks whether there is something to do.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often it asks others for their plan when nothing moves.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long a coordinator without a plan asks whether others have one.
const BOOTSTRAP: Duration = Duration::from_secs(3);
/// Batches that are kept ready for each receiver, beyond the one under way.
const AHEAD: usize = 2;

impl Cluster {
    /// Conducts until shutdown. What cannot be done now is tried again.
    pub(super) async fn conduct(self, mut shutdown: watch::Receiver<bool>) {
        let began = Instant::now();
        let mut asked = None::<Instant>;
        while !*shutdown.borrow_and_update() && self.0.stopped.borrow().is_none() {
            if asked.is_none_or(|asked| asked.elapsed() >= ASK_EVERY) {
                asked = Some(Instant::now());
                self.ask_others().await;
            }
            match self.conduct_once(began).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "conducting goes on later"),
            }
            let news = timeout(LOOK_EVERY, self.0.news.notified());
            tokio::select! {
                _ = shutdown.changed() => {}
                _ = news => {}
            }
        }
    }

    /// Does what there is to do now; says whether there is more.
    async fn conduct_once(&self, began: Instant) -> Result<bool, ChangeError> {
        let Some(view) = self.0.lane.views().get() else {
            return Ok(false);
        };
        let Some(place) = &view.place else {
            return Ok(false);
        };
        let Some(plan) = place.shard.plan() else {
            if self.0.me == Ordinal::COORDINATOR && began.elapsed() >= BOOTSTRAP {
                self.learn(Plan::first(desired(&view))).await?;
                return Ok(true);
            }
            return Ok(false);
        };
        if place.owners.is_none() {
            // After a start: the plan is known, its guests are not.
            let owners = self.owners(plan).await?;
            self.change(Change::Learn(plan.clone(), owners)).await?;
            return Ok(true);
        }
        let mut more = false;
        if self.0.me == Ordinal::COORDINATOR {
            self.coordinator().desire(desired(&view));
            let next = self.coordinator().next(plan);
            if let Some(next) = next {
                tracing::info!(
                    epoch = next.epoch.0,
                    from = next.from.shards,
                    to = next.to.shards,
                    stable = next.is_stable(),
                    "topology"
                );
                self.learn(next).await?;
                self.tell_all();
                return Ok(true);
            }
        }
        more |= self.give(&view, place).await?;
        if let Some(epoch) = place.shard.is_done() {
            if self.0.me == Ordinal::COORDINATOR {
                self.coordinator().done(self.0.me, epoch);
            } else if let Ok(Said::Plan(Some(plan))) =
                self.ask(Ordinal::COORDINATOR, &Ask::Done(epoch)).await
            {
                self.learn(plan).await?;
            }
        }
        Ok(more)
    }

    /// Takes a step, or sends what there is to send; says whether there is more.
    async fn give(&self, view: &View, place: &Place) -> Result<bool, ChangeError> {
        let kept = place.shard.outboxes().map(|(_, kept)| kept.len()).max();
        if place.shard.may_step() && kept.unwrap_or(0) <= AHEAD {
            let stepped = self.change(Change::Step).await?;
            return Ok(matches!(
                stepped,
                Changed::Stepped(Cursor::Through(_) | Cursor::End)
            ));
        }
        let Some(schema) = self.0.lane.schema() else {
            return Ok(false);
        };
        let Some(plan) = place.shard.plan() else {
            return Ok(false);
        };
        let mut given = false;
        for (to, kept) in place.shard.outboxes() {
            let Some(range) = kept.front() else {
                continue;
            };
            let store = self.0.endpoint.identity.store;
            let ask = Ask::Receive {
                plan: plan.clone(),
                batch: place.shard.envelope(to, range, store),
                schema,
                entries: place.contents(&view.snapshot, to, range).await?,
            };
            match self.ask(to, &ask).await {
                Ok(Said::Acknowledged(number)) => {
                    self.change(Change::Acknowledged(to, number)).await?;
                    given = true;
                }
                Ok(Said::Later(why)) => tracing::debug!(shard = to.0, why, "a batch waits"),
                Ok(_) => {}
                Err(error) => tracing::debug!(shard = to.0, %error, "a batch waits"),
            }
        }
        if !given && place.shard.outboxes().next().is_some() {
            sleep(LOOK_EVERY).await;
        }
        Ok(given)
    }

    /// Asks for a newer plan: the coordinator, or, where this is it and has
    /// none, everybody.
    async fn ask_others(&self) {
        if self.0.me != Ordinal::COORDINATOR {
            if let Ok(Said::Plan(Some(plan))) = self.ask(Ordinal::COORDINATOR, &Ask::Plan).await {
                self.learned(plan).await;
            }
            return;
        }
        if self.plan().is_some() {
            self.tell_all();
            return;
        }
        let shards = self
            .0
            .lane
            .views()
            .get()
            .map_or(1, |view| desired(&view).shards);
        for shard in (1..shards).map(Ordinal) {
            let asked = timeout(ASK_EVERY, self.ask(shard, &Ask::Plan)).await;
            if let Ok(Ok(Said::Plan(Some(plan)))) = asked {
                self.learned(plan).await;
            }
        }
    }

    /// Tells the coordinator's plan to all that it is about.
    fn tell_all(&self) {
        let Some(plan) = self.plan() else {
            return;
        };
        for shard in (1..plan.shards()).map(Ordinal) {
            let (cluster, plan) = (self.clone(), plan.clone());
            // Whoever is away asks by itself when it is back.
            drop(tokio::spawn(async move {
                let learn = Ask::Learn(plan);
                let told = timeout(ASK_EVERY, cluster.ask(shard, &learn)).await;
                if let Ok(Err(error)) = told {
                    tracing::debug!(shard = shard.0, %error, "the plan was not told");
                }
            }));
        }
    }

    async fn learned(&self, plan: Plan) {
        if let Err(error) = self.learn(plan).await {
            tracing::debug!(%error, "a plan is learned later");
        }
    }
}

/// Where partitions are to be, by what is live here.
fn desired(view: &View) -> Placement {
    Placement {
        shards: view.guest.settings().cluster.shards,
        owner: view.digest,
        sharding: view.guest.description().sharding,
    }
}
