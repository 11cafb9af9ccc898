//! The contract's imports over a shard in memory.

use std::ops::Bound;

use super::{
    Limits, Partition,
    call::{Call, Export, with},
};
use crate::{
    Generation, Header,
    bindings::ostrakon::shard::{
        shard::{self, PartitionPage, Position},
        store::{self, Entry, Range},
    },
    log::Level,
};

/// The maximum bytes of a page.
const PAGE: usize = 1 << 20;

/// The most random bytes of one call.
const RANDOM: usize = 64 << 10;

/// What an entry or value from the host counts in addition to its bytes.
const ELEMENT: usize = 64;

/// What a key or value from the guest counts in addition to its bytes.
const GIVEN: usize = 24;

pub(crate) fn store_get(key: &[u8]) -> Option<Vec<u8>> {
    partition("store.get", |partition| partition?.get(key).cloned())
}

pub(crate) fn store_get_many(keys: &[Vec<u8>]) -> Vec<Option<Vec<u8>>> {
    let import = "store.get-many";
    bound(import, keys.iter().map(|key| GIVEN + key.len()));
    let mut found = 0;
    let most = with(|call| call.world.limits.call);
    partition(import, |partition| {
        let get = |key| {
            let value = partition.and_then(|partition| partition.get(key));
            found += ELEMENT + value.map_or(0, Vec::len);
            check(import, found, most);
            value.cloned()
        };
        keys.iter().map(get).collect()
    })
}

pub(crate) fn store_set(key: &[u8], value: &[u8]) -> Result<(), store::Error> {
    write("store.set", |partition, limits| {
        insert(partition, limits, [(key, value)])
    })
}

pub(crate) fn store_set_many(entries: &[Entry]) -> Result<(), store::Error> {
    let bytes = |entry: &Entry| 2 * GIVEN + entry.key.len() + entry.value.len();
    bound("store.set-many", entries.iter().map(bytes));
    let entries = entries.iter().map(|entry| (&*entry.key, &*entry.value));
    write("store.set-many", |partition, limits| {
        insert(partition, limits, entries)
    })
}

pub(crate) fn store_delete(key: &[u8]) -> Result<bool, store::Error> {
    write("store.delete", |partition, _| {
        Ok(partition.remove(key).is_some())
    })
}

pub(crate) fn store_delete_many(keys: &[Vec<u8>]) -> Result<u32, store::Error> {
    bound(
        "store.delete-many",
        keys.iter().map(|key| GIVEN + key.len()),
    );
    write("store.delete-many", |partition, _| {
        Ok(count(
            keys.iter().filter(|key| partition.remove(*key).is_some()),
        ))
    })
}

pub(crate) fn store_scan(range: &Range, limit: u32) -> store::Page {
    partition("store.scan", |partition| {
        let start = range
            .start
            .clone()
            .map_or(Bound::Unbounded, Bound::Included);
        let end = range.end.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let none = matches!((&range.start, &range.end), (Some(start), Some(end)) if start >= end);
        let Some(partition) = partition.filter(|_| !none) else {
            return store::Page {
                entries: Vec::new(),
                more: false,
            };
        };
        let entries = partition.range((start, end)).map(|(key, value)| Entry {
            key: key.clone(),
            value: value.clone(),
        });
        let size = |entry: &Entry| entry.key.len() + entry.value.len();
        let (entries, more) = if range.reverse {
            page(entries.rev(), limit, size)
        } else {
            page(entries, limit, size)
        };
        store::Page { entries, more }
    })
}

pub(crate) fn shard_partitions(
    start: Option<&[u8]>,
    end: Option<&[u8]>,
    limit: u32,
) -> PartitionPage {
    shard("shard.partitions", |call| {
        let keys = call.world.partitions.keys();
        let within = |key: &&Vec<u8>| {
            start.is_none_or(|start| &***key >= start) && end.is_none_or(|end| &***key < end)
        };
        let (partitions, more) = page(keys.filter(within).cloned(), limit, Vec::len);
        PartitionPage { partitions, more }
    })
}

pub(crate) fn shard_scan(after: Option<&Position>, limit: u32) -> shard::Page {
    shard("shard.scan", |call| {
        let partitions = call.world.partitions.iter();
        let entries = partitions.flat_map(|(partition, entries)| {
            entries
                .iter()
                .map(move |(key, value)| (partition.as_slice(), key.as_slice(), value.as_slice()))
        });
        let beyond = entries.filter(|(partition, key, _)| {
            after.is_none_or(|at| (*partition, *key) > (&at.partition, &at.key))
        });
        let size = |entry: &(&[u8], &[u8], &[u8])| entry.0.len() + entry.1.len() + entry.2.len();
        let (entries, more) = page(beyond, limit, size);
        let owned = |(partition, key, value): (&[u8], &[u8], &[u8])| shard::Entry {
            partition: partition.to_vec(),
            key: key.to_vec(),
            value: value.to_vec(),
        };
        shard::Page {
            entries: entries.into_iter().map(owned).collect(),
            more,
        }
    })
}

