//! The connections to peers, and the requests sent over them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use ostrakon_peers::{Answered, AnyDial, Endpoint, Pool, RequestError};
use ostrakon_protocol::Ordinal;
use ostrakon_settings::per_shard::PerShard;
use tokio::time::Instant;

use super::Cluster;
use super::log_limit::LogLimit;
use super::message::{self, Envelope, PeerRequest, PeerResponse};

/// The peers' addresses, and the means to reach them.
#[derive(Debug)]
pub(super) struct Connections {
    /// The configured addresses.
    pub(super) peers: PerShard,
    pub(super) dial: AnyDial,
    pub(super) line: ArcSwap<Line>,
    /// Rate-limits the error about peers that belong to another cluster.
    foreigners: LogLimit,
}

impl Connections {
    pub(super) fn new(peers: PerShard, endpoint: Endpoint, dial: AnyDial) -> Self {
        Self {
            peers,
            line: ArcSwap::from_pointee(Line::new(endpoint, dial.clone())),
            dial,
            foreigners: LogLimit::default(),
        }
    }
}

/// The connections to peers, under one number of this process.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) pool: Pool<AnyDial>,
    /// The peers that have answered this process. A std mutex, because it is held only briefly.
    accepting: Mutex<BTreeSet<Ordinal>>,
}

impl Line {
    pub(super) fn new(endpoint: Endpoint, dial: AnyDial) -> Self {
        let endpoint = Arc::new(endpoint);
        Self {
            pool: Pool::with_dial(Arc::clone(&endpoint), dial),
            endpoint,
            accepting: Mutex::default(),
        }
    }

    pub(super) fn accept(&self, peer: Ordinal) {
        self.accepting().insert(peer);
    }

    pub(super) fn is_accepted_by(&self, peer: Ordinal) -> bool {
        self.accepting().contains(&peer)
    }

    pub(super) fn accepting(&self) -> std::sync::MutexGuard<'_, BTreeSet<Ordinal>> {
        self.accepting
            .lock()
            .expect("no holder of this lock panics")
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("its response is not of the expected kind: are all hosts of one version?")]
    Answer,
    #[error("it did nothing, because its host is of another version: {0}")]
    NotUnderstood(String),
    #[error("it belongs to another cluster")]
    Foreign,
    #[error("it knows of a later process of this shard's ordinal")]
    Superseded,
    #[error("an earlier process of that shard answers at its address, and does nothing")]
    Past,
    #[error("its plan counts only once its name leads to the address where it was found")]
    Unnamed,
}

impl AskError {
    /// Whether the request was certainly not run.
    pub(super) fn is_not_run(&self) -> bool {
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

    /// Whether the shard that was asked is there and answered.
    pub(super) fn is_answered(&self) -> bool {
        matches!(
            self,
            Self::NotUnderstood(_) | Self::Superseded | Self::Unnamed
        )
    }
}

impl Cluster {
    pub(super) async fn ask(
        &self,
        at: Ordinal,
        ask: &PeerRequest,
    ) -> Result<PeerResponse, AskError> {
        self.ask_until(at, ask, None).await
    }

    /// Asks a shard, if the request can be sent by `until`.
    pub(super) async fn ask_until(
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
        let line = self.0.connections.line.load_full();
        if !line.pool.knows(at.0) {
            line.pool
                .set_address(at.0, &self.0.connections.peers.of(at));
        }
        let said = match line.pool.ask(at.0, body, until).await {
            Ok(answered) => self.said(at, &line, ask, &answered).await,
            Err(error) => Err(error.into()),
        };
        self.note_reached(at, &said);
        said
    }

    /// The shard's response, if it is the accepted process of a shard of this cluster.
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
                // Any further request there would get the same response.
                line.pool.disown(answered, "it belongs to another cluster");
                if self.0.connections.foreigners.allows() {
                    let own = self.id();
                    tracing::error!(
                        peer = at.0,
                        own = %own.map(|own| own.to_string()).unwrap_or_default(),
                        its = %other,
                        "the process at a shard's address belongs to another cluster, and nothing is shared with it: see where the name of that shard leads; or bring back the right data for one of the two, or empty the data directory of the one that is to join the other's"
                    );
                }
                Err(AskError::Foreign)
            }
            Ok(PeerResponse::NotUnderstood { reason }) => Err(AskError::NotUnderstood(reason)),
            said => {
                line.accept(at);
                let said = said.map_err(|_| AskError::Answer)?;
                if self.decides(ask, &said) && !line.pool.is_at_its_name(answered).await {
                    return Err(AskError::Unnamed);
                }
                Ok(said)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise a shard of an earlier version, asked for what it does not know, would be
    /// reported as away, and its clients' requests refused.
    #[test]
    fn a_shard_of_another_version_is_there_and_has_run_nothing() {
        let error = AskError::NotUnderstood("no such request".to_owned());
        assert!(error.is_answered() && error.is_not_run());
        assert!(!AskError::Foreign.is_answered() && !AskError::Past.is_answered());
        assert!(!AskError::Answer.is_not_run());
    }
}
