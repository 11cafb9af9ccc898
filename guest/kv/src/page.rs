//! The listing: a page of keys, in order.

use std::{iter::Peekable, vec::IntoIter};

use ostrakon_guest::{Part, Response, Result, Shard, paths};
use serde::Serialize;

use crate::call;

/// A page of keys, as the client gets it.
#[derive(Serialize)]
struct Page {
    keys: Vec<String>,
    /// What to ask for with `after` to get the next page; none: this is the last.
    next: Option<String>,
}

/// One shard's part: its first keys, one more than the page holds, percent-encoded and each with a line end.
/// (A reader of JSON would make the component half as large again.)
pub(crate) fn of_shard(page: &call::Page, shard: Shard) -> Response {
    let mut partitions = shard
        .partitions()
        .prefix(page.prefix.as_bytes())
        .page_size(page.limit + 1);
    if !page.after.is_empty() {
        partitions = partitions.after(&page.after);
    }
    let mut body = String::new();
    for key in partitions.take(page.limit as usize + 1) {
        body.push_str(&paths::encode(key));
        body.push('\n');
    }
    Response::text(body)
}

/// The page of all shards. Each gave its first keys, in order, so the next of all is always at the head of a part.
pub(crate) fn joined(limit: u32, parts: &[Part]) -> Result<Response> {
    let limit = limit as usize;
    let mut parts = parts.iter().map(keys_of).collect::<Result<Vec<_>>>()?;
    let mut keys = Vec::new();
    while keys.len() <= limit
        && let Some(key) = parts
            .iter_mut()
            .filter_map(|part| part.peek())
            .min()
            .cloned()
    {
        // A key that is moving from one shard to another may be listed by both.
        for part in &mut parts {
            let _ = part.next_if_eq(&key);
        }
        keys.push(key);
    }
    let more = keys.len() > limit;
    keys.truncate(limit);
    let next = keys.last().filter(|_| more).cloned();
    Ok(Response::json(&Page { keys, next }))
}

fn keys_of(part: &Part) -> Result<Peekable<IntoIter<String>>> {
    let lines = part
        .body()?
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty());
    let keys = lines.map(|line| Ok(paths::decode(&String::from_utf8_lossy(line))?));
    Ok(keys.collect::<Result<Vec<_>>>()?.into_iter().peekable())
}
