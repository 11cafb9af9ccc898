//! Finds the shards of each key in the shards' files.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use ostrakon_dev::{MAX_SHARDS, StateDirectory};
use ostrakon_store::{Options, Store, successor, unbounded};

use crate::set;

/// The page cache of a file that is read once.
const CACHE: usize = 1 << 20;
const PAGE: usize = 1000;

/// The shards that have each key, of all shards that ever ran. They must have ended.
pub(crate) fn places(directory: &Path) -> anyhow::Result<BTreeMap<String, Vec<u32>>> {
    let state = set::state(directory);
    let mut places: BTreeMap<_, Vec<u32>> = BTreeMap::new();
    for shard in 0..MAX_SHARDS {
        let data = StateDirectory::shard(&state, shard).join("data");
        if data.exists() {
            let keys = keys(&data).with_context(|| format!("cannot read shard {shard}'s data"))?;
            for key in keys {
                places.entry(key).or_default().push(shard);
            }
        }
    }
    Ok(places)
}

/// The keys in a data directory: each is a partition.
fn keys(data: &Path) -> anyhow::Result<Vec<String>> {
    let store = Store::open(Options::new(data, CACHE))?;
    let snapshot = store.snapshot().expect("the store was just opened");
    let mut keys = Vec::new();
    let mut start = None::<Vec<u8>>;
    loop {
        let page = snapshot.partitions(start.as_deref(), None, PAGE, &mut unbounded)?;
        start = page.entries.last().map(|last| successor(last));
        let read = page.entries.into_iter().map(String::from_utf8);
        keys.extend(read.collect::<Result<Vec<_>, _>>()?);
        if !page.more {
            return Ok(keys);
        }
    }
}
