//! Random operations on the store and on a `BTreeMap` have the same results.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::*;

type Oracle = BTreeMap<Position, Vec<u8>>;

fn key(random: &mut Random) -> Vec<u8> {
    // Few keys, so that operations collide; some are prefixes of others, and some contain zeros.
    let length = 1 + random.below(3) as usize;
    (0..length).map(|_| random.below(4) as u8).collect()
}

fn partition_of<'a>(oracle: &'a Oracle, partition: &[u8]) -> BTreeMap<&'a [u8], &'a [u8]> {
    oracle
        .iter()
        .filter(|((owner, _), _)| owner == partition)
        .map(|((_, key), value)| (key.as_slice(), value.as_slice()))
        .collect()
}

fn check_scan(
    random: &mut Random,
    oracle: &Oracle,
    partition: &[u8],
    scan: impl Fn(Option<&[u8]>, Option<&[u8]>, bool, usize) -> Page<Entry>,
) {
    let start = (random.below(2) == 0).then(|| key(random));
    let end = (random.below(2) == 0).then(|| key(random));
    let reverse = random.below(2) == 0;
    let limit = random.below(6) as usize;
    let entries = partition_of(oracle, partition);
    let found = if start.is_some() && end.is_some() && start >= end {
        vec![]
    } else {
        let range = (
            start.as_deref().map_or(Bound::Unbounded, Bound::Included),
            end.as_deref().map_or(Bound::Unbounded, Bound::Excluded),
        );
        let found = entries.range::<[u8], _>(range);
        let mut found: Vec<_> = found
            .map(|(key, value)| (key.to_vec(), value.to_vec()))
            .collect();
        if reverse {
            found.reverse();
        }
        found
    };
    let expected = Page {
        more: found.len() > limit,
        entries: found.into_iter().take(limit).collect(),
    };
    let page = scan(start.as_deref(), end.as_deref(), reverse, limit);
    assert_eq!(
        page, expected,
        "{start:?}..{end:?} reverse {reverse} limit {limit}"
    );
}

/// Sets, deletes, batches, scans and discards, in transactions of grouped commits. The file is
/// closed and reopened in between, and every read is compared.
#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one match over what a transaction does"
)]
fn random_transactions_read_and_store_what_a_map_would() {
    let seed = 0x05_7a_4a_0e;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    let directory = tempfile::tempdir().expect("a directory can be created");
    let mut store = open(directory.path());
    let mut oracle = Oracle::new();
    let mut operations = 0;
    for round in 0..120 {
        let mut group = Group::new(snapshot(&store));
        for _ in 0..random.below(12) {
            // Few partitions, one of them a prefix of another. One becomes large.
            let partition = [&b"a"[..], b"ab", b"b", b"a\0"][random.below(4) as usize].to_vec();
            let mut transaction = group.begin(partition.clone(), LIMITS);
            let mut changed = oracle.clone();
            for _ in 0..random.below(20) {
                operations += 1;
                let entry = (partition.clone(), key(&mut random));
                match random.below(6) {
                    0 | 1 => {
                        let value = vec![round as u8; random.below(9) as usize];
                        transaction
                            .set(entry.1.clone(), value.clone())
                            .expect("it is set");
                        changed.insert(entry, value);
                    }
                    2 => {
                        let deleted = transaction.delete(entry.1.clone()).expect("it reads");
                        assert_eq!(deleted, changed.remove(&entry).is_some());
                    }
                    3 => {
                        let entries: Vec<Entry> =
                            (0..3).map(|at| (key(&mut random), vec![at])).collect();
                        transaction
                            .set_many(entries.clone(), usize::MAX, &mut unbounded)
                            .expect("they are set");
                        for (key, value) in entries {
                            changed.insert((partition.clone(), key), value);
                        }
                    }
                    4 => {
                        let value = transaction.get(&entry.1).expect("it reads");
                        assert_eq!(value.as_ref(), changed.get(&entry));
                    }
                    _ => check_scan(
                        &mut random,
                        &changed,
                        &partition,
                        |start, end, reverse, limit| {
                            transaction
                                .scan(start, end, reverse, limit, &mut unbounded)
                                .expect("it reads")
                        },
                    ),
                }
            }
            if random.below(4) == 0 {
                group = transaction.discard();
            } else {
                group = transaction.commit();
                oracle = changed;
            }
        }
        store.commit(group).expect("it is committed");
        if random.below(8) == 0 {
            drop(store);
            store = open(directory.path());
        }
        let snapshot = snapshot(&store);
        let all = snapshot
            .scan(None, usize::MAX, &mut unbounded)
            .expect("it reads");
        assert_eq!(all.entries, oracle.clone().into_iter().collect::<Vec<_>>());
        assert_eq!(snapshot.entries().expect("it reads"), oracle.len() as u64);
        let mut partitions: Vec<_> = oracle.keys().map(|(owner, _)| owner.clone()).collect();
        partitions.dedup();
        let page = snapshot
            .partitions(None, None, 100, &mut unbounded)
            .expect("it reads");
        assert_eq!(page.entries, partitions);
        for partition in partitions {
            let entries = partition_of(&oracle, &partition);
            let bytes = entries
                .iter()
                .map(|(key, value)| key.len() + value.len())
                .sum::<usize>();
            let size = snapshot.size(&partition).expect("it reads");
            assert_eq!(
                size,
                (bytes as u64, entries.len() as u64),
                "size of {partition:?}"
            );
            check_scan(
                &mut random,
                &oracle,
                &partition,
                |start, end, reverse, limit| {
                    snapshot
                        .scan_partition(&partition, start, end, reverse, limit, &mut unbounded)
                        .expect("it reads")
                },
            );
        }
    }
    println!("{operations} operations");
    assert!(operations > 5_000, "{operations}");
}

