//! Routes requests, and answers reads.

use std::sync::Arc;
use std::time::Duration;

use ostrakon_base::digest::Digest;
use ostrakon_contract::client::{Client, Turn};
use ostrakon_contract::contract::{self, Access, Reply, Request, Route, Target};
use ostrakon_contract::replies::Replies;
use ostrakon_engine::{Bound, Failure, Lease, ReadData};
use ostrakon_protocol::Authority;

use super::routing::{self, Asker};
use super::{NotHere, Refused, Service};
use crate::bake::Counts;
use crate::rehearsal::Taken;
use crate::writer::{Tried, View};

/// How far a request got before it writes.
pub(super) enum Progress {
    Replied(Reply),
    /// The request is a write to this partition.
    Write(Vec<u8>),
    NotHere(NotHere),
}

impl Service {
    /// Routes a request and, if it is a read, answers it: within the short budget, or, if it
    /// overruns, again from the start on a thread apart, within the whole deadline. It has had
    /// no effects, so it can be run again.
    pub(super) async fn read(
        &self,
        turn: Turn<'_>,
        view: Arc<View>,
        request: &Arc<Request>,
        asker: &Asker,
        route: &mut Option<Route>,
        taken: &mut Option<Taken>,
    ) -> (Seen, Result<Progress, Refused>) {
        let mut seen = Seen::of(&view);
        if has_no_room(&self.replies, &view, &request.client) {
            return (seen, Err(Refused::RepliesFull));
        }
        let (ordinal, settings) = (self.ordinal, &view.guest.settings().guest);
        let deadline = settings.read_deadline;
        let budget = Bound::Budget(settings.read_budget);
        let attempted = attempt(&view, request, asker, ordinal, budget, (route, &mut seen)).await;
        drop(turn);
        let Err(Failure::Deadline) = attempted else {
            return (seen, attempted.map_err(Refused::Failed));
        };
        // Keeps no snapshot while it waits.
        drop(view);
        *taken = None;
        // Boxed: most reads never need this, and a connection keeps memory for its request's whole
        // future, all of which is moved when the request begins.
        Box::pin(self.read_apart(seen, request, asker, deadline, (route, taken))).await
    }

    /// Runs a read again that overran its budget.
    async fn read_apart(
        &self,
        seen: Seen,
        request: &Arc<Request>,
        asker: &Asker,
        deadline: Duration,
        (route, taken): (&mut Option<Route>, &mut Option<Taken>),
    ) -> (Seen, Result<Progress, Refused>) {
        self.metrics.slow_read();
        let ordinal = self.ordinal;
        let client = request.client.clone();
        let (views, replies) = (self.writer.views().clone(), self.replies.clone());
        let stage = self.writer.stage().clone();
        let (request, asker) = (Arc::clone(request), asker.clone());
        let again = async move {
            let view = views.get()?;
            let (mut seen, mut route) = (Seen::of(&view), None);
            if has_no_room(&replies, &view, &request.client) {
                return Some((seen, route, None, Err(Refused::RepliesFull)));
            }
            let taken = stage.read(&view, &request);
            let bound = Bound::Deadline(deadline);
            let told = (&mut route, &mut seen);
            let attempt = attempt(&view, &request, &asker, ordinal, bound, told);
            let progress = attempt.await.map_err(Refused::Failed);
            Some((seen, route, taken, progress))
        };
        match self.apart.run(&client, deadline, again).await {
            Ok(Some((seen, again, sample, progress))) => {
                *route = again.or_else(|| route.take());
                *taken = sample;
                (seen, progress)
            }
            Ok(None) => (seen, Err(Refused::Starting)),
            Err(refused) => (seen, Err(refused)),
        }
    }
}

/// What is kept of the view that a request ran on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// The generation that answered, or is to.
    pub generation: u64,
    pub digest: Digest,
    /// By what that was decided, as [`Write::decided`](crate::writer::Write::decided) says.
    pub decided: (u64, u32),
    pub opening: u64,
    pub max_waiting: usize,
}

impl Seen {
    fn of(view: &View) -> Self {
        Self {
            generation: view.generation,
            digest: view.digest,
            decided: (view.generation, view.turn()),
            opening: view.snapshot.opening(),
            max_waiting: view.guest.settings().writer.max_waiting,
        }
    }
}

/// Whether the held replies leave no room for another reply to this client, so that its request
/// is not to be run.
pub(super) fn has_no_room(replies: &Replies, view: &View, client: &Client) -> bool {
    let limit = view.guest.settings().http.max_replies_bytes;
    replies.are_full(client.replies(), limit)
}

