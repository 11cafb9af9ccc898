//! Asking other shards which releases they know, and telling them that there is something to ask.

use futures_util::future::join_all;
use ostrakon_base::digest::Digest;
use ostrakon_protocol::{Incarnation, Ordinal, Release};
use ostrakon_volumes::volume::Files;
use tokio::time::timeout;

use super::START;
use super::state::State;
use crate::conductor::ASK_EVERY;
use crate::message::{Candidate, PeerRequest, PeerResponse, Said};
use crate::{AskError, Cluster};

/// What a shard knows.
struct Releases {
    known: Option<Release>,
    has_asked: bool,
    candidate: Option<Candidate>,
    said: Option<Said>,
    goes_back: bool,
}

/// What a shard answers.
enum Answer {
    Said(Box<Releases>),
    /// It is of a version that knows no releases.
    Old,
    Away,
}

/// For answering peers.
impl Cluster {
    /// What this shard knows, for one that asks.
    pub(crate) fn releases(&self) -> PeerResponse {
        let is_stopping = self.is_stopping();
        self.knows(|state| PeerResponse::Releases {
            known: state.known(),
            has_asked: state.has_asked(),
            candidate: state.offer(self.number()),
            said: state.says(is_stopping),
            goes_back: state.candidate().is_some() && state.candidate() == state.back().to(),
        })
    }

    /// Whether a release that a shard names is news here. A new shard has nothing to lose: it goes by
    /// what it hears first.
    pub(crate) fn is_news(&self, known: Option<&Release>) -> bool {
        let is_news = |state: &State, known: &Release| {
            state.has_plan() && state.known().is_none_or(|own| known.is_after(&own))
        };
        known.is_some_and(|known| self.knows(|state| is_news(state, known)))
    }

    /// The files of the candidate, if it has this digest.
    pub(crate) fn offered(&self, digest: Digest) -> Option<Files> {
        self.knows(|state| state.offers(digest).cloned())
    }

    /// A shard says that there is something to ask it about.
    pub(crate) fn has_news(&self, from: Ordinal) {
        self.know(|state| state.has_news(from));
    }
}

impl Cluster {
    async fn ask_about_releases(&self, shard: Ordinal) -> Answer {
        match timeout(ASK_EVERY, self.ask(shard, &PeerRequest::Releases {})).await {
            Ok(Err(AskError::NotUnderstood(_))) => Answer::Old,
            Ok(Ok(PeerResponse::Releases {
                known,
                has_asked,
                candidate,
                said,
                goes_back,
            })) => Answer::Said(Box::new(Releases {
                known: self.believed(known),
                has_asked,
                candidate,
                said,
                goes_back,
            })),
            Ok(Ok(_) | Err(_)) => Answer::Away,
            Err(_) => {
                self.note_late(shard);
                Answer::Away
            }
        }
    }

    /// A release that a shard has named, if there can be such a one.
    fn believed(&self, known: Option<Release>) -> Option<Release> {
        known.filter(|release| {
            let accepted = self.accepts(Ordinal::COORDINATOR);
            let accepted = accepted.map_or(Incarnation(0), |process| process.incarnation);
            let is_ours = self.id().is_none_or(|id| id == release.cluster);
            is_ours && self.may_be(Ordinal::COORDINATOR, accepted, release.maker)
        })
    }

    /// Has each other shard asked that has something to say to the coordinator.
    pub(super) fn ask_the_others(&self, shards: u32) {
        let to_ask = self.know_for_now(|state| state.asks(shards, ASK_EVERY));
        for shard in to_ask {
            let cluster = self.clone();
            // It ends by itself, within a second.
            drop(tokio::spawn(
                async move { cluster.ask_another(shard).await },
            ));
        }
    }

    async fn ask_another(&self, shard: Ordinal) {
        match self.ask_about_releases(shard).await {
            Answer::Said(its) => {
                let me = self.number();
                self.know(|state| state.answers(shard, me, its.known, its.said));
            }
            Answer::Old => self.know(|state| state.is_old(shard)),
            Answer::Away => self.know_for_now(|state| state.is_away(shard)),
        }
    }

    /// Another shard's turn: asks shard 0 or, where that is away at a start, all the others.
    pub(super) async fn follow(&self) {
        if self.is_early() {
            return;
        }
        let is_due = self.know_for_now(|state| state.is_to_ask_the_coordinator(ASK_EVERY));
        if is_due {
            self.ask_the_coordinator().await;
        }
        if self.has_unannounced() {
            self.announce([Ordinal::COORDINATOR].into_iter());
        }
    }

    pub(super) async fn ask_the_coordinator(&self) {
        match self.ask_about_releases(Ordinal::COORDINATOR).await {
            Answer::Said(its) => self.know(|state| {
                state.coordinator_says(its.known, its.candidate, its.has_asked);
                state.coordinator_goes_back(its.goes_back);
            }),
            Answer::Old => self.know(State::coordinator_is_old),
            Answer::Away => self.know(State::coordinator_is_away),
        }
        let is_slow = self.0.rolling.began.elapsed() >= START;
        let (has_asked, is_away) =
            self.knows(|state| (state.has_asked(), state.is_coordinator_away()));
        if !has_asked && (is_away || is_slow) {
            // Shard 0 is away, or does not know what the others know.
            self.ask_all_but_the_coordinator().await;
        }
    }

    /// Learns what the others know, where shard 0 is away.
    pub(super) async fn ask_all_but_the_coordinator(&self) {
        let Some(plan) = self.plan() else {
            // Nothing was ever served here.
            return;
        };
        let others = (1..plan.shards())
            .map(Ordinal)
            .filter(|shard| *shard != self.0.me);
        let asked = others.map(async |shard| match self.ask_about_releases(shard).await {
            Answer::Said(its) => its.known,
            Answer::Old | Answer::Away => None,
        });
        let known = join_all(asked).await;
        self.know(|state| {
            for known in known.into_iter().flatten() {
                state.hear(&known);
            }
            state.asked();
        });
    }

    /// Tells shards that there is something to ask this one about. One that is not reached asks by
    /// itself, later.
    pub(super) fn announce(&self, shards: impl Iterator<Item = Ordinal>) {
        for shard in shards {
            let cluster = self.clone();
            drop(tokio::spawn(async move {
                timeout(ASK_EVERY, cluster.ask(shard, &PeerRequest::News {})).await
            }));
        }
    }
}
