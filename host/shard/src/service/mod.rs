//! The way of a request: the guest routes it, then a read is answered on the snapshot, and a
//! write by the writer.

mod apart;
mod everywhere;
mod gate;
mod others;
mod queue;
mod reads;
mod routing;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use apart::Apart;
use http::HeaderValue;
use ostrakon_contract::client::{Client, Turn};
use ostrakon_contract::contract::{Access, Reply, Request, Route, Target};
use ostrakon_contract::replies::Replies;
use ostrakon_engine::Failure;
use ostrakon_observe::metrics::{self, Hop, Label, Metrics};
use ostrakon_observe::trace::{Attribute, Open, Tracer};
use ostrakon_protocol::{Authority, HandOff, Ordinal};
use ostrakon_store::CommitError;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use crate::rehearsal::Taken;
use crate::writer::{Write, Writer, Written};
pub use gate::{Closing, Gate};
pub use others::{Boxed, Forwarded, NoPart, Others, Part};
use reads::{Progress, has_no_room};
use routing::{Asker, Known};
use waiting::{Waiting, Waits};

/// How often a request is routed again because the generation changed under it. Each time takes
/// a whole swap, so a request never gets near this limit.
const MAX_REROUTES: u32 = 16;

/// How often a request is forwarded because the shard that it was sent to is not the owner.
const MAX_HOPS: u32 = 8;

/// How long to wait before a shard that was unreachable is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Answers requests. Clones share the same service.
#[derive(Clone, Debug)]
pub struct Service {
    ordinal: u32,
    writer: Writer,
    apart: Apart,
    /// How many requests of one connection may run at a time: as many as there are threads for
    /// the requests of all connections.
    turns: usize,
    replies: Replies,
    metrics: Arc<Metrics>,
    /// `None` in a shard that is alone.
    others: Option<Arc<dyn Others>>,
    /// `None` in a shard that is alone: it goes over by itself.
    gate: Option<Gate>,
    known: Known,
    waiting: Waiting,
    tracer: Tracer,
}

/// The outcome of a request.
#[derive(Debug)]
pub struct Answer {
    /// The shard that answered or refused, or that the client is to ask.
    pub shard: u32,
    /// Where the guest routed the request; `None` if the request failed before that.
    pub route: Option<Route>,
    /// The generation that answered or failed, if any did.
    pub generation: Option<u64>,
    /// The guest's reply, or why there is none.
    pub reply: Result<Reply, Refused>,
}

impl Answer {
    /// Records the outcome in the request's span.
    pub fn tell(&self, span: &mut Open) {
        span.set_attribute(Attribute::Shard, self.shard);
        if let Some(generation) = self.generation {
            span.set_attribute(Attribute::Generation, generation.to_string());
        }
        if let Some(route) = &self.route {
            let (target, access) = (metrics::Target::from(&route.target), route.access.into());
            span.set_attribute(Attribute::Target, value_of(target));
            span.set_attribute(Attribute::Access, value_of::<metrics::Access>(access));
        }
        if let Err(refused) = &self.reply {
            span.fail(refused.to_string());
        }
    }
}

fn value_of<L: Label>(label: L) -> &'static str {
    L::VALUES[label.index()]
}

/// Why the guest gave no reply. Nothing that the request wrote is stored.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// No generation is live yet.
    #[error("the shard starts: try again soon")]
    Starting,
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The replies that clients, or this client, have not taken yet hold too much memory to run
    /// another request.
    #[error(
        "the replies that clients, or this one, have not taken yet are too large together: take them, or try again later"
    )]
    RepliesFull,
    /// Too many slow reads wait for a thread.
    #[error("too many slow requests are under way: try again later")]
    TooManySlow,
    #[error("too many writes are waiting: try again later")]
    WriterFull,
    #[error("the write waited too long for its turn, and was not run: try again later")]
    WriterWait,
    /// The writes could not be made durable.
    #[error(transparent)]
    NotStored(#[from] CommitError),
    #[error("the shard stops: try again soon")]
    Stopping,
    /// The owner cannot be asked, and nothing was run.
    #[error("the shard that has this partition cannot be reached: {0}")]
    Away(String),
    /// The owner was asked to write, and did not answer.
    #[error("the shard that has this partition did not answer, and may have written: {0}")]
    Unknown(String),
    /// Another shard ran the write, and there is no room for its reply.
    #[error(
        "the write was run, and its reply was dropped: the replies that clients have not taken yet are too large together"
    )]
    ReplyDropped,
    /// The client is to ask the owner at this address.
    #[error("another shard has this partition: ask that one")]
    Redirected {
        /// The owner's address, with the request's path and query.
        location: HeaderValue,
    },
    /// The client sent a write to a shard that does not own the partition.
    #[error("another shard has this partition, and nothing was written: ask that one")]
    Misplaced {
        /// The owner's address, with the request's path and query; `None` where the address is
        /// not known.
        location: Option<HeaderValue>,
    },
}

