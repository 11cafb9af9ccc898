//! From schema 1, in which a vote is one option's number, to schema 2, in which it is a list of numbers.

use ostrakon_guest::{Migration, ShardEntry};
use voting_polls::VOTES;

/// How many votes are written in one call to the host.
const BATCH: usize = 1024;

/// Turns each vote into a ranking with one choice. The poll's tally of first choices stays as it is.
pub(crate) fn migrate(from: u32, shard: Migration) -> Result<(), String> {
    if from != 1 {
        return Err(format!("version 2 cannot migrate data of schema {from}"));
    }
    let prefix = [VOTES.as_bytes(), &[0]].concat();
    let mut batch = Vec::new();
    for entry in shard.scan().page_size(1024) {
        if !entry.key.starts_with(&prefix) {
            continue;
        }
        batch.push(ranked(entry)?);
        if batch.len() == BATCH {
            shard.set_many(&batch)?;
            batch.clear();
        }
    }
    shard.set_many(&batch)
}

fn ranked(entry: ShardEntry) -> Result<ShardEntry, String> {
    let choice = std::str::from_utf8(&entry.value).ok();
    let choice: Option<u8> = choice.and_then(|choice| choice.parse().ok());
    let choice = choice.ok_or_else(|| {
        let poll = String::from_utf8_lossy(&entry.partition).into_owned();
        format!("a vote of poll {poll} is not of schema 1")
    })?;
    Ok(ShardEntry {
        value: format!("[{choice}]").into_bytes(),
        ..entry
    })
}
