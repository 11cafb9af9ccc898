//! The listing: a page of keys, in order.

use ostrakon_guest::{Part, Response, Result, Shard};
use serde::{Deserialize, Serialize};

use crate::call;

/// A page of keys, of a shard or of all.
#[derive(Debug, Serialize, Deserialize)]
struct Page {
    keys: Vec<String>,
    /// What to ask for with `after` to get the next page; none: this is the last.
    next: Option<String>,
}

impl Page {
    /// Cuts keys, in order, to a page.
    fn cut(mut keys: Vec<String>, limit: usize, more: bool) -> Self {
        let more = more || keys.len() > limit;
        keys.truncate(limit);
        let next = keys.last().filter(|_| more).cloned();
        Self { keys, next }
    }
}

/// The page of one shard.
pub(crate) fn of_shard(page: &call::Page, shard: Shard) -> Response {
    let limit = page.limit as usize;
    let mut partitions = shard
        .partitions()
        .prefix(page.prefix.as_bytes())
        .page_size(page.limit + 1);
    if !page.after.is_empty() {
        partitions = partitions.after(&page.after);
    }
    let keys = partitions
        .take(limit + 1)
        .map(|key| String::from_utf8(key).expect("keys were texts when stored"));
    Response::json(&Page::cut(keys.collect(), limit, false))
}

/// The page of all shards. Each shard gave its first keys, so the first of all are among them.
pub(crate) fn joined(limit: u32, parts: Vec<Part>) -> Result<Response> {
    let mut keys = Vec::new();
    let mut more = false;
    for part in parts {
        let page: Page = part.json()?;
        more |= page.next.is_some();
        keys.extend(page.keys);
    }
    keys.sort_unstable();
    // A key that is moving from one shard to another may be listed by both.
    keys.dedup();
    Ok(Response::json(&Page::cut(keys, limit as usize, more)))
}