pub(crate) fn shard_get(partition: &[u8], key: &[u8]) -> Option<Vec<u8>> {
    shard("shard.get", |call| {
        call.world.partitions.get(partition)?.get(key).cloned()
    })
}

pub(crate) fn shard_set_many(entries: &[shard::Entry]) -> Result<(), shard::Error> {
    let bytes = |entry: &shard::Entry| {
        3 * GIVEN + entry.partition.len() + entry.key.len() + entry.value.len()
    };
    bound("shard.set-many", entries.iter().map(bytes));
    migrate("shard.set-many", |call, known| {
        let mut partitions = call.world.partitions.clone();
        for shard::Entry {
            partition,
            key,
            value,
        } in entries
        {
            if !known.contains(partition) {
                return Err(shard::Error::NoSuchPartition);
            }
            let partition = partitions.entry(partition.clone()).or_default();
            insert(partition, &call.world.limits, [(&**key, &**value)])
                .map_err(shard::Error::Store)?;
        }
        call.world.partitions = partitions;
        Ok(())
    })
}

pub(crate) fn shard_delete_many(positions: &[Position]) -> Result<u32, shard::Error> {
    let bytes = |at: &Position| 2 * GIVEN + at.partition.len() + at.key.len();
    bound("shard.delete-many", positions.iter().map(bytes));
    migrate("shard.delete-many", |call, _| {
        let partitions = &mut call.world.partitions;
        let deleted = count(positions.iter().filter(|at| {
            partitions
                .get_mut(&at.partition)
                .is_some_and(|partition| partition.remove(&at.key).is_some())
        }));
        partitions.retain(|_, partition| !partition.is_empty());
        Ok(deleted)
    })
}

pub(crate) fn request_header(name: &str) -> Vec<Vec<u8>> {
    let named = |header: Header| {
        header
            .name
            .eq_ignore_ascii_case(name)
            .then_some(header.value)
    };
    headers("request.header-values")
        .into_iter()
        .filter_map(named)
        .collect()
}

pub(crate) fn request_headers() -> Vec<Header> {
    headers("request.headers")
}

pub(crate) fn request_partition() -> Option<Vec<u8>> {
    with(|call| match &call.export {
        Export::Partition { partition, .. } => Some(partition.clone()),
        Export::Shard { .. } => None,
        _ => refuse("request.partition", call),
    })
}

pub(crate) fn request_now() -> u64 {
    with(|call| match &call.export {
        Export::Partition { .. }
        | Export::Shard { .. }
        | Export::Gather { .. }
        | Export::Migrate { .. } => {
            u64::try_from(call.world.now.as_nanos()).expect("the time is before the year 2554")
        }
        _ => refuse("request.now", call),
    })
}

/// The same bytes for the same seed, request and export, so that tests can be repeated.
pub(crate) fn request_random(length: u32) -> Vec<u8> {
    check("request.random", length as usize, RANDOM);
    with(|call| {
        let stream = match &call.export {
            Export::Route { .. } => 1,
            Export::Gather { .. } => 2,
            Export::Partition { .. } | Export::Shard { .. } => 3 + u64::from(call.world.ordinal),
            _ => refuse("request.random", call),
        };
        let mut bytes = Vec::with_capacity(length as usize + 8);
        while bytes.len() < length as usize {
            call.given += 1;
            let number = [call.world.seed, call.world.request, stream, call.given];
            bytes.extend(number.into_iter().fold(0, mix).to_le_bytes());
        }
        bytes.truncate(length as usize);
        bytes
    })
}

