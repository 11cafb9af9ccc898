//! A shard among others: passing requests on, and moving partitions as the
//! protocol in [`crate::topology`] says.
//!
//! | task | ends | its failure |
//! | --- | --- | --- |
//! | accepting peers | by `shutdown` | none: accept errors are logged and waited out |
//! | one for each peer's connection | with it, or by `shutdown` | the peer's fault: logged at debug |
//! | the conductor | by `shutdown` | what it could not do it tries again |

mod answering;
mod conductor;
mod forwarding;
mod guests;
mod message;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::lane::{Change, ChangeError, Changed, Lane};
use crate::peers::{Endpoint, Identity, Pool, RequestError, serve};
use crate::service::Service;
use crate::topology::{Coordinator, Incarnation, Ordinal, Plan, Stopped};

pub use guests::Guests;
use message::{Ask, Said};

/// How long to wait when no connection can be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a shard is started among others with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The peer port.
    pub listen: SocketAddr,
    /// Where the peers are: `{}` stands for the ordinal.
    pub peers: String,
}

/// One shard's part in its cluster. Clones are the same part.
#[derive(Clone, Debug)]
pub struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    me: Ordinal,
    /// Where peers are; `{}` stands for the ordinal.
    template: String,
    pool: Pool,
    endpoint: Arc<Endpoint>,
    lane: Lane,
    guests: Guests,
    /// Only the coordinator's is used. A std mutex: held for a look.
    coordinator: Mutex<Coordinator>,
    /// Something happened that the conductor waits for.
    news: Notify,
    /// Why this process must not go on, once it is so.
    stopped: watch::Sender<Option<Stopped>>,
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
}

impl Cluster {
    /// A shard among others. The lane has told its start.
    pub fn new(options: &Options, endpoint: Endpoint, lane: Lane, guests: Guests) -> Self {
        let endpoint = Arc::new(endpoint);
        Self(Arc::new(Inner {
            me: Ordinal(endpoint.identity.ordinal),
            template: options.peers.clone(),
            pool: Pool::new(Arc::clone(&endpoint)),
            endpoint,
            lane,
            guests,
            coordinator: Mutex::default(),
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
        listener: TcpListener,
        service: Service,
        shutdown: watch::Receiver<bool>,
    ) {
        let mut down = shutdown.clone();
        let mut tasks = JoinSet::new();
        let conductor = self.clone();
        let until = shutdown.clone();
        tasks.spawn(async move { conductor.conduct(until).await });
        let handler = Arc::new(answering::Answering {
            cluster: self.clone(),
            service,
        });
        loop {
            tokio::select! {
                () = until_down(&mut down) => break,
                Some(_) = tasks.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let endpoint = Arc::clone(&self.0.endpoint);
                        let (handler, shutdown) = (Arc::clone(&handler), shutdown.clone());
                        tasks.spawn(async move {
                            let _ = stream.set_nodelay(true);
                            if let Err(error) = serve(stream, &endpoint, handler, shutdown).await {
                                tracing::debug!(%peer, %error, "a peer's connection ended");
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "could not accept a peer");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Asks a shard.
    async fn ask(&self, at: Ordinal, ask: &Ask) -> Result<Said, AskError> {
        let body = postcard::to_stdvec(ask).expect("an ask can always be encoded");
        let address = self.0.template.replace("{}", &at.to_string());
        self.0.pool.set_address(at.0, &address);
        let said = self.0.pool.request(at.0, Bytes::from(body)).await?;
        postcard::from_bytes(&said).map_err(|_| AskError::Answer)
    }

    /// The plan that this shard goes by.
    fn plan(&self) -> Option<Plan> {
        let view = self.0.lane.views().get()?;
        view.place.as_ref()?.shard.plan().cloned()
    }

    /// Takes a plan that somebody else has, if it is newer.
    async fn learn(&self, plan: Plan) -> Result<(), ChangeError> {
        let known = self.0.lane.views().get();
        let place = known.as_ref().and_then(|view| view.place.as_ref());
        let is_known = place.is_some_and(|place| {
            place.owners.is_some()
                && place
                    .shard
                    .plan()
                    .is_some_and(|known| known.epoch >= plan.epoch)
        });
        if is_known {
            return Ok(());
        }
        let owners = self.owners(&plan).await?;
        self.change(Change::Learn(plan, owners)).await?;
        self.0.news.notify_one();
        Ok(())
    }

    /// Makes a change in the lane; what must stop this process is noted.
    async fn change(&self, change: Change) -> Result<Changed, ChangeError> {
        let changed = self.0.lane.change(change).await;
        if let Err(ChangeError::Stopped(stopped)) = &changed {
            self.stop(*stopped);
        }
        changed
    }

    fn stop(&self, stopped: Stopped) {
        tracing::error!(error = %stopped, "this shard stops serving");
        self.0.stopped.send_replace(Some(stopped));
    }

    /// A peer was heard; none: it is to be heeded.
    async fn hear(&self, peer: &Identity) -> Option<Incarnation> {
        let (ordinal, incarnation) = (Ordinal(peer.ordinal), Incarnation(peer.incarnation));
        // Only what is new is for the lane, which has requests to run.
        if let Some(view) = self.0.lane.views().get()
            && let Some(place) = &view.place
        {
            match place.shard.clone().hear(ordinal, incarnation) {
                Ok(false) => return None,
                Err(by) => return Some(by),
                Ok(true) => {}
            }
        }
        let heard = Change::Hear(ordinal, incarnation);
        match self.change(heard).await {
            Ok(Changed::Superseded(by)) => Some(by),
            _ => None,
        }
    }

    fn coordinator(&self) -> std::sync::MutexGuard<'_, Coordinator> {
        let coordinator = self.0.coordinator.lock();
        coordinator.expect("no holder of this lock panics")
    }
}
