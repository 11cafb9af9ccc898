//! One process of a shard, wired as `app` does it, without ports, volumes and threads.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ostrakon_base::blocking::Blocking;
use ostrakon_base::digest::Digest;
use ostrakon_engine as guest;
use ostrakon_observe::metrics::Metrics;
use ostrakon_peers::{AnyDial, Endpoint, Identity};
use ostrakon_protocol::{ClusterId, Incarnation, Ordinal, Release, Shard, Stopped};
use ostrakon_shard::service::{Others, Service};
use ostrakon_shard::swap::history::History;
use ostrakon_shard::swap::{DefaultGuest, Kept};
use ostrakon_shard::writer::{Change, Changed, Live, Pace, Turns, Writer, read_record};
use ostrakon_store::Store;
use ostrakon_volumes::secrets::Secrets;
use ostrakon_volumes::volume::{Files, Observation};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::{advance, timeout};

use super::super::{Agreed, Cluster, Guests, Options};
use super::clock::{self, Zero};
use super::disk::Disk;
use super::ground::{Generation, Generations, Ground};
use super::life::Life;
use super::mistake::{Mistake, Repeating};
use super::network::Network;
use super::random;
use super::stream::{Dialing, Listener};

/// How long a process that is told to stop may take.
const GRACE: Duration = Duration::from_secs(10);

/// A writer's pace that does not depend on real time. Its steps are small, so that there are
/// many.
const PACE: Pace = Pace {
    collect: Duration::MAX,
    hold: Duration::MAX,
    hold_alone: Duration::MAX,
    rest: 0,
    partitions: 1..=1,
    bytes: u64::MAX,
};

/// The parts that a process is started with.
pub(super) struct Start<'a> {
    pub(super) ground: &'a Ground,
    pub(super) network: &'a Network,
    pub(super) disk: &'a Disk,
    pub(super) directory: &'a Path,
    pub(super) shard: u32,
    pub(super) number: u64,
    /// The generation in its volume.
    pub(super) generation: &'a Generation,
    pub(super) seed: u64,
    pub(super) now: u64,
    pub(super) mistake: Option<Mistake>,
}

pub(super) struct Process {
    pub(super) life: Life,
    pub(super) writer: Writer,
    /// Whether it had batches to send again when it started.
    pub(super) had_outbox: bool,
    runtime: Runtime,
    zero: Zero,
    /// The time up to which it has run.
    reached: u64,
    volume: watch::Sender<Observation>,
    serving: Arc<OnceLock<Serving>>,
    shutdown: watch::Sender<bool>,
    ended: watch::Receiver<bool>,
}

/// The parts of a process that serves.
struct Serving {
    cluster: Cluster,
    service: Service,
}

impl Process {
    pub(super) fn start(start: &Start<'_>) -> Self {
        let Start { shard, number, .. } = *start;
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime can be created");
        let zero = {
            let _entered = runtime.enter();
            Zero::here(start.now, shard)
        };
        let life = Life::new(number);
        start.network.listen(shard, &life);
        let options = start.disk.options(start.directory, &life);
        let store = Store::open(options).expect("a store opens after any crash");
        let metrics = Arc::new(Metrics::new("simulation"));
        let last = read_record(store.record()).expect("a record is whole after any crash");
        let of_store = u128::from(random::of(start.seed, &[u64::from(shard), 7]));
        let (writer, turns) =
            Writer::in_turns(store, Ordinal(shard), of_store, PACE, Arc::clone(&metrics));
        let had_outbox = turns.membership().outboxes().next().is_some();
        let kept = Kept::open(start.directory).expect("a directory can be made");
        let work = work(
            turns,
            life.clone(),
            writer.clone(),
            start.mistake,
            start.seed,
        );
        runtime.spawn(work);

        let generations = start.ground.generations().clone();
        let served = last.as_ref();
        let served = served.and_then(|live| generations.of_digest(live.digest));
        let served = served.map(|generation| generation.files.clone());
        let guests = Guests {
            blocking: Blocking::Inline,
            engine: start.ground.engine.clone(),
            cache: start.ground.cache.clone(),
            compiler: start.ground.compiler.clone(),
            kept,
            of_plan: Kept::of_plan(start.directory).expect("a directory can be made"),
            history: History::read(start.directory),
            metrics: Arc::clone(&metrics),
            identity: guest::Identity {
                ordinal: shard,
                shards: 1,
            },
            secrets: Secrets::default(),
            directory: start.directory.to_owned(),
        };
        let serving = Arc::new(OnceLock::new());
        let (shutdown, down) = watch::channel(false);
        let (ending, ended) = watch::channel(false);
        let wired = Wired {
            shard,
            network: start.network.clone(),
            life: life.clone(),
            writer: writer.clone(),
            generations,
            guests,
            metrics,
            mistake: start.mistake,
            seed: start.seed,
            steps: match start.seed % 2 {
                0 => Vec::new(),
                _ => vec![200_000, 600_000],
            },
            serving: Arc::clone(&serving),
        };
        let (volume, shows) = watch::channel(Ok(start.generation.files.clone()));
        runtime.spawn(async move {
            wired.run((last, served), shows, down).await;
            ending.send_replace(true);
        });
        Self {
            life,
            writer,
            had_outbox,
            runtime,
            zero,
            reached: start.now,
            volume,
            serving,
            shutdown,
            ended,
        }
    }

