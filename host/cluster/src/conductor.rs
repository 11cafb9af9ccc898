//! The conductor: a shard's own initiative. It learns the plan, gives partitions away, and, as
//! the coordinator, begins and ends changes.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use ostrakon_protocol::{ClusterId, Ordinal, Placement, Plan};
use ostrakon_shard::writer::{Change, ChangeError, Membership, View};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::giving::AHEAD;
use super::message::{PeerRequest, PeerResponse};
use super::{AskError, Cluster, until_down};

/// How often a shard looks for work.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often it asks others for their plan.
pub(super) const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often it logs that it has learned of no plan.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// How many shards of a change are asked at once.
pub(super) const LOOKED_FOR: usize = 32;

/// A shard's own work, in one task.
pub(super) struct Conductor {
    cluster: Cluster,
    asked: Option<Instant>,
    /// The peer that was looked for last.
    turn: u32,
    /// When the shards of a change were last asked.
    looked: Option<Instant>,
    /// When the log last said why there is no plan here.
    complained: Instant,
    /// The task that makes this process known; at most one runs.
    acquainting: Option<JoinHandle<()>>,
    /// The shards to which a task is sending batches.
    receivers: BTreeSet<Ordinal>,
    sending: JoinSet<Ordinal>,
}

impl Conductor {
    pub(super) fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            asked: None,
            turn: 0,
            looked: None,
            complained: Instant::now(),
            acquainting: None,
            receivers: BTreeSet::new(),
            sending: JoinSet::new(),
        }
    }

    /// Conducts until shutdown, once a generation is live. Work that fails is tried again.
    pub(super) async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let cluster = self.cluster.clone();
        tokio::select! {
            biased;
            () = until_down(&mut shutdown) => return,
            () = cluster.until_live() => {}
        }
        while !*shutdown.borrow_and_update() && self.cluster.0.stopped.borrow().is_none() {
            if self.asked.is_none_or(|asked| asked.elapsed() >= ASK_EVERY) {
                self.asked = Some(Instant::now());
                self.acquaint();
                self.ask_others().await;
            }
            match self.once().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "work that failed is tried again"),
            }
            tokio::select! {
                biased;
                _ = shutdown.changed() => {}
                () = self.cluster.0.news.notified() => {}
                Some(sent) = self.sending.join_next() => {
                    self.receivers.remove(&sent.expect("sending does not panic"));
                }
                () = sleep(self.cluster.0.writer.rest().unwrap_or(LOOK_EVERY).min(LOOK_EVERY)) => {}
            }
        }
    }

    /// Does the work that can be done now, and returns whether there is more.
    async fn once(&mut self) -> Result<bool, ChangeError> {
        let cluster = self.cluster.clone();
        let Some(view) = cluster.0.writer.views().get() else {
            return Ok(false);
        };
        let Some(membership) = &view.membership else {
            return Ok(false);
        };
        let is_coordinator = cluster.0.me == Ordinal::COORDINATOR;
        let Some(plan) = membership.shard.plan() else {
            return match cluster.desired(&view, None) {
                Some(desired) if is_coordinator => self.begin(&view, desired).await,
                _ => Ok(false),
            };
        };
        if membership.owners.is_none() {
            // After a start the plan is known, but its guests are not.
            let owners = cluster.owners(plan).await?;
            cluster.change(Change::Learn(plan.clone(), owners)).await?;
            return Ok(true);
        }
        if is_coordinator {
            if let Some(desired) = cluster.desired(&view, Some(plan)) {
                cluster.coordinator().desire(desired);
            }
            let change = cluster.coordinator().change(plan);
            let lacking = match &change {
                Some(change) => self.lacking(plan, change).await,
                None => Vec::new(),
            };
            let first_lacking = lacking.first().copied();
            if let (true, Some(first)) = (cluster.await_shards(lacking), first_lacking) {
                tracing::warn!(
                    shards = plan.to.shards,
                    wanted = change.map_or(0, |change| change.to.shards),
                    first_lacking = first.0,
                    "the change begins when all its shards can be asked: start the missing ones, or set the number of shards back"
                );
            }
            let next = cluster.coordinator().next(plan);
            if let Some(next) = next.filter(|_| first_lacking.is_none()) {
                tracing::info!(
                    epoch = next.epoch.0,
                    from = next.from.shards,
                    to = next.to.shards,
                    stable = next.is_stable(),
                    "topology"
                );
                cluster.learn(next).await?;
                self.tell_all();
                return Ok(true);
            }
        }
        self.send(membership);
        let stepped = self.step(membership).await?;
        if let Some(epoch) = membership.shard.is_done() {
            if is_coordinator {
                cluster.coordinator().done(cluster.0.me, epoch);
                return Ok(cluster.coordinator().next(plan).is_some());
            }
            let done = PeerRequest::Done {
                epoch,
                progress: cluster.source(),
            };
            let asked = cluster.ask(Ordinal::COORDINATOR, &done);
            if let Ok(Ok(PeerResponse::Plan { plan: Some(plan) })) = timeout(ASK_EVERY, asked).await
            {
                cluster.learn(plan).await?;
            }
        }
        Ok(stepped)
    }

    /// Has batches sent to each shard that is to receive any.
    fn send(&mut self, membership: &Membership) {
        for (to, _) in membership.shard.outboxes() {
            if self.receivers.insert(to) {
                let cluster = self.cluster.clone();
                self.sending.spawn(async move {
                    let sent = cluster.send_to(to).await;
                    let why_not = sent.err().map(|error| error.to_string());
                    cluster.note_takes(to, why_not.as_deref());
                    if let Some(why) = why_not {
                        tracing::debug!(peer = to.0, why, "a batch waits");
                        sleep(LOOK_EVERY).await;
                    }
                    to
                });
            }
        }
    }

    /// Takes a step if partitions may move now, and returns whether one was taken.
    async fn step(&self, membership: &Membership) -> Result<bool, ChangeError> {
        let is_ahead = !membership.shard.is_within(AHEAD);
        let rests = self.cluster.0.writer.rest().is_some();
        if rests || !membership.shard.may_step() || is_ahead || !self.cluster.may_give(membership) {
            return Ok(false);
        }
        if !self.receivers_have_the_schema(membership).await {
            return Ok(false);
        }
        self.cluster.change(Change::Step).await?;
        Ok(true)
    }

    /// Whether every possible receiver can read the data: a shard whose guest is older could
    /// not. Checked before a partition is passed, so that this shard answers for it until then.
    async fn receivers_have_the_schema(&self, membership: &Membership) -> bool {
        let Some(schema) = self.cluster.schema() else {
            return false;
        };
        if *self.cluster.reached() >= Some(schema) {
            return true;
        }
        let (cluster, me) = (&self.cluster, self.cluster.0.me);
        let shards = membership.shard.plan().map_or(0, |plan| plan.to.shards);
        let asked = (0..shards)
            .map(Ordinal)
            .filter(|shard| *shard != me)
            .map(async |shard| {
                let why_not =
                    match timeout(ASK_EVERY, cluster.ask(shard, &PeerRequest::Schema {})).await {
                        Ok(Ok(PeerResponse::Schema {
                            schema: Some(theirs),
                        })) if theirs >= schema => None,
                        Ok(Ok(PeerResponse::Schema { .. })) => {
                            Some("its guest is of an older schema".to_owned())
                        }
                        Ok(Ok(_)) => Some(AskError::Answer.to_string()),
                        Ok(Err(error)) => Some(error.to_string()),
                        Err(_) => Some("it does not answer in time".to_owned()),
                    };
                cluster.note_takes(shard, why_not.as_deref());
                why_not.is_none()
            });
        let all = join_all(asked).await.into_iter().all(|reached| reached);
        if all {
            *self.cluster.reached() = Some(schema);
        } else {
            tracing::debug!(schema, "partitions wait for shards with an older schema");
        }
        all
    }

    /// Finds the plan to begin with, by asking all shards.
    async fn begin(&mut self, view: &View, desired: Placement) -> Result<bool, ChangeError> {
        let cluster = self.cluster.clone();
        cluster.coordinator().desire(desired);
        let to_ask = cluster.coordinator().to_ask();
        let others: Vec<_> = (1..to_ask).map(Ordinal).collect();
        let lacking = self.ask_all(&others, &PeerRequest::Plan {}).await;
        let first_lacking = lacking.first().copied();
        if let (true, Some(first)) = (cluster.await_shards(lacking), first_lacking) {
            // Each new cluster begins so.
            tracing::info!(
                shards = to_ask,
                first_lacking = first.0,
                "this disk does not say where partitions are: the shard learns it, or begins a new cluster, when all shards can be asked"
            );
        }
        let id = ClusterId(cluster.0.connections.line.load().endpoint.identity.store);
        let Ok(entries) = view.snapshot.entries() else {
            return Ok(false);
        };
        let alone = entries > 0;
        let plan = cluster.coordinator().begin(id, alone);
        let Some(plan) = plan.filter(|_| first_lacking.is_none()) else {
            return Ok(false);
        };
        tracing::info!(
            cluster = %plan.cluster,
            epoch = plan.epoch.0,
            shards = plan.to.shards,
            "the plan to begin with is known: all shards were asked"
        );
        cluster.take(plan).await?;
        self.tell_all();
        Ok(true)
    }

    /// The shards that a change adds and that cannot be asked, and the shards that have not
    /// confirmed the current plan; some of them, where they are many. While there are any, the
    /// change does not begin, and can be taken back.
    async fn lacking(&mut self, plan: &Plan, change: &Plan) -> Vec<Ordinal> {
        let others: Vec<_> = {
            let coordinator = self.cluster.coordinator();
            let is_added = |shard: &Ordinal| shard.0 >= plan.to.shards;
            let others = (1..change.shards()).map(Ordinal);
            let to_ask = |shard: &Ordinal| is_added(shard) || !coordinator.is_by(*shard, plan);
            others.filter(to_ask).collect()
        };
        self.ask_all(&others, &PeerRequest::UsePlan { plan: plan.clone() })
            .await
    }

    /// Asks other shards which plan they follow, and learns a newer one. Returns the shards
    /// that did not answer, as far as they were asked; those are not asked again at once.
    async fn ask_all(&mut self, others: &[Ordinal], ask: &PeerRequest) -> Vec<Ordinal> {
        let cluster = &self.cluster;
        let was_looked = |looked: Instant| looked.elapsed() < ASK_EVERY;
        let lacked = cluster.awaited();
        if !lacked.is_empty() && self.looked.is_some_and(was_looked) {
            return lacked;
        }
        self.looked = Some(Instant::now());
        // A typing error can name many shards: once some of a group are unreachable, the shards
        // after it are not asked.
        for some in others.chunks(LOOKED_FOR) {
            let asked = some.iter().map(async |shard| {
                let says = cluster.asks_plan(*shard, ask).await;
                (!says).then_some(*shard)
            });
            let away: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
            if !away.is_empty() {
                return away;
            }
        }
        Vec::new()
    }

    /// Asks the coordinator for a newer plan. The coordinator sends its own plan to all, and
    /// learns a newer one where its disk is not the newest.
    async fn ask_others(&mut self) {
        let cluster = &self.cluster;
        if cluster.0.me == Ordinal::COORDINATOR {
            self.tell_all();
            return;
        }
        if self.cluster.is_early() {
            return;
        }
        cluster.look_for_peers(&mut self.turn);
        let asked = timeout(
            ASK_EVERY,
            cluster.ask(Ordinal::COORDINATOR, &PeerRequest::Plan {}),
        )
        .await;
        if asked.is_err() {
            cluster.note_late(Ordinal::COORDINATOR);
        }
        match asked {
            Ok(Ok(PeerResponse::Plan { plan: None })) => cluster
                .0
                .coordination
                .is_beginning
                .store(true, Ordering::Relaxed),
            Ok(Ok(PeerResponse::Plan { plan: Some(plan) })) => {
                if let Err(error) = cluster.learn(plan).await {
                    tracing::debug!(%error, "a plan could not be adopted yet");
                }
            }
            Ok(Err(error))
                if cluster.plan().is_none() && self.complained.elapsed() >= COMPLAIN_EVERY =>
            {
                self.complained = Instant::now();
                tracing::warn!(
                    %error,
                    "shard 0 cannot be asked where partitions are: requests wait until it can"
                );
            }
            _ => {}
        }
    }

    /// Makes this process known to peers that do not know it yet.
    fn acquaint(&mut self) {
        let is_under_way = self.acquainting.as_ref();
        if self.cluster.is_early() || is_under_way.is_some_and(|task| !task.is_finished()) {
            return;
        }
        let cluster = self.cluster.clone();
        let strangers = cluster.strangers();
        self.acquainting = (!strangers.is_empty()).then(|| {
            tokio::spawn(async move {
                cluster.acquaint(&strangers).await;
            })
        });
    }

    /// Sends the coordinator's plan to all shards of the plan.
    fn tell_all(&self) {
        let Some(plan) = self.cluster.plan() else {
            return;
        };
        for shard in (1..plan.shards()).map(Ordinal) {
            let (cluster, plan) = (self.cluster.clone(), plan.clone());
            // A shard that is unreachable asks for the plan itself when it is back.
            drop(tokio::spawn(async move {
                cluster
                    .asks_plan(shard, &PeerRequest::UsePlan { plan })
                    .await
            }));
        }
    }
}

