//! A shard among others: forwards requests, and moves partitions as the protocol in
//! [`ostrakon_protocol`] specifies.
//!
//! | task | ends | its failure |
//! | --- | --- | --- |
//! | accepting peers | by `shutdown` | none: accept errors are logged and waited out |
//! | one for each peer's connection | with it, or by `shutdown` | the peer's fault: logged at debug |
//! | the conductor | by `shutdown` | work that failed is tried again |
//! | following releases | by `shutdown` | a shard that cannot be asked is asked again |
//! | one for each shard that is asked about releases, or told that there are | by itself, within a second | the shard is asked again |
//! | measuring a change | by `shutdown` | a count that failed is repeated later |
//! | verifying that this process must not go on | by `shutdown`, or when no peer confirms it | a peer that cannot be asked is asked again |
//! | noting where peers are | by `shutdown` | a write that failed is repeated later |
//! | making this process known to peers | by itself, within seconds | it is started again |
//! | probing whether peers can be asked | by itself, within a second | the failure is what it notes |
//! | one for each shard that batches go to | when there are none left, or with the conductor | a batch that was not sent is sent again |

pub mod plan;
mod acquaintance;
mod answering;
mod ceilings;
mod conductor;
mod connections;
mod coordination;
mod fence;
mod forwarding;
mod giving;
mod guests;
mod holds;
mod learning;
mod message;
mod missing;
mod replicas;
mod rollout;
mod served;
mod log_limit;
mod progress;
mod reach;
mod rehearsing;
mod remembered;
mod surveying;
#[cfg(test)]
mod simulation;

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use conductor::Conductor;
use connections::{AskError, Connections, Line};
use coordination::Coordination;
use fence::Fence;
use giving::Giving;
pub use guests::{Guests, MakeError};
use learning::Learning;
use log_limit::LogLimit;
pub use missing::Missing;
use ostrakon_contract::client::Clients;
use ostrakon_network::descriptors::NotAccepted;
use ostrakon_peers::{Accept, AnyDial, Endpoint};
use ostrakon_peers::{ServeError, Tcp, serve};
use ostrakon_protocol::{ClusterId, Ordinal, Plan, Stopped};
use ostrakon_settings::per_shard::PerShard;
use ostrakon_shard::service::{Gate, Service};
use ostrakon_shard::survey::Surveys;
use ostrakon_shard::writer::{Change, ChangeError, Changed, Live, Writer};
use progress::Measured;
pub use progress::{Known, Progress, Source};
pub use reach::Peer;
use reach::Reach;
pub use rehearsing::{Content, RehearsalError, Rehearser, encode as ask_to_rehearse};
use remembered::Remembered;
pub use replicas::Replicas;
use rollout::Rolling;
pub use rollout::{Agreed, NotAgreed, Standing, Way};
pub use served::OfShard as Served;
pub use surveying::SurveyError;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// How long to wait after no connection could be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The options of a shard that is one of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The address of the peer port.
    pub listen: SocketAddr,
    /// The peers' addresses.
    pub peers: PerShard,
}

/// One shard's part in its cluster. Clones share it.
#[derive(Clone, Debug)]
pub struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    me: Ordinal,
    connections: Connections,
    writer: Writer,
    guests: Guests,
    /// The number of shards that the StatefulSet asks for, where the settings follow it.
    replicas: watch::Receiver<Replicas>,
    coordination: Coordination,
    learning: Learning,
    giving: Giving,
    rolling: Rolling,
    /// Where this shard's clients' requests begin.
    gate: Gate,
    /// A std mutex, because it is held only briefly.
    measured: Mutex<Measured>,
    surveys: Surveys,
    /// Which processes are accepted.
    fence: Fence,
    /// Which peers can be asked.
    reach: Reach,
    /// Where peers were before the start; none without a data directory.
    remembered: OnceLock<Remembered>,
    /// Wakes the conductor.
    news: Notify,
    /// Why this process must not go on, once that is known.
    stopped: watch::Sender<Option<Stopped>>,
}

/// Waits until told to shut down, or until the sender is gone.
async fn until_down(down: &mut watch::Receiver<bool>) {
    let _told_or_gone = down.wait_for(|down| *down).await;
}

