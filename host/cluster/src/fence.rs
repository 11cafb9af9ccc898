//! Which process of an ordinal is accepted, and what happens to one that is not.
//!
//! A process that must not go on serves nothing from that moment on. A peer's claim alone does
//! not end it for good: it asks the shards that would know. Once no shard confirms the claim
//! any longer, the process ends, to be restarted with a higher number. While the process that
//! is accepted in its place is there, it waits, so that two running processes do not take
//! turns.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use ostrakon_peers::{Endpoint, Identity};
use ostrakon_protocol::{Incarnation, Ordinal, Plan, Stopped};
use ostrakon_shard::writer::{Change, ChangeError, Changed};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::ceilings::Ceilings;
use super::log_limit::LogLimit;
use super::message::{Accepted, PeerRequest, PeerResponse, Process, millis};
use super::{Cluster, Line, until_down};

/// How often the claim is verified.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// A process that spoke within this time is there: each shard speaks to shard 0 every second,
/// and shard 0 to all.
const LATELY: Duration = Duration::from_secs(5);
/// How long no shard may confirm the claim before the process ends.
const DENIED: Duration = Duration::from_secs(5);
/// How long a later process may be silent before the process ends: one that is restarted is
/// back by then.
const SILENT: Duration = Duration::from_secs(30);
/// How many shards are asked at once.
const ASKED: u32 = 32;

/// The knowledge of peers' processes.
#[derive(Debug, Default)]
pub(super) struct Fence {
    ceilings: Ceilings,
    /// The process of each peer that was accepted last, and when. A std mutex, because it is
    /// held only briefly.
    lately: Mutex<BTreeMap<Ordinal, (Process, Instant)>>,
    /// Rate-limits the warning about impossible numbers.
    impossible: LogLimit,
    /// Why this process was not to go on, set once no peer confirms it any longer.
    over: watch::Sender<Option<Stopped>>,
}

/// The peers' answers about the reason for which this process stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The reason holds.
    Confirmed,
    /// No shard that would know has answered.
    Unknown,
    /// They accept a later process, which is silent.
    Silent,
    /// The reason does not hold.
    Denied,
}

impl Fence {
    fn lately(&self) -> std::sync::MutexGuard<'_, BTreeMap<Ordinal, (Process, Instant)>> {
        self.lately.lock().expect("no holder of this lock panics")
    }
}

impl Cluster {
    /// Returns once no peer confirms any longer that this process must not go on, with the
    /// reason that it was given.
    pub async fn until_over(&self) -> Stopped {
        let mut over = self.0.fence.over.subscribe();
        // This cannot fail: the sender lives as long as this handle.
        match over.wait_for(Option::is_some).await.map(|over| *over) {
            Ok(Some(stopped)) => stopped,
            _ => std::future::pending().await,
        }
    }

    /// Whether this process must not go on.
    pub(super) fn has_stopped(&self) -> bool {
        self.0.stopped.borrow().is_some()
    }

    /// Decides on a peer that calls: `None` accepts it; otherwise the response to send.
    pub(super) async fn hear(&self, peer: &Identity) -> Option<PeerResponse> {
        let ordinal = Ordinal(peer.ordinal);
        let process = Process {
            incarnation: Incarnation(peer.incarnation),
            store: peer.store,
        };
        let mut known = Incarnation::default();
        // Only news goes to the writer, which has requests to run.
        let mut is_known = false;
        if let Some(place) = &*self.0.writer.place() {
            match place
                .shard
                .is_later(ordinal, process.incarnation, process.store)
            {
                Ok(is_later) => is_known = !is_later,
                Err(by) => return Some(PeerResponse::Superseded { by }),
            }
            known = place
                .shard
                .accepts(ordinal)
                .map_or(known, |(known, _)| known);
        }
        if !is_known {
            if !self
                .0
                .fence
                .ceilings
                .admit(ordinal, known, process.incarnation)
            {
                self.tell_impossible(ordinal, ordinal, process.incarnation);
                let why = "the number of your process is higher than it can be: ask again";
                return Some(PeerResponse::Later {
                    reason: why.to_owned(),
                });
            }
            let heard = Change::Hear(ordinal, process.incarnation, process.store);
            if let Ok(Changed::Superseded(by)) = self.change(heard).await {
                return Some(PeerResponse::Superseded { by });
            }
        }
        let now = (process, Instant::now());
        self.0.fence.lately().insert(ordinal, now);
        None
    }