#[test]
fn a_snapshot_stays_as_it_is() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let mut store = open(directory.path());
    commit(&mut store, b"p", &[(b"k", Some(b"old"))]).expect("it is stored");
    let before = snapshot(&store);
    commit(&mut store, b"p", &[(b"k", Some(b"new")), (b"l", Some(b""))]).expect("it is stored");
    assert_eq!(
        before.get(b"p", b"k").expect("it reads"),
        Some(b"old".to_vec())
    );
    assert_eq!(before.get(b"p", b"l").expect("it reads"), None);
    assert_eq!(
        snapshot(&store).get(b"p", b"l").expect("it reads"),
        Some(vec![])
    );
}

#[test]
fn a_write_over_a_limit_changes_nothing() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let mut store = open(directory.path());
    commit(&mut store, b"p", &[(b"k", Some(&[1; 10]))]).expect("it is stored");
    let limits = Limits {
        max_key_bytes: 2,
        max_value_bytes: 20,
        max_partition_bytes: 35,
    };
    let mut transaction = Group::new(snapshot(&store)).begin(b"p".to_vec(), limits);
    let set = |transaction: &mut Transaction, key: &[u8], value: usize| {
        transaction.set(key.to_vec(), vec![0; value])
    };
    assert!(matches!(
        set(&mut transaction, b"", 1),
        Err(WriteError::KeySize(2))
    ));
    assert!(matches!(
        set(&mut transaction, b"abc", 1),
        Err(WriteError::KeySize(2))
    ));
    assert!(matches!(
        set(&mut transaction, b"k", 21),
        Err(WriteError::ValueSize(20))
    ));
    // There are 11 bytes: 24 more fit, and 25 do not.
    set(&mut transaction, b"l", 19).expect("the number fits");
    assert!(matches!(
        set(&mut transaction, b"m", 4),
        Err(WriteError::PartitionFull(35))
    ));
    set(&mut transaction, b"m", 3).expect("it fits exactly");
    // Replacing a longer value frees room.
    set(&mut transaction, b"k", 9).expect("it is shorter");
    let many = vec![(b"n".to_vec(), vec![]), (b"o".to_vec(), vec![])];
    let before = transaction
        .scan(None, None, false, 10, &mut unbounded)
        .expect("it reads");
    assert!(matches!(
        transaction.set_many(many, usize::MAX, &mut unbounded),
        Err(WriteError::PartitionFull(35))
    ));
    assert_eq!(
        transaction
            .scan(None, None, false, 10, &mut unbounded)
            .expect("it reads"),
        before
    );
}