impl Cluster {
    /// Notes whether a shard takes partitions from here, or why it does not.
    fn note_takes(&self, shard: Ordinal, why_not: Option<&str>) {
        let holds_up = self.measured().takes(shard, why_not.is_none());
        if let Some(why) = why_not
            && holds_up
            && self.0.coordination.held_up.allows()
        {
            tracing::warn!(
                peer = shard.0,
                why,
                "a shard does not accept its partitions: they stay here until it does"
            );
        }
    }

    /// Asks a shard which plan it follows, and notes and learns the plan. Returns whether the
    /// shard answered.
    async fn asks_plan(&self, shard: Ordinal, ask: &PeerRequest) -> bool {
        let said = match timeout(ASK_EVERY, self.ask(shard, ask)).await {
            Ok(Ok(PeerResponse::Plan { plan: said })) => said,
            Ok(Err(error)) => {
                tracing::debug!(peer = shard.0, %error, "a peer does not say which plan it follows");
                return false;
            }
            Ok(Ok(_)) => return false,
            Err(_) => {
                self.note_late(shard);
                return false;
            }
        };
        let said = said.filter(Plan::is_possible);
        self.coordinator().goes_by(shard, said.clone());
        if let Some(plan) = said
            && self.plan().is_some()
            && let Err(error) = self.learn(plan).await
        {
            tracing::debug!(%error, "a plan could not be adopted yet");
        }
        true
    }
}
