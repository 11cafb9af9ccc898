//! `cluster.routing` and `cluster.public_url`: what becomes of a request for
//! another shard's partition.

use http::uri::Authority;
use ostrakon_protocol::Ordinal;
use serde::Deserialize;

use super::{Cluster, Error};
use crate::per_shard::PerShard;

/// What a shard does with a client's request for another shard's partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Routing {
    /// It passes the request on, and the answer back.
    #[default]
    Forward,
    /// It sends the client to the owner: 307 with the owner's public address.
    Redirect,
    /// It answers a read from its own data, where there is nothing of that
    /// partition, and refuses a write: 421. For clients that shard themselves.
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

/// Whether it is all that comes before a request's path.
fn is_address(url: &PerShard) -> bool {
    let url = url.of(Ordinal(0));
    let authority = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))
        .and_then(|authority| authority.parse::<Authority>().ok());
    authority.is_some_and(|all| !all.host().is_empty() && !all.as_str().contains('@'))
}