impl Refused {
    /// Whether the same request may soon succeed without anybody's action.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Starting | Self::Stopping | Self::Away(_) | Self::Failed(Failure::Store(_))
        )
    }
}

/// Why a request is not answered in this shard. Nothing was run.
enum NotHere {
    /// This shard may not answer requests for the partition now.
    NotOwner(Authority),
    /// All shards are to be asked.
    Everywhere,
    /// The generation that serves the partition is not prepared yet, which happens at a start only.
    NotPrepared,
}

impl Service {
    /// A service of the shard with this ordinal.
    pub fn new(
        ordinal: u32,
        writer: Writer,
        metrics: Arc<Metrics>,
        others: Option<Arc<dyn Others>>,
    ) -> Self {
        Self {
            ordinal,
            replies: writer.replies().clone(),
            writer,
            apart: Apart::new(Arc::clone(&metrics)),
            turns: Handle::current().metrics().num_workers().max(2),
            metrics,
            gate: others.as_ref().map(|others| others.gate().clone()),
            others,
            known: Known::default(),
            waiting: Waiting::default(),
            tracer: Tracer::default(),
        }
    }

    /// The same service, with `tracer` beginning the traces of its requests.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// The tracer that begins the traces of its requests.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// The memory that replies hold until they are taken; the code that passes a reply on
    /// counts it there.
    pub fn replies(&self) -> &Replies {
        &self.replies
    }

    /// Answers a request, in this shard or through the owner. The answer comes from one
    /// generation, once everything that the request wrote and read is durable.
    pub async fn answer(&self, request: Arc<Request>) -> Answer {
        let _begun = match &self.gate {
            Some(gate) => Some(gate.begin().await),
            None => None,
        };
        let mut route = None;
        let mut asker = Asker {
            is_client: true,
            hand_off: None,
            came: Instant::now(),
        };
        // Set when the request has to wait for the first time.
        let mut wait = None;
        // How often forwarding led back here since the last wait.
        let mut hops = 0;
        loop {
            let authority = match self.run_here(&request, &asker, &mut route).await {
                Ok(answer) => return answer,
                Err(NotHere::NotPrepared) => None,
                // Boxed, as in `Service::read`: most requests are answered here, and read.
                Err(NotHere::Everywhere) => {
                    return Box::pin(self.everywhere(&request, route, asker.came)).await;
                }
                Err(NotHere::NotOwner(authority)) => Some(authority),
            };
            let is_prepared = authority.is_some();
            let why = match authority {
                Some(Authority::Elsewhere { at, hand_off }) => {
                    let passing_on =
                        self.pass_on(&request, at, hand_off, &mut asker, route.as_ref());
                    match Box::pin(passing_on).await {
                        Followed::Answered(answer) => return Answer { route, ..answer },
                        Followed::Here if hops < MAX_HOPS => {
                            hops += 1;
                            continue;
                        }
                        Followed::Here => "the request was forwarded too often".to_owned(),
                        Followed::Away(why) => why,
                    }
                }
                _ => "it does not know yet where its partitions are".to_owned(),
            };
            if wait.is_none() {
                wait = self.may_wait(asker.came);
            }
            let deadline = match &wait {
                Some((_, deadline)) if Instant::now() < *deadline => *deadline,
                _ if !is_prepared => return self.refused(route, Refused::Starting),
                Some(_) => return self.refused(route, Refused::Away(why)),
                None => {
                    let why = format!("{why}; and too many requests wait for it");
                    return self.refused(route, Refused::Away(why));
                }
            };
            hops = 0;
            let again = Instant::now() + ASK_AGAIN;
            // Waits for a new view or a little time, whichever comes first.
            let changed = self.writer.views().changed();
            let _ = Box::pin(timeout_at(again.min(deadline), changed)).await;
        }
    }

