//! The listings: a page of keys, and all keys.

use ostrakon_guest::{Error, Part, Partitions, Request, Response, Result};
use serde::Serialize;

use crate::{call, item, part::Joined};

/// The maximum bytes of keys in one response.
const MAX_KEYS: usize = 8 << 20;

/// A page of keys, as the client receives it.
#[derive(Serialize)]
struct Page {
    keys: Vec<String>,
    /// The value of `after` for the next page; `None` on the last page.
    next: Option<String>,
}

/// This shard's keys of a page.
pub(crate) fn partitions(page: &call::Page, request: &Request) -> Partitions {
    let partitions = request
        .shard()
        .partitions()
        .prefix(page.prefix.as_bytes())
        .page_size(page.limit + 1);
    if page.after.is_empty() {
        partitions
    } else {
        partitions.after(&page.after)
    }
}

/// The page of all shards. It can be shorter than its limit; only `next` tells whether it is the last.
pub(crate) fn of_all(limit: u32, parts: &[Part]) -> Result<Response> {
    let mut joined = Joined::of(parts)?;
    let keys = joined.by_ref().take(limit as usize);
    let keys: Vec<_> = keys
        .map(|key| String::from_utf8_lossy(key).into_owned())
        .collect();
    let next = keys.last().filter(|_| joined.has_more()).cloned();
    Ok(Response::json(&Page { keys, next }))
}

/// All keys of the cluster.
pub(crate) fn all_of_all(parts: &[Part]) -> Result<Response> {
    let mut joined = Joined::of(parts)?;
    let response = all(joined.by_ref())?;
    if joined.has_more() {
        return Err(too_many());
    }
    Ok(response)
}

/// All keys of a shard in the course's format. A comma in a key cannot be told from one between keys.
pub(crate) fn all(keys: impl Iterator<Item: AsRef<[u8]>>) -> Result<Response> {
    let mut body = Vec::new();
    for key in keys {
        if !body.is_empty() {
            body.push(b',');
        }
        body.extend(key.as_ref());
        if body.len() > MAX_KEYS {
            return Err(too_many());
        }
    }
    Ok(Response::bytes(item::TEXT, body))
}

fn too_many() -> Error {
    Error::new(
        400,
        "too_many_keys",
        "there are more keys than fit into one response: list them in pages, /kv?limit=1000",
    )
}
