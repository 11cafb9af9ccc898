//! A shard among others: passing requests on, and moving partitions as the
//! protocol in [`ostrakon_protocol`] says.
//!
//! | task | ends | its failure |
//! | --- | --- | --- |
//! | accepting peers | by `shutdown` | none: accept errors are logged and waited out |
//! | one for each peer's connection | with it, or by `shutdown` | the peer's fault: logged at debug |
//! | the conductor | by `shutdown` | what it could not do it tries again |
//! | measuring a change | by `shutdown` | what it could not count it counts later |
//! | verifying that this process must not go on | by `shutdown`, or when nobody says so | whom it cannot ask it asks again |
//! | noting where peers are | by `shutdown` | what it could not write it writes later |
//! | making this process known to peers | by itself, within seconds | it is begun again |
//! | asking peers only to find out whether they can be | by itself, within a second | that is what is noted |
//! | one for each shard that batches go to | when there are none left, or with the conductor | what it could not send is sent again |

pub mod plan;
mod acquaintance;
mod answering;
mod ceilings;
mod conductor;
mod fence;
mod forwarding;
mod giving;
mod guests;
mod holds;
mod learning;
mod message;
mod missing;
mod replicas;
mod seldom;
mod progress;
mod reach;
mod remembered;
mod surveying;
#[cfg(test)]
mod simulation;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use conductor::{Conductor, LOOK_EVERY};
use fence::Fence;
pub use guests::{Guests, MakeError};
use holds::Holds;
use message::{Envelope, PeerRequest, PeerResponse};
pub use missing::Missing;
use ostrakon_contract::client::Clients;
use ostrakon_network::descriptors::NotAccepted;
use ostrakon_peers::{Accept, Answered, AnyDial, Endpoint, Pool, RequestError};
use ostrakon_peers::{ServeError, Tcp, serve};
use ostrakon_protocol::{ClusterId, Coordinator, Ordinal, Plan, Stopped};
use ostrakon_settings::per_shard::PerShard;
use ostrakon_shard::lane::{Change, ChangeError, Changed, Lane};
use ostrakon_shard::service::Service;
use ostrakon_shard::survey::Surveys;
use progress::Measured;
pub use progress::{Known, Progress, Source};
pub use reach::Peer;
use reach::Reach;
use remembered::Remembered;
pub use replicas::Replicas;
use seldom::Seldom;
pub use surveying::{Strategy, SurveyError};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long to wait when no connection can be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a shard is started among others with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The peer port.
    pub listen: SocketAddr,
    /// Where the peers are.
    pub peers: PerShard,
}

/// One shard's part in its cluster. Clones are the same part.
#[derive(Clone, Debug)]
pub struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    me: Ordinal,
    /// Where the peers are.
    peers: PerShard,
    line: ArcSwap<Line>,
    /// How they are reached.
    dial: AnyDial,
    lane: Lane,
    guests: Guests,
    /// What the StatefulSet is heard to want, where the settings go by it.
    replicas: watch::Receiver<Replicas>,
    /// Held while a plan is stored with its guests.
    taking: tokio::sync::Mutex<()>,
    /// Only the coordinator's is used. A std mutex: held for a look.
    coordinator: Mutex<Coordinator>,
    /// A std mutex: held for a look.
    holds: Mutex<Holds>,
    /// The shards that a change waits for before it begins, as far as they were
    /// looked for. A std mutex: held for a copy.
    awaited: Mutex<Vec<Ordinal>>,
    /// The schema of this shard that all others are known to have reached. A std
    /// mutex: held for a copy.
    reached: Mutex<Option<u32>>,
    /// A std mutex: held for a look.
    measured: Mutex<Measured>,
    surveys: Surveys,
    /// How many ask that no partitions go meanwhile.
    pauses: AtomicUsize,
    /// This process is about to end.
    stopping: watch::Sender<bool>,
    /// The coordinator can be asked, and has not known a plan yet.
    is_beginning: AtomicBool,
    /// Telling of peers that belong to another cluster.
    foreigners: Seldom,
    /// Telling of peers that do not take their partitions.
    held_up: Seldom,
    /// Telling of plans that cannot be.
    impossible: Seldom,
    /// Held while a peer is asked for a plan that somebody spoke of.
    asking: tokio::sync::Mutex<()>,
    /// Which processes are heeded.
    fence: Fence,
    /// Which peers can be asked.
    reach: Reach,
    /// Where peers were before the start; none without a data directory.
    remembered: OnceLock<Remembered>,
    /// Something happened that the conductor waits for.
    news: Notify,
    /// Why this process must not go on, once it is so.
    stopped: watch::Sender<Option<Stopped>>,
}

