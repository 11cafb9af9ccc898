//! Which peers can be asked, since when, and why others cannot: for the log, for operators, and
//! for waiting requests.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use ostrakon_base::unix_time::unix_time;
use ostrakon_protocol::{Ordinal, Plan};
use serde::Serialize;
use tokio::time::{Instant, timeout};

use super::message::PeerRequest;
use super::{AskError, Cluster};

/// How long a peer may be unreachable before it is reported: a Pod that is replaced is back
/// sooner.
pub(super) const AWAY_AFTER: Duration = Duration::from_secs(10);
/// How long a peer may take to answer a probe.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a peer could be asked at the last attempt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Peer {
    pub shard: Ordinal,
    /// Whether it could be asked.
    pub reached: bool,
    /// Since when, in Unix time.
    pub since: f64,
    /// Why it could not be asked.
    pub cause: Option<String>,
}

/// The contact with each peer. A std mutex, because it is held only briefly.
#[derive(Debug, Default)]
pub(super) struct Reach(Mutex<BTreeMap<Ordinal, Contact>>);

#[derive(Debug)]
struct Contact {
    /// Since when it has been reachable, or unreachable.
    since: Instant,
    /// The same as wall-clock time, for people.
    at: SystemTime,
    cause: Option<String>,
    /// Whether the log has said that it is unreachable.
    is_told: bool,
}

/// A change that the log is to report.
#[derive(Clone, Debug, PartialEq, Eq)]
enum News {
    Away(String),
    Back(Duration),
}

impl Reach {
    /// Notes an attempt to ask a peer; `cause` says why it failed. A mere timeout (`is_late`)
    /// does not replace a cause that is already known.
    fn note(&self, peer: Ordinal, cause: Option<String>, is_late: bool) -> Option<News> {
        let mut contacts = self.contacts();
        let fresh = |is_away: bool| Contact {
            since: Instant::now(),
            at: SystemTime::now(),
            cause: is_away.then(String::new),
            is_told: false,
        };
        let contact = contacts
            .entry(peer)
            .or_insert_with(|| fresh(cause.is_some()));
        let before = (contact.is_told, contact.since.elapsed());
        if contact.cause.is_some() != cause.is_some() {
            *contact = fresh(cause.is_some());
        }
        let Some(cause) = cause else {
            let (was_told, away) = before;
            return was_told.then_some(News::Back(away));
        };
        let is_known = contact
            .cause
            .as_ref()
            .is_some_and(|known| !known.is_empty());
        if !is_late || !is_known {
            contact.cause = Some(cause);
        }
        let is_due = contact.since.elapsed() >= AWAY_AFTER && !contact.is_told;
        if !is_due {
            return None;
        }
        contact.is_told = true;
        contact.cause.clone().map(News::Away)
    }

    /// The peers that cannot be asked now, for however long.
    fn lost(&self) -> Vec<Ordinal> {
        let contacts = self.contacts();
        let lost = contacts
            .iter()
            .filter(|(_, contact)| contact.cause.is_some());
        lost.map(|(peer, _)| *peer).collect()
    }

    /// Whether a peer has been unreachable for long.
    fn is_away(&self, peer: Ordinal) -> bool {
        let contacts = self.contacts();
        let contact = contacts
            .get(&peer)
            .filter(|contact| contact.cause.is_some());
        contact.is_some_and(|contact| contact.since.elapsed() >= AWAY_AFTER)
    }

    fn peers(&self) -> Vec<Peer> {
        let contacts = self.contacts();
        let peers = contacts.iter().map(|(shard, contact)| Peer {
            shard: *shard,
            reached: contact.cause.is_none(),
            since: unix_time(contact.at).as_secs_f64(),
            cause: contact.cause.clone(),
        });
        peers.collect()
    }

    fn contacts(&self) -> std::sync::MutexGuard<'_, BTreeMap<Ordinal, Contact>> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

impl Cluster {
    /// The other shards of the plan, as far as it is known whether they can be asked.
    pub fn peers(&self) -> Vec<Peer> {
        let shards = self.plan().map_or(0, |plan| plan.shards());
        let mut peers = self.0.reach.peers();
        peers.retain(|peer| peer.shard.0 < shards && peer.shard != self.0.me);
        peers
    }