    /// Whether a peer accepts a later process of this ordinal than this one.
    pub(super) async fn is_past(&self, peer: &Identity, accepts: Option<Process>) -> bool {
        let Some(Process {
            incarnation: by,
            store,
        }) = accepts
        else {
            return false;
        };
        let line = self.0.connections.line.load_full();
        let own = line.endpoint.identity;
        let is_past = by.0 > own.incarnation || by.0 == own.incarnation && store != own.store;
        if is_past {
            self.superseded(by, Ordinal(peer.ordinal), &line).await;
        }
        is_past
    }

    /// Handles a peer's claim to accept another process of this ordinal, with the number `by`.
    /// A peer that has accepted this process means a later one; any other peer may mean an
    /// earlier one, whose disk is lost.
    pub(super) async fn superseded(&self, by: Incarnation, peer: Ordinal, line: &Line) {
        let own = Incarnation(line.endpoint.identity.incarnation);
        if !self.0.fence.ceilings.admit(self.0.me, own, by) {
            self.tell_impossible(peer, self.0.me, by);
        } else if by > own && line.is_accepted_by(peer) {
            self.stop(Stopped::Superseded(by));
        } else if let Err(error) = self.start_after(by, &line.endpoint).await {
            tracing::debug!(%error, "a higher number could not be taken yet");
        }
    }

    /// Whether a process of a shard can have this number, where the highest known one is `known`.
    pub(super) fn may_be(&self, shard: Ordinal, known: Incarnation, said: Incarnation) -> bool {
        self.0.fence.ceilings.admit(shard, known, said)
    }

    fn tell_impossible(&self, peer: Ordinal, of: Ordinal, number: Incarnation) {
        if self.0.fence.impossible.allows() {
            tracing::warn!(
                peer = peer.0,
                of = of.0,
                number = number.0,
                "a peer names an impossibly high number for a process of a shard, which was ignored: find out which process sends it"
            );
        }
    }

    /// Takes a number above one that was used: this process is the later one, but its store is
    /// new, so its own count began anew.
    pub(super) async fn start_after(
        &self,
        by: Incarnation,
        asked_as: &Endpoint,
    ) -> Result<(), ChangeError> {
        if self.0.connections.line.load().endpoint.identity.incarnation > by.0 {
            return Ok(());
        }
        let start = Change::Start(Incarnation(by.0.saturating_add(1)));
        if let Changed::Started(incarnation, _) = self.change(start).await? {
            tracing::info!(
                incarnation = incarnation.0,
                "this process takes a number above the one that a peer knows for this shard: this shard's disk is new, or older"
            );
            let mut endpoint = asked_as.clone();
            endpoint.identity.incarnation = incarnation.0;
            let line = Line::new(endpoint, self.0.connections.dial.clone());
            self.0.connections.line.store(Arc::new(line));
            self.0.news.notify_one();
        }
        Ok(())
    }

    /// Stops serving, because this process must not go on.
    pub(super) fn stop(&self, stopped: Stopped) {
        let is_news = self.0.stopped.send_if_modified(|former| {
            let is_first = former.is_none();
            former.get_or_insert(stopped);
            is_first
        });
        if is_news {
            tracing::error!(error = %stopped, "this shard stops serving");
        }
    }

    /// The accepted process of a peer's ordinal, for a process of that ordinal that asks.
    pub(super) fn accepted(&self, peer: Ordinal) -> Option<Accepted> {
        let process = self.accepts(peer)?;
        let lately = self.0.fence.lately();
        let heard = lately.get(&peer).filter(|(of, _)| *of == process);
        Some(Accepted {
            process,
            silent_ms: heard.map(|(_, at)| millis(at.elapsed())),
        })
    }