    /// Answers a request that another shard forwarded, without forwarding it again. The request
    /// waits for its partition for at most `within`: it has already waited at the other shard.
    ///
    /// # Errors
    /// The partition's owner, where that is another shard.
    pub async fn answer_here(
        &self,
        request: &Arc<Request>,
        hand_off: Option<&HandOff>,
        within: Duration,
    ) -> Result<Answer, Authority> {
        let mut wait = None;
        let asker = Asker {
            is_client: false,
            hand_off: hand_off.cloned(),
            came: Instant::now(),
        };
        let mut route = None;
        loop {
            let changed = self.writer.views().changed();
            match self.run_here(request, &asker, &mut route).await {
                Ok(answer) => return Ok(answer),
                Err(NotHere::NotOwner(awaited @ Authority::Awaited { .. })) => {
                    tracing::debug!("a request waits for its partition");
                    if wait.is_none() {
                        wait = self.may_wait(asker.came);
                    }
                    let Some((_, deadline)) = &wait else {
                        return Err(awaited);
                    };
                    let deadline = *deadline.min(&(asker.came + within));
                    if timeout_at(deadline, changed).await.is_err() {
                        return Err(awaited);
                    }
                }
                Err(NotHere::NotOwner(authority)) => return Err(authority),
                Err(NotHere::Everywhere | NotHere::NotPrepared) => return Err(Authority::Unknown),
            }
        }
    }

    /// Forwards a request to the owner, and on to the next shard where that one names another
    /// owner.
    async fn follow(
        &self,
        request: &Arc<Request>,
        mut at: Ordinal,
        known: &mut Option<HandOff>,
        route: Option<&Route>,
        until: Instant,
    ) -> Followed {
        let Some(others) = &self.others else {
            return Followed::Away("this shard is alone".to_owned());
        };
        let writes = matches!(route, Some(route) if route.access == Access::Write);
        for _ in 0..MAX_HOPS {
            if at.0 == self.ordinal {
                return Followed::Here;
            }
            // As for a request that is run here: there might be no room for its reply.
            let view = self.writer.views().get();
            if view.is_some_and(|view| has_no_room(&self.replies, &view, &request.client)) {
                return Followed::Answered(self.refused(None, Refused::RepliesFull));
            }
            let began = Instant::now();
            let forwarded = others.forward(at, request, known.clone(), until).await;
            self.metrics.forwarded(hop(&forwarded), began.elapsed());
            match forwarded {
                Forwarded::Answered { generation, reply } => {
                    return Followed::Answered(Answer {
                        shard: at.0,
                        route: None,
                        generation,
                        reply: Ok(reply),
                    });
                }
                Forwarded::Elsewhere { at: next, hand_off } => {
                    at = next;
                    if hand_off.is_some() {
                        *known = hand_off;
                    }
                }
                // A read has no effects, so it can be asked again.
                Forwarded::Unknown(why) if writes => {
                    let answer = self.refused(None, Refused::Unknown(why));
                    return Followed::Answered(answer);
                }
                Forwarded::NotTaken(why) | Forwarded::Unknown(why) => return Followed::Away(why),
            }
        }
        Followed::Away("the request was forwarded too often".to_owned())
    }

    fn refused(&self, route: Option<Route>, refused: Refused) -> Answer {
        Answer {
            shard: self.ordinal,
            route,
            generation: None,
            reply: Err(refused),
        }
    }

    /// Whether a request that arrived at `came` may wait for another shard, and until when.
    fn may_wait(&self, came: Instant) -> Option<(Waits, Instant)> {
        let view = self.writer.views().get()?;
        let cluster = &view.guest.settings().cluster;
        let waits = self.waiting.enter(cluster.max_waiting, &self.metrics)?;
        Some((waits, came + cluster.max_wait))
    }

    /// How long a request that arrived at `came` waits for other shards at most.
    fn waits_until(&self, came: Instant) -> Instant {
        let view = self.writer.views().get();
        came + view.map_or(Duration::ZERO, |view| {
            view.guest.settings().cluster.max_wait
        })
    }

