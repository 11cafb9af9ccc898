//! What all shards have answered, by generation: for watching a new one.

use futures_util::future::join_all;
use ostrakon_protocol::{Ordinal, Release};
use ostrakon_shard::bake::Served;
use tokio::time::timeout;

use crate::Cluster;
use crate::conductor::ASK_EVERY;
use crate::message::{PeerRequest, PeerResponse};

/// How many generations a shard is asked about at most.
const MOST: usize = 8;

/// What one shard says.
#[derive(Clone, Debug, PartialEq)]
pub struct OfShard {
    pub shard: Ordinal,
    /// The release that it serves by, if it serves by one.
    pub release: Option<Release>,
    /// What it has answered by each of the generations asked about; `None` for those of which it knows
    /// nothing.
    pub served: Vec<Option<Served>>,
}

impl Cluster {
    /// What all shards have answered by some generations. A shard that does not answer in time is not
    /// among them.
    pub async fn served(&self, generations: &[u64]) -> Vec<OfShard> {
        let shards = self.plan().map_or(0, |plan| plan.shards());
        let asked = (0..shards).map(Ordinal).map(async |shard| {
            if shard == self.0.me {
                return Some(self.served_here(generations));
            }
            let ask = PeerRequest::Served {
                generations: generations.to_vec(),
            };
            match timeout(ASK_EVERY, self.ask(shard, &ask)).await {
                Ok(Ok(PeerResponse::Served { release, served })) => Some(OfShard {
                    shard,
                    release,
                    served,
                }),
                Ok(Ok(_) | Err(_)) | Err(_) => None,
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// How many shards there are.
    pub fn shards(&self) -> u32 {
        self.plan().map_or(0, |plan| plan.shards())
    }

    /// What this shard has answered by some generations.
    fn served_here(&self, generations: &[u64]) -> OfShard {
        let views = self.0.writer.views();
        let generations = generations.iter().take(MOST);
        OfShard {
            shard: self.0.me,
            release: self.serves_by(),
            served: generations.map(|number| views.served(*number)).collect(),
        }
    }

    /// The same, for a shard that asks.
    pub(super) fn say_served(&self, generations: &[u64]) -> PeerResponse {
        let OfShard {
            release, served, ..
        } = self.served_here(generations);
        PeerResponse::Served { release, served }
    }
}