    /// Once this process must not go on, verifies the reason until no peer confirms it.
    pub(super) async fn verify(self, mut shutdown: watch::Receiver<bool>) {
        let mut stopped = self.stopped();
        let stopped = tokio::select! {
            biased;
            () = until_down(&mut shutdown) => return,
            Ok(stopped) = stopped.wait_for(Option::is_some) => *stopped,
            else => return,
        };
        let Some(stopped) = stopped else {
            return;
        };
        let mut since = None;
        loop {
            let verdict = match stopped {
                Stopped::Superseded(_) => self.is_superseded().await,
                Stopped::Outdated(_) => self.is_outdated().await,
            };
            let enough = match verdict {
                Verdict::Confirmed | Verdict::Unknown => None,
                Verdict::Silent => Some(SILENT),
                Verdict::Denied => Some(DENIED),
            };
            match enough {
                None => since = None,
                Some(enough) => {
                    let since = *since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= enough {
                        tracing::warn!(
                            ?verdict,
                            "no peer confirms any longer that this process must not go on: it ends, to be restarted"
                        );
                        self.0.fence.over.send_replace(Some(stopped));
                        return;
                    }
                }
            }
            tokio::select! {
                biased;
                () = until_down(&mut shutdown) => return,
                () = sleep(ASK_EVERY) => {}
            }
        }
    }

    /// Whether a later process of this ordinal is there. Shard 0 knows that of all others,
    /// because they speak to it; any of them knows it of shard 0.
    async fn is_superseded(&self) -> Verdict {
        let identity = self.0.connections.line.load().endpoint.identity;
        let own = Process {
            incarnation: Incarnation(identity.incarnation),
            store: identity.store,
        };
        let is_other = |accepted: &Accepted| {
            accepted.process.incarnation >= own.incarnation && accepted.process != own
        };
        let said = self.ask_others(&PeerRequest::Accepted {}).await;
        let known: Vec<_> = said
            .iter()
            .filter_map(|(shard, said)| match said {
                PeerResponse::Accepted { accepted } => Some((*shard, accepted.filter(is_other))),
                _ => None,
            })
            .collect();
        let lately = millis(LATELY);
        let is_there =
            |accepted: Accepted| accepted.silent_ms.is_some_and(|silent| silent < lately);
        if known.iter().any(|(_, other)| other.is_some_and(is_there)) {
            return Verdict::Confirmed;
        }
        if !self.would_know(known.iter().map(|(shard, _)| *shard)) {
            return Verdict::Unknown;
        }
        if known.iter().any(|(_, other)| other.is_some()) {
            return Verdict::Silent;
        }
        Verdict::Denied
    }

    /// Whether others follow a plan that cannot have come about without this shard's data.
    async fn is_outdated(&self) -> Verdict {
        let Some(view) = self.0.writer.views().get() else {
            return Verdict::Unknown;
        };
        let Some(membership) = &view.membership else {
            return Verdict::Unknown;
        };
        let said = self.ask_others(&PeerRequest::Plan {}).await;
        let plans: Vec<_> = said
            .into_iter()
            .filter_map(|(shard, said)| match said {
                PeerResponse::Plan { plan: Some(plan) } => Some((shard, plan)),
                _ => None,
            })
            .collect();
        let is_missed = |plan: &Plan| membership.shard.clone().learn(plan).is_err();
        if plans.iter().any(|(_, plan)| is_missed(plan)) {
            return Verdict::Confirmed;
        }
        if self.would_know(plans.iter().map(|(shard, _)| *shard)) {
            Verdict::Denied
        } else {
            Verdict::Unknown
        }
    }

    /// Whether these shards' answers suffice to know what all others think of this shard.
    fn would_know(&self, mut said: impl Iterator<Item = Ordinal>) -> bool {
        let is_alone = self.plan().is_none_or(|plan| plan.shards() <= 1);
        let is_enough = |shard| self.0.me == Ordinal::COORDINATOR || shard == Ordinal::COORDINATOR;
        said.any(is_enough) || is_alone && self.0.me == Ordinal::COORDINATOR
    }

    async fn ask_others(&self, ask: &PeerRequest) -> Vec<(Ordinal, PeerResponse)> {
        let shards = self.plan().map_or(1, |plan| plan.shards()).min(ASKED);
        let others = (0..shards).map(Ordinal).filter(|shard| *shard != self.0.me);
        let asked = others.map(async |shard| {
            let said = timeout(ASK_EVERY, self.ask(shard, ask)).await.ok()?.ok()?;
            Some((shard, said))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}