    /// The shards of the plan that have been unreachable for a while.
    pub fn away(&self) -> Vec<Ordinal> {
        let shards = self.plan().map_or(0, |plan| plan.shards());
        let mut lost = self.0.reach.lost();
        lost.retain(|shard| shard.0 < shards && self.0.reach.is_away(*shard));
        lost
    }

    pub(super) fn is_away(&self, shard: Ordinal) -> bool {
        self.0.reach.is_away(shard)
    }

    /// Notes whether a peer could be asked.
    pub(super) fn note_reached<T>(&self, peer: Ordinal, asked: &Result<T, AskError>) {
        let cause = match asked {
            Ok(_) => None,
            Err(error) if error.is_answered() => None,
            Err(error) => Some(error.to_string()),
        };
        self.note_contact(peer, cause, false);
    }

    /// Notes that a peer did not answer in time.
    pub(super) fn note_late(&self, peer: Ordinal) {
        let cause = format!("it does not answer within {} s", PATIENCE.as_secs());
        self.note_contact(peer, Some(cause), true);
    }

    fn note_contact(&self, peer: Ordinal, cause: Option<String>, is_late: bool) {
        let news = self.0.reach.note(peer, cause, is_late);
        // A shard that is yet to come, or has left, is not reported.
        let is_of_plan = |plan: &Plan| peer.0 < plan.shards();
        match news.filter(|_| self.plan().as_ref().is_some_and(is_of_plan)) {
            None => {}
            Some(News::Away(cause)) => tracing::warn!(
                peer = peer.0,
                cause,
                "a shard cannot be asked: requests for its partitions wait, and then get 503"
            ),
            Some(News::Back(away)) => tracing::info!(
                peer = peer.0,
                away_seconds = away.as_secs(),
                "a shard can be asked again"
            ),
        }
    }

    /// Probes the peers that could not be asked, and one more, in turn.
    pub(super) fn look_for_peers(&self, turn: &mut u32) {
        let shards = self.plan().map_or(0, |plan| plan.shards());
        let mut to_ask = self.0.reach.lost();
        *turn = if *turn + 1 < shards { *turn + 1 } else { 1 };
        to_ask.push(Ordinal(*turn));
        to_ask.retain(|shard| *shard != self.0.me && shard.0 < shards);
        to_ask.sort_unstable();
        to_ask.dedup();
        for peer in to_ask {
            let cluster = self.clone();
            // The task ends by itself.
            drop(tokio::spawn(async move {
                if timeout(PATIENCE, cluster.ask(peer, &PeerRequest::Plan {}))
                    .await
                    .is_err()
                {
                    cluster.note_late(peer);
                }
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const PEER: Ordinal = Ordinal(1);

    #[tokio::test(start_paused = true)]
    async fn one_that_is_away_for_long_is_told_of_once_and_so_is_its_return() {
        let reach = Reach::default();
        let away = |why: &str| reach.note(PEER, Some(why.to_owned()), false);
        assert_eq!(reach.note(PEER, None, false), None);
        assert_eq!(away("refused"), None);
        advance(AWAY_AFTER / 2).await;
        assert_eq!(away("refused"), None);
        assert!(!reach.is_away(PEER));
        advance(AWAY_AFTER / 2).await;
        assert!(reach.is_away(PEER));
        let late = reach.note(PEER, Some("late".to_owned()), true);
        assert_eq!(late, Some(News::Away("refused".to_owned())));
        assert_eq!(away("refused"), None, "once");
        advance(Duration::from_secs(90)).await;
        let back = News::Back(AWAY_AFTER + Duration::from_secs(90));
        assert_eq!(reach.note(PEER, None, false), Some(back));
        assert_eq!(reach.note(PEER, None, false), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_ordinary_restart_is_not_told_of() {
        let reach = Reach::default();
        for _ in 0..10 {
            assert_eq!(reach.note(PEER, Some("refused".to_owned()), false), None);
            advance(AWAY_AFTER * 9 / 10).await;
            assert_eq!(reach.note(PEER, None, false), None);
        }
    }
}
