//! What one commit changes, and its encoding in the journal.
//!
//! # The body of a journal record, version 1
//!
//! All numbers are little-endian. Byte strings have their length first, a u32; `u32::MAX` in its
//! place means that there is none.
//!
//! | part | content |
//! | --- | --- |
//! | number of partitions | u32 |
//! | each partition | its key; bytes and entries before and after, four u64; number of changes, u32 |
//! | each change of it | the entry's key; its new value, or none if it is deleted |
//! | the stored record | u8: 0 if it does not change; otherwise 1, then the schema as four bytes or none, generation and topology as bytes or none |

use std::collections::BTreeMap;

use super::Record;
use super::group::Size;

/// An entry's new value; none if the entry is deleted.
pub(super) type Change = Option<Vec<u8>>;

/// A partition's changed entries, in order.
pub(super) type Entries = BTreeMap<Vec<u8>, Change>;

/// The changes of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) changes: Entries,
    /// The partition's size without these changes.
    pub(super) before: Size,
    pub(super) size: Size,
}

/// The changes of one commit, by partition.
pub(super) type Changes = BTreeMap<Vec<u8>, Pending>;

/// Stands for a byte string's length where there is none.
const NONE: u32 = u32::MAX;

/// Appends a commit's encoding.
pub(super) fn encode(changes: &Changes, record: Option<&Record>, out: &mut Vec<u8>) {
    put_length(changes.len(), out);
    for (partition, pending) in changes {
        put(Some(partition), out);
        let (before, after) = (pending.before, pending.size);
        for number in [before.bytes, before.entries, after.bytes, after.entries] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        put_length(pending.changes.len(), out);
        for (key, value) in &pending.changes {
            put(Some(key), out);
            put(value.as_deref(), out);
        }
    }
    out.push(record.is_some().into());
    if let Some(record) = record {
        put(
            record
                .schema
                .map(u32::to_le_bytes)
                .as_ref()
                .map(|bytes| &bytes[..]),
            out,
        );
        put(record.generation.as_deref(), out);
        put(record.topology.as_deref(), out);
    }
}

/// These bytes are no commit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoCommit;

/// Reads a commit.
pub(super) fn decode(mut body: &[u8]) -> Result<(Changes, Option<Record>), NoCommit> {
    let body = &mut body;
    let mut changes = Changes::new();
    for _ in 0..u32::from_le_bytes(take(body)?) {
        let partition = take_bytes(body)?.ok_or(NoCommit)?.to_vec();
        let mut size = || -> Result<Size, NoCommit> {
            let bytes = u64::from_le_bytes(take(body)?);
            Ok(Size::of((bytes, u64::from_le_bytes(take(body)?))))
        };
        let (before, after) = (size()?, size()?);
        let mut pending = Pending {
            changes: Entries::new(),
            before,
            size: after,
        };
        for _ in 0..u32::from_le_bytes(take(body)?) {
            let key = take_bytes(body)?.ok_or(NoCommit)?.to_vec();
            let value = take_bytes(body)?.map(<[u8]>::to_vec);
            pending.changes.insert(key, value);
        }
        changes.insert(partition, pending);
    }
    let record = if take(body)? == [0] {
        None
    } else {
        let schema = take_bytes(body)?.map(|schema| schema.try_into().map_err(|_| NoCommit));
        Some(Record {
            schema: schema.transpose()?.map(u32::from_le_bytes),
            generation: take_bytes(body)?.map(<[u8]>::to_vec),
            topology: take_bytes(body)?.map(<[u8]>::to_vec),
        })
    };
    body.is_empty().then_some((changes, record)).ok_or(NoCommit)
}

fn put_length(length: usize, out: &mut Vec<u8>) {
    let length = u32::try_from(length).expect("a group is bounded far below this");
    out.extend_from_slice(&length.to_le_bytes());
}

fn put(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    match bytes {
        Some(bytes) => {
            put_length(bytes.len(), out);
            out.extend_from_slice(bytes);
        }
        None => out.extend_from_slice(&NONE.to_le_bytes()),
    }
}

fn take<const N: usize>(body: &mut &[u8]) -> Result<[u8; N], NoCommit> {
    let (taken, rest) = body.split_first_chunk().ok_or(NoCommit)?;
    *body = rest;
    Ok(*taken)
}

/// A byte string, or that there is none.
fn take_bytes<'a>(body: &mut &'a [u8]) -> Result<Option<&'a [u8]>, NoCommit> {
    let length = u32::from_le_bytes(take(body)?);
    if length == NONE {
        return Ok(None);
    }
    let (taken, rest) = body.split_at_checked(length as usize).ok_or(NoCommit)?;
    *body = rest;
    Ok(Some(taken))
}
