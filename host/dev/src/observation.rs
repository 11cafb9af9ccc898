//! A shard's status, as reported by its admin port.

use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use ostrakon_base::digest::Digest;
use ostrakon_network::http::client;
use serde::{Deserialize, Serialize};

/// How long a shard may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// A shard's `/status`, reduced to the fields that the controller needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Observation {
    /// Whether the shard is ready for requests.
    pub ready: bool,
    /// The live generation.
    pub generation: Option<Generation>,
    pub candidate: Option<Candidate>,
    /// The refused content of the volume.
    pub refused: Option<Refused>,
    pub store: Store,
    /// The shard's plan.
    pub topology: Option<Topology>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Generation {
    pub generation: u64,
    /// The digest of all its content.
    pub digest: Digest,
    pub name: String,
    pub version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Candidate {
    /// The digest of all its content.
    pub digest: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Refused {
    /// The digest of all its content, if it could be read.
    pub digest: Option<Digest>,
    pub step: String,
    pub reason: String,
    /// The time, in seconds since 1970.
    pub unix_time: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Store {
    pub entries: u64,
}

/// A plan: which shard owns which partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Topology {
    pub epoch: u64,
    /// The number of shards under this plan.
    pub shards: u32,
    /// The number of shards under the previous plan.
    pub shards_before: u32,
    /// Whether all data is where it belongs.
    pub stable: bool,
    /// Batches that this shard is sending to others.
    pub batches_to_send: u64,
}

impl Observation {
    /// Asks a shard for its status. Returns `None` if there is no answer in time.
    pub(super) async fn of(admin: SocketAddr) -> Option<Self> {
        let answer = client::request(admin, Method::GET, "/status", PATIENCE).await;
        let (status, body) = answer.ok()?;
        status.is_success().then_some(())?;
        serde_json::from_slice(&body).ok()
    }

    /// Whether the shard has accepted or refused this content, and no other candidate is in
    /// progress.
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