    /// Runs until a time, in milliseconds.
    pub(super) fn run_until(&mut self, time: u64) {
        self.zero.enter();
        self.runtime.block_on(async { clock::until(time).await });
        self.reached = time;
        clock::leave();
    }

    /// Resumes after a pause: the process's clock jumps to `now`.
    pub(super) fn resume(&mut self, now: u64) {
        self.zero.enter();
        let missed = Duration::from_millis(now - self.reached);
        self.runtime.block_on(async { advance(missed).await });
        self.reached = now;
        clock::leave();
    }

    /// Shows a generation in the volume.
    pub(super) fn show(&self, generation: &Generation) {
        let _before = self.volume.send_replace(Ok(generation.files.clone()));
    }

    /// The shard's state in the protocol; `None` before a generation is live.
    pub(super) fn membership(&self) -> Option<Shard> {
        let view = self.writer.views().get()?;
        Some(view.membership.as_ref()?.shard.clone())
    }

    /// The digest of the live generation; `None` before one is live.
    pub(super) fn live(&self) -> Option<Digest> {
        self.writer.views().get().map(|view| view.digest)
    }

    /// The service that answers clients; `None` before the process serves.
    pub(super) fn service(&self) -> Option<Service> {
        Some(self.serving.get()?.service.clone())
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Tells the process to make its data file smaller.
    pub(super) fn compact(&self) {
        let writer = self.writer.clone();
        self.runtime.spawn(async move {
            let _begun = writer.compact().await;
        });
    }

    /// Tells the process to stop: it hands its partitions over, and ends.
    pub(super) fn stop(&self) {
        let (serving, shutdown) = (Arc::clone(&self.serving), self.shutdown.clone());
        let (writer, life) = (self.writer.clone(), self.life.clone());
        let mut ended = self.ended.clone();
        self.runtime.spawn(async move {
            if let Some(serving) = serving.get() {
                let _cut_off = timeout(GRACE, serving.cluster.hand_over()).await;
            }
            shutdown.send_replace(true);
            let ending = async { ended.wait_for(|ended| *ended).await.is_ok() };
            let _cut_off = timeout(GRACE, ending).await;
            writer.flush().await;
            life.end();
        });
    }

    /// Its part among others, once it has one.
    pub(super) fn cluster(&self) -> Option<Cluster> {
        Some(self.serving.get()?.cluster.clone())
    }

    /// Why the process must not go on, if that is so.
    pub(super) fn stopped(&self) -> Option<Stopped> {
        *self.serving.get()?.cluster.stopped().borrow()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing that its tasks do while they are dropped has any effect.
        self.life.end();
    }
}

/// The parts of a process's main task.
struct Wired {
    shard: u32,
    network: Network,
    life: Life,
    writer: Writer,
    generations: Generations,
    guests: Guests,
    metrics: Arc<Metrics>,
    mistake: Option<Mistake>,
    seed: u64,
    /// The shares of the partitions by which a generation goes live, in half of all seeds.
    steps: Vec<u32>,
    serving: Arc<OnceLock<Serving>>,
}

impl Wired {
    async fn run(
        self,
        (stored, served): (Option<Live>, Option<Files>),
        volume: watch::Receiver<Observation>,
        down: watch::Receiver<bool>,
    ) {
        let Self {
            shard,
            network,
            life,
            writer,
            ..
        } = self;
        let started = writer.change(Change::Start(Incarnation::default())).await;
        // A process that dies at once gets no number.
        let Ok(Changed::Started(Incarnation(incarnation), store)) = started else {
            return;
        };
        let identity = Identity {
            ordinal: shard,
            incarnation,
            store,
        };
        let dialing = Dialing {
            network: network.clone(),
            life: life.clone(),
            shard,
        };
        let options = Options {
            listen: ([127, 0, 0, 1], 0).into(),
            peers: "{}.peers:7070"
                .parse()
                .expect("the address has a place for the ordinal"),
        };
        // Peers of a simulation trust each other until the end.
        let (_unchanged, credentials) = watch::channel(Arc::default());
        let endpoint = Endpoint::new(identity, credentials);
        let dial = AnyDial::new(dialing);
        let kept = self.guests.kept.clone();
        let replicas = watch::Sender::default().subscribe();
        let cluster = Cluster::over(
            dial,
            &options,
            endpoint,
            (writer.clone(), stored.as_ref()),
            self.guests,
            replicas,
        );
        cluster.restores(served.as_ref().map(Files::digest));
        let (shown, directing) = cluster.directed(volume, DefaultGuest::default());
        tokio::spawn(directing);
        let swapping = Swapping {
            cluster: cluster.clone(),
            writer: writer.clone(),
            generations: self.generations,
            kept,
            shown,
            steps: self.steps,
        };
        tokio::spawn(swapping.run(served));
        tokio::spawn(bake(cluster.clone(), life.clone(), self.seed));
        let others: Arc<dyn Others> = match self.mistake {
            Some(Mistake::RepeatsWrites) => Arc::new(Repeating(cluster.clone())),
            _ => Arc::new(cluster.clone()),
        };
        let service = Service::new(shard, writer, self.metrics, Some(others));
        let serving = Serving {
            cluster: cluster.clone(),
            service: service.clone(),
        };
        let first = self.serving.set(serving);
        assert!(first.is_ok(), "a process starts once");
        let listener = Listener {
            network,
            life,
            shard,
        };
        cluster.run(listener, service, down).await;
    }
}

/// Watches each step of a trial for some time, if this is the coordinator.
async fn bake(cluster: Cluster, life: Life, seed: u64) {
    for turn in 0_u64.. {
        clock::wait(random::of(seed, &[life.number(), turn, 9]) % 800).await;
        if life.is_over() {
            return;
        }
        let Some(release) = cluster.serves_by() else {
            continue;
        };
        has_one_content(&release);
        if let Some(trial) = release.trial {
            let tried = Release {
                live: trial.candidate,
                ..release
            };
            has_one_content(&tried);
            if cluster.is_coordinator() {
                cluster.was_watched(trial.turn);
            }
        }
    }
}

/// Does the writer's work: each turn comes a little after it is due.
async fn work(mut turns: Turns, life: Life, writer: Writer, mistake: Option<Mistake>, seed: u64) {
    for turn in 0_u64.. {
        turns.due().await;
        clock::wait(random::of(seed, &[life.number(), turn, 8]) % 4).await;
        if life.is_over() {
            return;
        }
        if !turns.turn() {
            turns.close();
            return;
        }
        if mistake == Some(Mistake::ForgetsBatches) {
            let kept = turns.membership();
            for (to, kept) in kept.outboxes() {
                let forgotten = Change::Acknowledged {
                    by: to,
                    number: kept[0].number,
                    step_within: None,
                };
                let writer = writer.clone();
                tokio::spawn(async move { writer.change(forgotten).await });
            }
        }
    }
}

thread_local! {
    /// The content of each release by which a shard of this thread's world went live.
    static RELEASED: RefCell<BTreeMap<(ClusterId, Incarnation, u64), Digest>> = RefCell::default();
}

/// Another world begins, with its own clusters: of the same seed, with another mistake, it may have the
/// same numbers.
pub(super) fn forget_releases() {
    RELEASED.take();
}

/// No number of a coordinator's process has two contents, whichever shards go live by it.
fn has_one_content(release: &Release) {
    let (number, digest) = (release.live.number, release.live.digest);
    let key = (release.cluster, release.maker, number);
    let first = RELEASED.with_borrow_mut(|released| *released.entry(key).or_insert(digest));
    assert_eq!(first, digest, "generation {number} has two contents");
}

/// A swap without its steps: each generation is prepared at once.
struct Swapping {
    cluster: Cluster,
    writer: Writer,
    generations: Generations,
    kept: Kept,
    shown: watch::Receiver<Observation>,
    steps: Vec<u32>,
}

impl Swapping {
    /// Swaps to what is shown, after what served last.
    async fn run(mut self, served: Option<Files>) {
        let mut next = served;
        loop {
            let live = self.cluster.live();
            if let Some(files) = &next
                && live == Some(files.digest())
            {
                self.cluster.shows_live(files.digest());
            } else if let Some(files) = next.take() {
                self.cluster.begins(&files);
                let mut shown = self.shown.clone();
                let generation = self.generations.of_digest(files.digest());
                let generation = generation.expect("only these generations are shown");
                if !self.steps.is_empty() {
                    self.kept.keep(&files).expect("the generation can be kept");
                }
                let way = generation.way(self.steps.clone());
                tokio::select! {
                    biased;
                    Ok(()) = shown.changed() => {}
                    agreed = self.cluster.agree(files.digest(), way) => {
                        if let Ok(agreed) = agreed {
                            self.promote(&files, agreed).await;
                        }
                    }
                }
            }
            if self.shown.changed().await.is_err() {
                return;
            }
            next = self.shown.borrow_and_update().clone().ok();
        }
    }

    async fn promote(&self, files: &Files, agreed: Agreed) {
        self.kept.keep(files).expect("the generation can be kept");
        let generation = self.generations.of_digest(files.digest());
        let generation = generation.expect("only these generations are shown");
        let promotion = generation.promotion(agreed.release());
        // A process that dies meanwhile promotes nothing.
        match self.writer.promote(promotion).await {
            Ok(live) => {
                if let Some(release) = agreed.release() {
                    has_one_content(&release);
                }
                agreed.is_live(live.number);
            }
            Err(error) => {
                tracing::debug!(%error, "not promoted");
                agreed.failed(&error);
            }
        }
    }
}