/// Routes a request and answers it if it is a read, with this limit for each call.
async fn attempt(
    view: &View,
    request: &Arc<Request>,
    asker: &Asker,
    ordinal: u32,
    bound: Bound,
    (routed, seen): (&mut Option<Route>, &mut Seen),
) -> Result<Progress, Failure> {
    let mut lease: Lease = view.lease().await?;
    let mut route = lease.route(request, bound).await?;
    let mut counts = &view.counts;
    if let (Some(tried), Target::Partition(partition)) = (&view.tried, &route.target)
        && tried.has(partition)
    {
        match Box::pin(other(tried, request, bound, seen)).await? {
            Other::Answers(its, by, to) => (lease, counts, route) = (its, by, to),
            Other::IsNotPrepared if is_mine(view, partition, asker).await? => {
                return Ok(Progress::NotHere(NotHere::NotPrepared));
            }
            // The owner may be prepared where this shard is not.
            Other::LeavesIt | Other::IsNotPrepared => {}
        }
    }
    let route = routed.insert(route);
    let snapshot = || Arc::clone(&view.snapshot);
    if let Some(membership) = &view.membership {
        match &route.target {
            Target::Partition(partition) => {
                let authority = membership
                    .authority(partition, asker.hand_off.as_ref())
                    .await?;
                if authority != Authority::Mine {
                    let finds_nothing =
                        routing::finds_nothing(view, asker, route.access, partition);
                    if !Box::pin(finds_nothing).await? {
                        return Ok(Progress::NotHere(NotHere::NotOwner(authority)));
                    }
                    let nothing = ReadData::Elsewhere(partition.clone(), snapshot());
                    let reply = lease.read(request, nothing, bound).await?;
                    return Ok(Progress::Replied(reply));
                }
            }
            Target::Everywhere if !membership.shard.has_all() => {
                return Ok(Progress::NotHere(NotHere::Everywhere));
            }
            Target::Everywhere | Target::Here => {}
        }
    }
    let data = match (&route.target, route.access) {
        (Target::Partition(partition), Access::Write) => {
            return Ok(Progress::Write(partition.clone()));
        }
        (Target::Partition(partition), Access::Read) => {
            let data = ReadData::Partition(partition.clone(), snapshot());
            let began = counts.begins(Access::Read);
            let reply = lease.read(request, data, bound).await?;
            counts.took(Access::Read, began);
            return Ok(Progress::Replied(reply));
        }
        (Target::Here | Target::Everywhere, _) => ReadData::Shard(snapshot()),
    };
    let reply = lease.read(request, data, bound).await?;
    if route.target == Target::Everywhere {
        let parts = [contract::Part {
            shard: ordinal,
            reply,
            origin: Some(view.origin()),
        }];
        let joined = lease.gather(request, &parts, view.digest, bound);
        return Ok(Progress::Replied(Box::pin(joined).await?));
    }
    Ok(Progress::Replied(reply))
}

/// Whether this shard may answer for a partition.
async fn is_mine(view: &View, partition: &[u8], asker: &Asker) -> Result<bool, Failure> {
    let Some(membership) = &view.membership else {
        return Ok(true);
    };
    let authority = membership.authority(partition, asker.hand_off.as_ref());
    Ok(authority.await? == Authority::Mine)
}

/// What the generation that is tried does with a request to one of its partitions.
enum Other<'a> {
    /// It answers, and routes the request there.
    Answers(Lease, &'a Arc<Counts>, Route),
    /// It routes the request to something else than one of its partitions: the live one answers.
    LeavesIt,
    IsNotPrepared,
}

/// Asks the generation that is tried to route a request to one of its partitions.
async fn other<'a>(
    tried: &'a Tried,
    request: &Arc<Request>,
    bound: Bound,
    seen: &mut Seen,
) -> Result<Other<'a>, Failure> {
    let Some(view) = &tried.view else {
        return Ok(Other::IsNotPrepared);
    };
    let live = (seen.generation, seen.digest);
    (seen.generation, seen.digest) = (view.generation, view.digest);
    let mut lease = view.lease().await?;
    let route = lease.route(request, bound).await?;
    Ok(match &route.target {
        Target::Partition(partition) if tried.has(partition) => {
            Other::Answers(lease, &view.counts, route)
        }
        _ => {
            (seen.generation, seen.digest) = live;
            Other::LeavesIt
        }
    })
}