/// The connections to peers, under one number of this process.
#[derive(Debug)]
struct Line {
    endpoint: Arc<Endpoint>,
    pool: Pool<AnyDial>,
    /// The peers that have answered to it. A std mutex: held for a look.
    heeding: Mutex<BTreeSet<Ordinal>>,
}

impl Line {
    fn new(endpoint: Endpoint, dial: AnyDial) -> Self {
        let endpoint = Arc::new(endpoint);
        Self {
            pool: Pool::with_dial(Arc::clone(&endpoint), dial),
            endpoint,
            heeding: Mutex::default(),
        }
    }

    fn heed(&self, peer: Ordinal) {
        self.heeding().insert(peer);
    }

    fn is_heeded_by(&self, peer: Ordinal) -> bool {
        self.heeding().contains(&peer)
    }

    fn heeding(&self) -> std::sync::MutexGuard<'_, BTreeSet<Ordinal>> {
        self.heeding.lock().expect("no holder of this lock panics")
    }
}

/// Waits until told to shut down, or until nobody is there to tell.
async fn until_down(down: &mut watch::Receiver<bool>) {
    let _told_or_gone = down.wait_for(|down| *down).await;
}

/// Why a shard cannot be asked.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("it answers in another way than expected: are all hosts of one version?")]
    Answer,
    #[error("it did nothing, as its host is of another version: {0}")]
    NotUnderstood(String),
    #[error("it belongs to another cluster")]
    Foreign,
    #[error("it knows of a later process of this shard's ordinal")]
    Superseded,
    #[error("an earlier process of it answers at its address, and does nothing")]
    Past,
    #[error("what it says of the plan counts once its name leads to where it was found")]
    Unnamed,
}

impl AskError {
    /// Whether nothing was run for it.
    fn is_not_run(&self) -> bool {
        match self {
            Self::Request(error) => error.is_not_sent(),
            Self::NotUnderstood(_)
            | Self::Foreign
            | Self::Superseded
            | Self::Past
            | Self::Unnamed => true,
            Self::Answer => false,
        }
    }
}

impl Cluster {
    /// A shard among others, which are reached by TCP. The lane has told its
    /// start. `replicas` is what counts where the settings go by a StatefulSet.
    pub fn new(
        options: &Options,
        endpoint: Endpoint,
        lane: Lane,
        guests: Guests,
        replicas: watch::Receiver<Replicas>,
    ) -> Self {
        let dial = AnyDial::new(Tcp::from(options.listen.ip()));
        Self::over(dial, options, endpoint, lane, guests, replicas)
    }

    fn over(
        dial: AnyDial,
        options: &Options,
        endpoint: Endpoint,
        lane: Lane,
        guests: Guests,
        replicas: watch::Receiver<Replicas>,
    ) -> Self {
        Self(Arc::new(Inner {
            me: Ordinal(endpoint.identity.ordinal),
            peers: options.peers.clone(),
            line: ArcSwap::from_pointee(Line::new(endpoint, dial.clone())),
            dial,
            lane,
            guests,
            replicas,
            taking: tokio::sync::Mutex::default(),
            coordinator: Mutex::default(),
            holds: Mutex::default(),
            awaited: Mutex::default(),
            reached: Mutex::default(),
            measured: Mutex::default(),
            surveys: Surveys::default(),
            pauses: AtomicUsize::new(0),
            stopping: watch::Sender::default(),
            is_beginning: AtomicBool::default(),
            foreigners: Seldom::default(),
            held_up: Seldom::default(),
            impossible: Seldom::default(),
            asking: tokio::sync::Mutex::default(),
            fence: Fence::default(),
            reach: Reach::default(),
            remembered: OnceLock::new(),
            news: Notify::new(),
            stopped: watch::Sender::default(),
        }))
    }

