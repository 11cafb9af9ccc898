//! A request's way: routed by the guest, then answered on the snapshot if it
//! reads, by the lane if it writes.

mod apart;

use std::sync::Arc;

use crate::contract::{Access, Reply, Request, Route, Target};
use crate::guest::{Failure, Lease, ReadData};
use crate::lane::{Lane, View, Write, Written};
use crate::metrics::Metrics;
use crate::store::CommitError;
use apart::Apart;

/// How often a request is routed anew because the generation changed under it.
/// Each time takes a whole swap, so a request never gets near this.
const MAX_REROUTES: u32 = 16;

/// Answers requests. Clones are the same service.
#[derive(Clone, Debug)]
pub struct Service {
    ordinal: u32,
    lane: Lane,
    apart: Apart,
    metrics: Arc<Metrics>,
}

/// What a request came to.
#[derive(Debug)]
pub struct Answer {
    /// Where the guest routed it; none if it did not come so far.
    pub route: Option<Route>,
    /// The generation that answered or failed; none if none did.
    pub generation: Option<u64>,
    /// The guest's reply, or why there is none.
    pub reply: Result<Reply, Refused>,
}

/// Why a request has no reply by a guest. Nothing it wrote is stored.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// No generation is live yet.
    #[error("the shard starts: try again soon")]
    Starting,
    /// The guest failed.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// Too many slow reads wait to be run apart.
    #[error("too many slow requests are under way: try again later")]
    TooManySlow,
    /// Too many writes wait for the lane.
    #[error("too many writes are waiting: try again later")]
    LaneFull,
    /// The write waited too long for the lane.
    #[error("the write waited too long for its turn, and was not run: try again later")]
    LaneWait,
    /// What was written could not be made durable.
    #[error(transparent)]
    NotStored(#[from] CommitError),
    /// The shard stops.
    #[error("the shard stops: try again soon")]
    Stopping,
}

/// How far a read or a route came.
enum Progress {
    Replied(Reply),
    /// It is a write to this partition.
    Write(Vec<u8>),
}

impl Service {
    /// A service of shard `ordinal`.
    pub fn new(ordinal: u32, lane: Lane, metrics: Arc<Metrics>) -> Self {
        let apart = Apart::new();
        Self {
            ordinal,
            lane,
            apart,
            metrics,
        }
    }

    /// The shard's ordinal.
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// Answers a request: whole from one generation, once all that it wrote
    /// and read is durable.
    pub async fn answer(&self, request: Arc<Request>) -> Answer {
        let mut route = None;
        let mut recovered = false;
        for _ in 0..MAX_REROUTES {
            let Some(view) = self.lane.views().get() else {
                return Answer {
                    route,
                    generation: None,
                    reply: Err(Refused::Starting),
                };
            };
            let generation = Some(view.generation);
            let partition = match self.read(&view, &request, &mut route).await {
                Ok(Progress::Replied(reply)) => {
                    return Answer {
                        route,
                        generation,
                        reply: Ok(reply),
                    };
                }
                Ok(Progress::Write(partition)) => partition,
                // A failed commit takes the snapshots down with it: the request
                // only read, so it can be run on a new one.
                Err(Refused::Failed(Failure::Store(_))) if !recovered => {
                    recovered = true;
                    self.lane.recover(view.snapshot.opening()).await;
                    continue;
                }
                Err(refused) => {
                    return Answer {
                        route,
                        generation,
                        reply: Err(refused),
                    };
                }
            };
            let max_waiting = view.guest.settings().lane.max_waiting;
            let write = Write {
                request: Arc::clone(&request),
                partition,
                generation: view.generation,
                told: None,
            };
            drop(view);
            let (generation, reply) = match self.lane.write(write, max_waiting).await {
                Written::Replied { generation, reply } => (Some(generation), Ok(reply)),
                Written::Failed {
                    generation,
                    failure,
                } => (Some(generation), Err(Refused::Failed(failure))),
                // Alone, every partition is this shard's.
                Written::Rerouted | Written::Elsewhere(_) => continue,
                Written::Full => (None, Err(Refused::LaneFull)),
                Written::Waited => (None, Err(Refused::LaneWait)),
                Written::NotStored(error) => (generation, Err(Refused::NotStored(error))),
                Written::Ended => (None, Err(Refused::Stopping)),
            };
            return Answer {
                route,
                generation,
                reply,
            };
        }
        Answer {
            route,
            generation: None,
            reply: Err(Refused::LaneWait),
        }
    }

    /// Routes a request and, if it reads, answers it: here within the short
    /// budget, or else apart, from the start, within the whole deadline. It
    /// has had no effects, so it can be run again.
    async fn read(
        &self,
        view: &Arc<View>,
        request: &Arc<Request>,
        route: &mut Option<Route>,
    ) -> Result<Progress, Refused> {
        let settings = &view.guest.settings().guest;
        let attempted = attempt(view, request, self.ordinal, settings.read_budget, route).await;
        match attempted {
            Err(Failure::Deadline) => {
                self.metrics.slow_read();
                let (again, progress) = self.apart.run(view, request, self.ordinal).await?;
                *route = again.or_else(|| route.take());
                Ok(progress?)
            }
            attempted => Ok(attempted?),
        }
    }
}

/// Routes a request and answers it if it reads, each call within `deadline`.
async fn attempt(
    view: &View,
    request: &Arc<Request>,
    ordinal: u32,
    deadline: std::time::Duration,
    routed: &mut Option<Route>,
) -> Result<Progress, Failure> {
    let mut lease: Lease = view.guest.lease().await?;
    let route = lease.route(request, deadline).await?;
    let route = routed.insert(route);
    let snapshot = || Arc::clone(&view.snapshot);
    let data = match (&route.target, route.access) {
        (Target::Partition(partition), Access::Write) => {
            return Ok(Progress::Write(partition.clone()));
        }
        (Target::Partition(partition), Access::Read) => {
            ReadData::Partition(partition.clone(), snapshot())
        }
        (Target::Here | Target::Everywhere, _) => ReadData::Shard(snapshot()),
    };
    let reply = lease.read(request, data, deadline).await?;
    if route.target == Target::Everywhere {
        let parts = [(ordinal, reply)];
        return Ok(Progress::Replied(
            lease.gather(request, &parts, deadline).await?,
        ));
    }
    Ok(Progress::Replied(reply))
}