/// A step of `SplitMix64` (Steele, Lea and Flood, 2014).
fn mix(state: u64, number: u64) -> u64 {
    let mut mixed = (state ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

pub(crate) fn request_relax() {
    with(|call| match call.export {
        Export::Route { .. } => call.world.relaxed = true,
        _ => refuse("request.relax", call),
    });
}

pub(crate) fn request_part_generation(shard: u32) -> Option<Generation> {
    with(|call| match &call.export {
        Export::Gather { generations, .. } => generations.get(&shard).cloned(),
        _ => refuse("request.part-generation", call),
    })
}

pub(crate) fn request_ordinal() -> u32 {
    with(|call| call.world.ordinal)
}

pub(crate) fn request_shards() -> u32 {
    with(|call| call.world.shards)
}

pub(crate) fn settings_get(name: &str) -> Option<Vec<u8>> {
    with(|call| call.world.settings.get(name).cloned())
}

pub(crate) fn settings_names() -> Vec<String> {
    with(|call| call.world.settings.keys().cloned().collect())
}

pub(crate) struct SecretHandle(Vec<u8>);

impl SecretHandle {
    pub(crate) fn reveal(&self) -> Vec<u8> {
        self.0.clone()
    }
}

pub(crate) fn secret(name: &str) -> Option<SecretHandle> {
    with(|call| match call.export {
        Export::Describe | Export::Start | Export::Owner | Export::Route { .. } => {
            refuse("secrets.get", call)
        }
        _ => call.world.secrets.get(name).cloned().map(SecretHandle),
    })
}

pub(crate) fn log_write(level: Level, message: &str) {
    with(|call| {
        call.world.log.push((level, message.to_owned()));
    });
}

/// The partition of a request, to read.
fn partition<T>(import: &str, read: impl FnOnce(Option<&Partition>) -> T) -> T {
    with(|call| match &call.export {
        Export::Partition { partition, .. } => read(call.world.partitions.get(partition)),
        _ => refuse(import, call),
    })
}

/// The partition of a request, to write: an empty one does not exist.
fn write<T>(
    import: &str,
    write: impl FnOnce(&mut Partition, &Limits) -> Result<T, store::Error>,
) -> Result<T, store::Error> {
    with(|call| match &call.export {
        Export::Partition { write: false, .. } => Err(store::Error::ReadOnly),
        Export::Partition {
            partition: key,
            write: true,
            ..
        } => {
            let partition = call.world.partitions.entry(key.clone()).or_default();
            let result = write(partition, &call.world.limits);
            if partition.is_empty() {
                call.world.partitions.remove(key);
            }
            result
        }
        _ => refuse(import, call),
    })
}

/// Reads the shard, if the export that runs may.
fn shard<T>(import: &str, read: impl FnOnce(&Call) -> T) -> T {
    with(|call| match call.export {
        Export::Shard { .. } | Export::Migrate { .. } => read(call),
        _ => refuse(import, call),
    })
}

/// The shard, to write, with the partitions that were there when the migration began.
fn migrate<T>(
    import: &str,
    write: impl FnOnce(&mut Call, &std::collections::BTreeSet<Vec<u8>>) -> Result<T, shard::Error>,
) -> Result<T, shard::Error> {
    with(|call| match &call.export {
        Export::Migrate { partitions } => {
            let known = partitions.clone();
            write(call, &known)
        }
        Export::Shard { .. } => Err(shard::Error::Store(store::Error::ReadOnly)),
        _ => refuse(import, call),
    })
}

fn headers(import: &str) -> Vec<Header> {
    with(|call| match &call.export {
        Export::Route { headers }
        | Export::Partition { headers, .. }
        | Export::Shard { headers }
        | Export::Gather { headers, .. } => headers.clone(),
        _ => refuse(import, call),
    })
}

/// Ends the guest's call, like a trap in the host.
fn refuse(import: &str, call: &Call) -> ! {
    panic!("{import} may not be called in {:?}", call.export)
}

/// Ends the guest's call if it hands over more bytes than one call may.
fn bound(import: &str, elements: impl Iterator<Item = usize>) {
    let bytes = elements.sum();
    check(import, bytes, with(|call| call.world.limits.call));
}

fn check(import: &str, bytes: usize, most: usize) {
    assert!(
        bytes <= most,
        "`{import}` has more than {most} bytes in one call: ask for less at once"
    );
}

/// Puts entries into a partition: all of them, or none on an error.
fn insert<'a>(
    partition: &mut Partition,
    limits: &Limits,
    entries: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<(), store::Error> {
    let bound = |limit: usize| u32::try_from(limit).expect("limits are below 4 GiB");
    let mut after = partition.clone();
    for (key, value) in entries {
        if key.is_empty() || key.len() > limits.key {
            return Err(store::Error::KeySize(bound(limits.key)));
        }
        if value.len() > limits.value {
            return Err(store::Error::ValueSize(bound(limits.value)));
        }
        after.insert(key.to_vec(), value.to_vec());
    }
    if after
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum::<usize>()
        > limits.partition
    {
        return Err(store::Error::PartitionFull(bound(limits.partition)));
    }
    *partition = after;
    Ok(())
}

/// The first items, within the limits of a page, and whether there are more.
fn page<T>(
    items: impl Iterator<Item = T>,
    limit: u32,
    size: impl Fn(&T) -> usize,
) -> (Vec<T>, bool) {
    let mut items = items.peekable();
    let mut taken = Vec::new();
    let mut bytes = 0;
    while let Some(item) = items.peek() {
        bytes += ELEMENT + size(item);
        if taken.len() == limit as usize || (bytes > PAGE && !taken.is_empty()) {
            return (taken, true);
        }
        taken.extend(items.next());
    }
    (taken, false)
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).expect("a batch has fewer than 2^32 items")
}