    /// Why this process must not go on, once it is so.
    pub fn stopped(&self) -> watch::Receiver<Option<Stopped>> {
        self.0.stopped.subscribe()
    }

    /// Accepts peers, and conducts, until shutdown.
    pub async fn run(
        self,
        mut listener: impl Accept,
        service: Service,
        shutdown: watch::Receiver<bool>,
    ) {
        let mut down = shutdown.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(Conductor::new(self.clone()).run(shutdown.clone()));
        tasks.spawn(progress::watch(self.clone(), shutdown.clone()));
        tasks.spawn(self.clone().verify(shutdown.clone()));
        tasks.spawn(self.clone().remember(shutdown.clone()));
        let clients = Arc::new(Clients::default());
        let refusals = Arc::new(Seldom::default());
        let not_accepted = NotAccepted::default();
        loop {
            tokio::select! {
                biased;
                () = until_down(&mut down) => break,
                Some(_) = tasks.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let endpoint = Arc::clone(&self.0.line.load().endpoint);
                        let handler = Arc::new(answering::Answering {
                            cluster: self.clone(),
                            service: service.clone(),
                            clients: Arc::clone(&clients),
                            from: peer,
                            is_noted: AtomicBool::default(),
                        });
                        let shutdown = shutdown.clone();
                        let metrics = Arc::clone(&self.0.guests.metrics);
                        let refusals = Arc::clone(&refusals);
                        tasks.spawn(async move {
                            if let Err(error) = serve(stream, &endpoint, handler, shutdown).await {
                                if matches!(error, ServeError::Handshake(_)) {
                                    metrics.peer_handshake_failed();
                                    if refusals.may_tell() {
                                        tracing::warn!(address = %peer, %error, "a connection to the peer port is not admitted");
                                    }
                                }
                                tracing::debug!(address = %peer, %error, "a peer's connection ended");
                            }
                        });
                    }
                    Err(error) => {
                        if let Some(count) = not_accepted.count() {
                            tracing::warn!(listener = "peer", count, %error, "connections could not be accepted: raise the limit on open files");
                        }
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Asks a shard.
    async fn ask(&self, at: Ordinal, ask: &PeerRequest) -> Result<PeerResponse, AskError> {
        self.ask_until(at, ask, None).await
    }

    /// Asks a shard, if that can be sent by then.
    async fn ask_until(
        &self,
        at: Ordinal,
        ask: &PeerRequest,
        until: Option<Instant>,
    ) -> Result<PeerResponse, AskError> {
        let cluster = self.id();
        let accepts = self.accepts(at);
        let body = message::encode(&Envelope {
            cluster,
            accepts,
            request: ask,
        });
        let line = self.0.line.load_full();
        if !line.pool.knows(at.0) {
            line.pool.set_address(at.0, &self.0.peers.of(at));
        }
        let said = match line.pool.ask(at.0, body, until).await {
            Ok(answered) => self.said(at, &line, ask, &answered).await,
            Err(error) => Err(error.into()),
        };
        self.note_reached(at, &said);
        said
    }

    /// What a shard said, if it is one of this cluster, and the one that is heeded.
    async fn said(
        &self,
        at: Ordinal,
        line: &Line,
        ask: &PeerRequest,
        answered: &Answered,
    ) -> Result<PeerResponse, AskError> {
        match message::decode(&answered.body) {
            Ok(PeerResponse::Superseded { by }) => {
                self.superseded(by, at, line).await;
                Err(AskError::Superseded)
            }
            Ok(PeerResponse::Outdated {}) => {
                line.pool
                    .leave(answered, "it is an earlier process of that shard");
                Err(AskError::Past)
            }
            Ok(PeerResponse::Foreign { cluster: other }) => {
                // Whatever this shard sends there is answered so.
                line.pool.disown(answered, "it belongs to another cluster");
                if self.0.foreigners.may_tell() {
                    let own = self.id();
                    tracing::error!(
                        peer = at.0,
                        own = %own.map(|own| own.to_string()).unwrap_or_default(),
                        its = %other,
                        "what answers at a shard's address belongs to another cluster, and nothing is shared with it: see where the name of that shard leads; or bring back the right data for one of the two, or empty the data directory of the one that is to join the other's"
                    );
                }
                Err(AskError::Foreign)
            }
            Ok(PeerResponse::NotUnderstood { reason }) => Err(AskError::NotUnderstood(reason)),
            said => {
                line.heed(at);
                let said = said.map_err(|_| AskError::Answer)?;
                if self.decides(ask, &said) && !line.pool.is_at_its_name(answered).await {
                    return Err(AskError::Unnamed);
                }
                Ok(said)
            }
        }
    }

    /// The process of a shard that is accepted.
    fn accepts(&self, shard: Ordinal) -> Option<message::Process> {
        let view = self.0.lane.views().load();
        let place = view.as_ref()?.place.as_ref()?;
        Some(place.shard.heeds(shard)?.into())
    }

    /// The plan that this shard goes by.
    fn plan(&self) -> Option<Plan> {
        let view = self.0.lane.views().get()?;
        view.place.as_ref()?.shard.plan().cloned()
    }

    /// Returns when the shard knows the plan, or that there is none before others are
    /// there: in an ordered start they wait for it.
    pub async fn until_placed(&self) {
        let is_beginning = || match self.0.me {
            Ordinal::COORDINATOR => !self.awaited().is_empty(),
            _ => self.0.is_beginning.load(Relaxed),
        };
        while self.plan().is_none() && !is_beginning() {
            let changed = self.0.lane.views().changed();
            let _in_time = tokio::time::timeout(LOOK_EVERY, changed).await;
        }
    }

    /// The cluster that this shard belongs to.
    fn id(&self) -> Option<ClusterId> {
        let view = self.0.lane.views().load();
        let place = view.as_ref()?.place.as_ref()?;
        place.shard.plan().map(|plan| plan.cluster)
    }

    /// The cluster that this shard belongs to, where a peer belongs to another.
    fn foreign(&self, peers: Option<ClusterId>) -> Option<ClusterId> {
        self.id()
            .filter(|own| peers.is_some_and(|peers| peers != *own))
    }

    /// The schema of the data; none before a generation is live.
    fn schema(&self) -> Option<u32> {
        let view = self.0.lane.views().get()?;
        Some(view.guest.description().schema)
    }

    /// Makes a change in the lane; what must stop this process is noted.
    async fn change(&self, change: Change) -> Result<Changed, ChangeError> {
        let changed = self.0.lane.change(change).await;
        if let Err(ChangeError::Stopped(stopped)) = &changed {
            self.stop(*stopped);
        }
        changed
    }

    fn holds(&self) -> std::sync::MutexGuard<'_, Holds> {
        let holds = self.0.holds.lock();
        holds.expect("no holder of this lock panics")
    }

    /// The shards that a change waits for before it begins: some of them, where
    /// they are many. Only the coordinator knows.
    ///
    /// # Panics
    /// When a task has panicked while it noted them.
    pub fn awaited(&self) -> Vec<Ordinal> {
        let awaited = self.0.awaited.lock();
        awaited.expect("no holder of this lock panics").clone()
    }

    /// Notes for which shards a change waits; says whether these are others.
    fn await_shards(&self, shards: Vec<Ordinal>) -> bool {
        let awaited = self.0.awaited.lock();
        let mut awaited = awaited.expect("no holder of this lock panics");
        let are_others = *awaited != shards;
        *awaited = shards;
        are_others
    }

    fn reached(&self) -> std::sync::MutexGuard<'_, Option<u32>> {
        let reached = self.0.reached.lock();
        reached.expect("no holder of this lock panics")
    }

    fn coordinator(&self) -> std::sync::MutexGuard<'_, Coordinator> {
        let coordinator = self.0.coordinator.lock();
        coordinator.expect("no holder of this lock panics")
    }
}