#[test]
fn a_scan_ends_at_a_mebibyte_but_gives_one_entry_at_least() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let mut store = open(directory.path());
    let limits = Limits {
        max_value_bytes: 4 << 20,
        max_partition_bytes: 16 << 20,
        ..LIMITS
    };
    let mut transaction = Group::new(snapshot(&store)).begin(b"p".to_vec(), limits);
    for (key, length) in [(b"a", 2 << 20), (b"b", 1 << 19), (b"c", 1 << 19)] {
        transaction
            .set(key.to_vec(), vec![0; length])
            .expect("the number fits");
    }
    let lengths = |page: Page<Entry>| {
        (
            page.entries
                .iter()
                .map(|(_, value)| value.len())
                .collect::<Vec<_>>(),
            page.more,
        )
    };
    let page = transaction
        .scan(None, None, false, 10, &mut unbounded)
        .expect("it reads");
    assert_eq!(lengths(page), (vec![2 << 20], true));
    store.commit(transaction.commit()).expect("it is stored");
    let page = snapshot(&store).scan_partition(b"p", Some(b"b"), None, false, 10, &mut unbounded);
    assert_eq!(lengths(page.expect("it reads")), (vec![1 << 19], true));
}

#[test]
fn partitions_are_listed_in_pages_past_large_ones() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let mut store = open(directory.path());
    for partition in [&b"a"[..], b"b", b"b\0", b"c"] {
        let keys: Vec<[u8; 1]> = (0..60).map(|key| [key]).collect();
        let changes: Vec<(&[u8], Option<&[u8]>)> = keys
            .iter()
            .map(|key| (key.as_slice(), Some(&b"v"[..])))
            .collect();
        commit(&mut store, partition, &changes).expect("it is stored");
    }
    let snapshot = snapshot(&store);
    let list = |start: Option<&[u8]>, end: Option<&[u8]>, limit| {
        let page = snapshot
            .partitions(start, end, limit, &mut unbounded)
            .expect("it reads");
        (page.entries, page.more)
    };
    let keys = |keys: &[&[u8]]| keys.iter().map(|key| key.to_vec()).collect::<Vec<_>>();
    assert_eq!(list(None, None, 2), (keys(&[b"a", b"b"]), true));
    assert_eq!(
        list(Some(b"b"), None, 9),
        (keys(&[b"b", b"b\0", b"c"]), false)
    );
    assert_eq!(list(Some(b"b\0"), Some(b"c"), 9), (keys(&[b"b\0"]), false));
    assert_eq!(list(Some(b"c"), Some(b"a"), 9), (vec![], false));
    assert_eq!(list(None, None, 0), (vec![], true));
}

#[test]
fn a_migration_sees_its_own_writes_and_is_stored_with_its_record_or_not_at_all() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let mut store = open(directory.path());
    commit(&mut store, b"p", &[(b"k", Some(b"1"))]).expect("it is stored");
    let record = Record {
        schema: Some(7),
        generation: Some(b"g".to_vec()),
        topology: None,
    };
    let at = |partition: &[u8], key: &[u8]| (partition.to_vec(), key.to_vec());

    let mut migration = store.begin_migration(LIMITS).expect("it begins");
    let many: Vec<_> = (0..40).map(|key| (at(b"p", &[key]), vec![key])).collect();
    migration
        .set_many(&many, &mut unbounded)
        .expect("they are set");
    assert_eq!(
        migration
            .delete_many(&[at(b"p", b"k"), at(b"p", b"x")], &mut unbounded)
            .expect("it reads"),
        1
    );
    assert_eq!(
        migration
            .get_if(b"p", &[3], &mut unbounded)
            .expect("it reads"),
        Some(vec![3])
    );
    let mixed = [
        (at(b"p", &[3]), b"changed".to_vec()),
        (at(b"q", b"k"), vec![]),
    ];
    assert!(matches!(
        migration.set_many(&mixed, &mut unbounded),
        Err(WriteError::NoSuchPartition)
    ));
    assert_eq!(
        migration
            .get_if(b"p", &[3], &mut unbounded)
            .expect("it reads"),
        Some(vec![3])
    );
    drop(migration);
    assert_eq!(snapshot(&store).entries().expect("it reads"), 1);
    assert_eq!(store.record(), &Record::default());

    let mut migration = store.begin_migration(LIMITS).expect("it begins");
    migration
        .set_many(&many, &mut unbounded)
        .expect("they are set");
    let after = store
        .commit_migration(migration, record.clone())
        .expect("it is stored");
    assert_eq!(after.entries().expect("it reads"), 41);
    drop(store);
    let store = open(directory.path());
    assert_eq!(store.record(), &record);
    assert_eq!(snapshot(&store).size(b"p").expect("it reads"), (82, 41));
}