    /// Answers a request in this shard, if this shard owns the partition.
    async fn run_here(
        &self,
        request: &Arc<Request>,
        asker: &Asker,
        route: &mut Option<Route>,
    ) -> Result<Answer, NotHere> {
        let answered = |route: &mut Option<Route>, generation, reply| {
            self.count(route.as_ref(), generation, &reply);
            Ok(Answer {
                shard: self.ordinal,
                route: route.take(),
                generation,
                reply,
            })
        };
        self.writer.asked();
        let mut recovered = false;
        for _ in 0..MAX_REROUTES {
            // Waits before taking the view, so that the view is new when the request runs.
            let turn = self.turn(&request.client).await;
            let Some(view) = self.writer.views().get() else {
                return answered(route, None, Err(Refused::Starting));
            };
            let mut taken = self.writer.stage().read(&view, request);
            let read = self.read(turn, view, request, asker, route, &mut taken);
            let (seen, read) = read.await;
            let generation = Some(seen.generation);
            if !matches!(read, Ok(Progress::Write(_) | Progress::NotHere(_))) {
                let taken = taken.map(|taken| taken.answered_by(seen.digest));
                self.may_rehearse(taken, read.as_ref().err());
            }
            let partition = match read {
                Ok(Progress::Replied(reply)) => {
                    self.writer.stage().answered(request);
                    return answered(route, generation, Ok(reply));
                }
                Ok(Progress::NotHere(why)) => return Err(why),
                Ok(Progress::Write(partition)) => partition,
                // A failed commit invalidates the snapshots too. This request only read, so it
                // can be run on a new snapshot. Damage, however, is the same in each opening of
                // the file.
                Err(Refused::Failed(Failure::Store(error))) if !recovered && !error.is_damage() => {
                    recovered = true;
                    Box::pin(self.writer.recover(seen.opening)).await;
                    continue;
                }
                Err(refused) => return answered(route, generation, Err(refused)),
            };
            let write = Write {
                request: Arc::clone(request),
                partition,
                generation: seen.generation,
                decided: seen.decided,
                hand_off: asker.hand_off.clone(),
                relaxed: route.as_ref().is_some_and(|route| route.relaxed),
            };
            let written = Box::pin(self.writer.write(write, seen.max_waiting));
            let (generation, reply) = match written.await {
                Written::Replied {
                    generation, reply, ..
                } => {
                    self.writer.stage().answered(request);
                    (Some(generation), Ok(reply))
                }
                Written::Failed {
                    generation,
                    failure,
                } => (Some(generation), Err(Refused::Failed(failure))),
                Written::Rerouted => continue,
                Written::NotOwner(authority) => return Err(NotHere::NotOwner(authority)),
                Written::Full => (None, Err(Refused::WriterFull)),
                Written::Waited => (None, Err(Refused::WriterWait)),
                Written::RepliesFull => (None, Err(Refused::RepliesFull)),
                Written::NotStored(error) => (generation, Err(Refused::NotStored(error))),
                Written::Ended => (None, Err(Refused::Stopping)),
            };
            return answered(route, generation, reply);
        }
        answered(route, None, Err(Refused::WriterWait))
    }

    /// Counts a request to a partition among those of the generation that answered it, or failed to.
    fn count(
        &self,
        route: Option<&Route>,
        generation: Option<u64>,
        reply: &Result<Reply, Refused>,
    ) {
        let answer = match reply {
            Ok(reply) => Ok(reply.status.as_u16()),
            Err(Refused::Failed(failure)) => Err(failure),
            Err(_) => return,
        };
        let access = match route {
            Some(route) if matches!(route.target, Target::Partition(_)) => route.access,
            Some(_) => return,
            // It failed before that was known.
            None => Access::Read,
        };
        let view = self.writer.views().load();
        let (Some(view), Some(generation)) = (&*view, generation) else {
            return;
        };
        if let Some(counts) = view.counts_of(generation) {
            counts.answered(access, answer);
        }
    }

    /// Has a sampled request rehearsed that a guest answered here, or failed to.
    fn may_rehearse(&self, taken: Option<Taken>, refused: Option<&Refused>) {
        if let (Some(taken), None | Some(Refused::Failed(_))) = (taken, refused) {
            self.writer.stage().offer(taken);
        }
    }

    /// Waits for a request's turn on the shared threads, after the earlier requests of its
    /// connection. A request whose client goes meanwhile is not run.
    async fn turn<'a>(&self, client: &'a Client) -> Turn<'a> {
        let waits = self.metrics.not_yet_run();
        let turn = client.turn(self.turns).await;
        waits.is_run();
        turn
    }
}

/// The outcome of a forwarded request, as the metrics count it.
fn hop(forwarded: &Forwarded) -> Hop {
    match forwarded {
        Forwarded::Answered { .. } => Hop::Answered,
        Forwarded::Elsewhere { .. } => Hop::Elsewhere,
        Forwarded::NotTaken(_) => Hop::Away,
        Forwarded::Unknown(_) => Hop::Unknown,
    }
}

/// Where forwarding a request led.
enum Followed {
    Answered(Answer),
    /// Back to this shard.
    Here,
    /// To no shard, and nothing was run.
    Away(String),
}
