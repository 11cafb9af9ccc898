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

/// Reads a commit; none if these bytes are not one.
pub(super) fn decode(mut body: &[u8]) -> Option<(Changes, Option<Record>)> {
    let body = &mut body;
    let mut changes = Changes::new();
    for _ in 0..take_u32(body)? {
        let partition = take(body)??.to_vec();
        let [bytes_before, entries_before, bytes, entries] = [
            take_u64(body)?,
            take_u64(body)?,
            take_u64(body)?,
            take_u64(body)?,
        ];
        let mut pending = Pending {
            changes: Entries::new(),
            before: Size::of((bytes_before, entries_before)),
            size: Size::of((bytes, entries)),
        };
        for _ in 0..take_u32(body)? {
            let key = take(body)??.to_vec();
            pending.changes.insert(key, take(body)?.map(<[u8]>::to_vec));
        }
        changes.insert(partition, pending);
    }
    let record = match take_some(body, 1)? {
        [0] => None,
        _ => Some(Record {
            schema: match take(body)? {
                Some(schema) => Some(u32::from_le_bytes(schema.try_into().ok()?)),
                None => None,
            },
            generation: take(body)?.map(<[u8]>::to_vec),
            topology: take(body)?.map(<[u8]>::to_vec),
        }),
    };
    body.is_empty().then_some((changes, record))
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

fn take_some<'a>(body: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = body.split_at_checked(length)?;
    *body = rest;
    Some(taken)
}

fn take_u32(body: &mut &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(take_some(body, 4)?.try_into().ok()?))
}

fn take_u64(body: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(take_some(body, 8)?.try_into().ok()?))
}

/// A byte string, or that there is none.
fn take<'a>(body: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    Some(match take_u32(body)? {
        NONE => None,
        length => Some(take_some(body, length as usize)?),
    })
}
