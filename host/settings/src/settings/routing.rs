//! `cluster.routing` and `cluster.public_url`: how requests for other shards' partitions are
//! handled.

use http::uri::Authority;
use ostrakon_protocol::Ordinal;
use serde::Deserialize;

use super::{Cluster, Error};
use crate::per_shard::PerShard;

/// How a shard handles a client's request for another shard's partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Routing {
    /// The shard forwards the request, and returns the owner's reply.
    #[default]
    Forward,
    /// The shard redirects the client to the owner: 307 with the owner's public address.
    Redirect,
    /// The shard answers a read from its own data, which has nothing of that partition, and
    /// rejects a write: 421. For clients that choose the shard themselves.
    Local,
}

pub(super) fn validate(cluster: &Cluster) -> Result<(), Error> {
    match &cluster.public_url {
        Some(url) if !is_address(url) => Err(Error::PublicUrl {
            url: url.to_string(),
        }),
        None if cluster.routing == Routing::Redirect => Err(Error::NoPublicUrl),
        _ => Ok(()),
    }
}

/// Whether the URL consists of exactly the parts that precede a request's path.
fn is_address(url: &PerShard) -> bool {
    let url = url.of(Ordinal(0));
    let authority = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))
        .and_then(|authority| authority.parse::<Authority>().ok());
    authority.is_some_and(|all| !all.host().is_empty() && !all.as_str().contains('@'))
}
