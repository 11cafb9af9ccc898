//! What a shard's admin port says of it.

use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use ostrakon_base::digest::Digest;
use ostrakon_network::http::client;
use serde::{Deserialize, Serialize};

/// How long a shard may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// A shard's `/status`, as far as the controller needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Observation {
    /// Whether it is to be sent requests.
    pub ready: bool,
    /// The generation that serves.
    pub generation: Option<Generation>,
    /// The candidate on its way.
    pub candidate: Option<Candidate>,
    /// What the volume shows and was refused.
    pub refused: Option<Refused>,
    /// Its data.
    pub store: Store,
    /// Its place among others.
    pub topology: Option<Topology>,
}

/// The generation that serves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Generation {
    /// Its number.
    pub generation: u64,
    /// The digest of all its content.
    pub digest: Digest,
    /// The guest's name.
    pub name: String,
    /// The guest's version.
    pub version: String,
}

/// A candidate on its way.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Candidate {
    /// The digest of all its content.
    pub digest: Digest,
}

/// What was refused.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Refused {
    /// The digest of all its content, where it could be read.
    pub digest: Option<Digest>,
    /// Where it failed.
    pub step: String,
    /// Why.
    pub reason: String,
    /// When, in seconds since 1970.
    pub unix_time: u64,
}

/// A shard's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Store {
    /// The entries that are in it.
    pub entries: u64,
}

/// Who owns what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Topology {
    /// Its number.
    pub epoch: u64,
    /// The shards under it.
    pub shards: u32,
    /// The shards under the one before.
    pub shards_before: u32,
    /// Whether everything is where it belongs.
    pub stable: bool,
    /// Batches on their way from this shard to others.
    pub batches_to_send: u64,
}

impl Observation {
    /// Asks a shard; none where there is no answer in time.
    pub(super) async fn of(admin: SocketAddr) -> Option<Self> {
        let answer = client::request(admin, Method::GET, "/status", PATIENCE).await;
        let (status, body) = answer.ok()?;
        status.is_success().then_some(())?;
        serde_json::from_slice(&body).ok()
    }

    /// Whether this content was taken up or refused, and no other is on its way.
    pub(super) fn has_seen(&self, content: Digest) -> bool {
        let live = self.generation.as_ref().map(|live| live.digest);
        let refused = self.refused.as_ref().and_then(|refused| refused.digest);
        self.candidate.is_none() && (live == Some(content) || refused == Some(content))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_read_with_more_or_less_in_it_than_is_needed() {
        let content = Digest::of(b"content");
        let status = json!({
            "version": "0.1.0", "ready": true, "not_ready": null, "candidate": null,
            "generation": {
                "generation": 2, "digest": content, "name": "kv", "version": "1", "schema": 0
            },
            "store": { "bytes": 1, "entries": 7 },
            "topology": { "epoch": 4, "shards": 3, "shards_before": 2, "stable": false },
        });
        let observation: Observation = serde_json::from_value(status).unwrap();
        assert!(observation.ready && observation.has_seen(content));
        assert!(!observation.has_seen(Digest::of(b"other")));
        assert_eq!(observation.store.entries, 7);
        assert_eq!(observation.topology.unwrap().shards, 3);
        let starting: Observation = serde_json::from_value(json!({ "ready": false })).unwrap();
        assert_eq!(starting, Observation::default());
    }

    #[test]
    fn what_is_refused_was_seen_unless_another_candidate_comes() {
        let content = Digest::of(b"content");
        let refused = json!({
            "refused": { "digest": content, "step": "check", "reason": "no", "unix_time": 1 }
        });
        let mut observation: Observation = serde_json::from_value(refused).unwrap();
        assert!(observation.has_seen(content));
        observation.candidate = Some(Candidate { digest: content });
        assert!(!observation.has_seen(content));
    }
}