impl Cluster {
    /// A shard among others, which it reaches by TCP. The writer must have made
    /// [`Change::Start`]. `stored` is what its disk says of the generation that served last. `replicas`
    /// counts where the settings follow a StatefulSet.
    pub fn new(
        options: &Options,
        endpoint: Endpoint,
        (writer, stored): (Writer, Option<&Live>),
        guests: Guests,
        replicas: watch::Receiver<Replicas>,
    ) -> Self {
        let dial = AnyDial::new(Tcp::from(options.listen.ip()));
        Self::over(dial, options, endpoint, (writer, stored), guests, replicas)
    }

    fn over(
        dial: AnyDial,
        options: &Options,
        endpoint: Endpoint,
        (writer, stored): (Writer, Option<&Live>),
        guests: Guests,
        replicas: watch::Receiver<Replicas>,
    ) -> Self {
        let me = Ordinal(endpoint.identity.ordinal);
        let place = writer.place();
        let has_plan = (place.as_ref()).is_some_and(|place| place.shard.plan().is_some());
        Self(Arc::new(Inner {
            me,
            rolling: Rolling::new(me, stored, has_plan),
            gate: Gate::default(),
            connections: Connections::new(options.peers.clone(), endpoint, dial),
            writer,
            guests,
            replicas,
            coordination: Coordination::default(),
            learning: Learning::default(),
            giving: Giving::default(),
            measured: Mutex::default(),
            surveys: Surveys::default(),
            fence: Fence::default(),
            reach: Reach::default(),
            remembered: OnceLock::new(),
            news: Notify::new(),
            stopped: watch::Sender::default(),
        }))
    }

    /// Why this process must not go on, once that is known.
    pub fn stopped(&self) -> watch::Receiver<Option<Stopped>> {
        self.0.stopped.subscribe()
    }

    /// Accepts peers and conducts until shutdown.
    pub async fn run(
        self,
        mut listener: impl Accept,
        service: Service,
        shutdown: watch::Receiver<bool>,
    ) {
        let mut down = shutdown.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(Conductor::new(self.clone()).run(shutdown.clone()));
        tasks.spawn(self.clone().roll(shutdown.clone()));
        tasks.spawn(progress::watch(self.clone(), shutdown.clone()));
        tasks.spawn(self.clone().verify(shutdown.clone()));
        tasks.spawn(self.clone().remember(shutdown.clone()));
        let clients = Arc::new(Clients::default());
        let refusals = Arc::new(LogLimit::default());
        let not_accepted = NotAccepted::default();
        loop {
            tokio::select! {
                biased;
                () = until_down(&mut down) => break,
                Some(_) = tasks.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let endpoint = Arc::clone(&self.0.connections.line.load().endpoint);
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
                                    if refusals.allows() {
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

    /// The accepted process of a shard.
    fn accepts(&self, shard: Ordinal) -> Option<message::Process> {
        let place = self.0.writer.place();
        Some(place.as_ref()?.shard.accepts(shard)?.into())
    }

    /// The plan that this shard follows; `None` before it knows one.
    fn plan(&self) -> Option<Plan> {
        let place = self.0.writer.place();
        place.as_ref()?.shard.plan().cloned()
    }

    /// The cluster that this shard belongs to.
    fn id(&self) -> Option<ClusterId> {
        let place = self.0.writer.place();
        place.as_ref()?.shard.plan().map(|plan| plan.cluster)
    }

    /// The cluster that this shard belongs to, where a peer belongs to another one.
    fn foreign(&self, peers: Option<ClusterId>) -> Option<ClusterId> {
        self.id()
            .filter(|own| peers.is_some_and(|peers| peers != *own))
    }

    /// The schema of the data; `None` before a generation is live.
    fn schema(&self) -> Option<u32> {
        let view = self.0.writer.views().get()?;
        Some(view.guest.description().schema)
    }

    /// Makes a change in the writer. An error that must stop this process is noted.
    async fn change(&self, change: Change) -> Result<Changed, ChangeError> {
        let changed = self.0.writer.change(change).await;
        if let Err(ChangeError::Stopped(stopped)) = &changed {
            self.stop(*stopped);
        }
        changed
    }
}