/// Regression: each entry that was set and deleted in one request left a mark of up to a kilobyte
/// that no limit counted.
#[test]
fn what_a_request_sets_and_deletes_leaves_nothing_in_memory() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let mut store = open(directory.path());
    let old: Vec<_> = (0..9).map(|key| [key]).collect();
    let stored: Vec<_> = old.iter().map(|key| (&key[..], Some(&b"v"[..]))).collect();
    commit(&mut store, b"p", &stored).expect("it is stored");
    let mut transaction = Group::new(snapshot(&store)).begin(b"p".to_vec(), LIMITS);
    for round in 0..1000_u32 {
        let key = round.to_be_bytes().to_vec();
        transaction
            .set(key.clone(), vec![1; 9])
            .expect("the number fits");
        let many = vec![(key.clone(), vec![2; 99]), (b"k".to_vec(), vec![3; 9])];
        transaction
            .set_many(many, usize::MAX, &mut unbounded)
            .expect("the number fits");
        assert!(transaction.delete(key.clone()).expect("it reads"));
        assert!(!transaction.delete(key).expect("it reads"));
        assert!(transaction.delete(b"k".to_vec()).expect("it reads"));
    }
    assert_eq!(transaction.held(), 0);
    // A stored entry is marked as deleted only once.
    for key in old.iter().chain(&old) {
        let _ = transaction.delete(key.to_vec()).expect("it reads");
    }
    assert_eq!(transaction.held(), old.len() * (2 * ENTRY_BYTES + 1));
    let page = transaction.scan(None, None, false, 99, &mut unbounded);
    assert_eq!(page.expect("it reads").entries, []);
    // The same holds for an entry that another request of the group has set.
    let group = transaction.commit();
    let mut transaction = group.begin(b"q".to_vec(), LIMITS);
    transaction
        .set(b"k".to_vec(), vec![])
        .expect("the number fits");
    let mut transaction = transaction.commit().begin(b"q".to_vec(), LIMITS);
    transaction
        .set(b"k".to_vec(), vec![1])
        .expect("the number fits");
    assert!(transaction.delete(b"k".to_vec()).expect("it reads"));
    assert_eq!(transaction.get(b"k").expect("it reads"), None);
    let after = store.commit(transaction.commit()).expect("it is stored");
    assert_eq!(after.entries().expect("it reads"), 0);
}

/// Regression: the old values were kept for undoing the batch, however large they were.
#[test]
fn a_migrations_batch_is_checked_before_any_of_it_is_set() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let mut store = open(directory.path());
    for partition in [b"p", b"q"] {
        commit(&mut store, partition, &[(b"k", Some(b"1"))]).expect("it is stored");
    }
    let limits = Limits {
        max_partition_bytes: 20,
        ..LIMITS
    };
    let mut migration = store.begin_migration(limits).expect("it begins");
    let entry = |partition: &[u8], key: &[u8], length| {
        ((partition.to_vec(), key.to_vec()), vec![2; length])
    };
    // Each entry fits by itself, but not together with those before it. The entries are added,
    // replace one another, or are in different partitions.
    let fits = [
        entry(b"p", b"a", 17),
        entry(b"q", b"a", 17),
        entry(b"p", b"a", 4),
        entry(b"p", b"b", 12),
    ];
    let mut too_many = fits.to_vec();
    too_many.push(entry(b"p", b"b", 13));
    assert!(matches!(
        migration.set_many(&too_many, &mut unbounded),
        Err(WriteError::PartitionFull(20))
    ));
    assert_eq!(
        migration
            .get_if(b"q", b"a", &mut unbounded)
            .expect("it reads"),
        None
    );
    migration
        .set_many(&fits, &mut unbounded)
        .expect("the numbers fit");
    assert_eq!(
        migration
            .get_if(b"p", b"a", &mut unbounded)
            .expect("it reads"),
        Some(vec![2; 4])
    );
    let record = Record {
        schema: Some(1),
        ..Record::default()
    };
    let after = store
        .commit_migration(migration, record)
        .expect("it is stored");
    assert_eq!(after.size(b"p").expect("it reads"), (20, 3));
    assert_eq!(after.size(b"q").expect("it reads"), (20, 2));
}
