//! What a rehearsal sees and writes: forks of groups, and migrations of copies.

use std::fs;

use super::*;

#[test]
fn a_fork_sees_its_partitions_writes_and_changes_neither() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    commit(&mut store, b"p", &[(b"a", Some(b"stored"))]).unwrap();
    let group = Group::new(snapshot(&store));
    let write = |group: Group, partition: &[u8], key: &[u8], value: &[u8]| {
        let mut transaction = group.begin(partition.to_vec(), LIMITS);
        transaction.set(key.to_vec(), value.to_vec()).unwrap();
        transaction.commit()
    };
    let group = write(group, b"p", b"b", b"1");
    let group = write(group, b"q", b"c", b"1");
    let fork = group.fork(b"p");
    assert_eq!(
        fork.writes(b"p").collect::<Vec<_>>(),
        [(&b"b"[..], Some(&b"1"[..]))]
    );
    assert_eq!(fork.writes(b"q").count(), 0);
    assert!(fork.bytes() > 0 && fork.bytes() < group.bytes());
    let fork = write(fork, b"p", b"b", b"2");
    let mut transaction = fork.begin(b"p".to_vec(), LIMITS);
    assert_eq!(transaction.get(b"a").unwrap().unwrap(), b"stored");
    assert_eq!(transaction.get(b"b").unwrap().unwrap(), b"2");
    assert!(transaction.delete(b"a".to_vec()).unwrap());
    let fork = transaction.commit();
    let written: Vec<_> = fork.writes(b"p").collect();
    assert_eq!(written, [(&b"a"[..], None), (b"b", Some(&b"2"[..]))]);
    // The group goes on as before.
    assert_eq!(
        group.writes(b"p").collect::<Vec<_>>(),
        [(&b"b"[..], Some(&b"1"[..]))]
    );
    store.commit(group).unwrap();
    let stored = snapshot(&store);
    assert_eq!(stored.get(b"p", b"a").unwrap().unwrap(), b"stored");
    assert_eq!(stored.get(b"p", b"b").unwrap().unwrap(), b"1");
    assert_eq!(stored.get(b"q", b"c").unwrap().unwrap(), b"1");
}

#[test]
fn a_copy_is_whole_and_its_migration_changes_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    // More than one page, one partition with a noted size, some of it only in the memtable.
    let value = [7; 4000];
    for number in 0..600_u32 {
        let partition = format!("p{:03}", number / 3);
        let key = number.to_be_bytes();
        commit(&mut store, partition.as_bytes(), &[(&key, Some(&value))]).unwrap();
    }
    for number in 0..2 * SMALL as u32 {
        commit(&mut store, b"large", &[(&number.to_be_bytes(), Some(b"v"))]).unwrap();
    }
    let before = snapshot(&store);
    let names = || -> Vec<_> {
        let files = fs::read_dir(directory.path()).unwrap();
        let mut names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let files = names();
    let mut pages = 0;
    let mut go_on = |_| {
        pages += 1;
        true
    };
    let copy = begin_migration_of_copy(&before, directory.path(), LIMITS, &mut go_on);
    let mut migration = copy.unwrap().expect("it goes on");
    assert!(pages > 1, "{pages}");
    assert_eq!(names(), files, "the copy has no name");
    let unchanged = migration.rewritten(&mut unbounded).unwrap().unwrap();
    assert_eq!(unchanged.entries, before.entries().unwrap());
    assert_eq!(unchanged.changed, 0);
    assert_eq!(unchanged.largest_partition, 3 * 4004);
    let scanned = |migration: &Migration| {
        let page = migration.partitions(None, None, usize::MAX, &mut unbounded);
        page.unwrap().entries.len()
    };
    assert_eq!(scanned(&migration), 201);
    // One is changed, one added, one removed.
    let at = |partition: &str, number: u32| {
        (partition.as_bytes().to_vec(), number.to_be_bytes().to_vec())
    };
    let entries = [(at("p000", 0), vec![8]), (at("p001", 9), vec![9])];
    migration.set_many(&entries, &mut unbounded).unwrap();
    assert_eq!(
        migration
            .delete_many(&[at("p002", 6)], &mut unbounded)
            .unwrap(),
        1
    );
    let rewritten = migration.rewritten(&mut unbounded).unwrap().unwrap();
    assert_eq!(
        (rewritten.entries, rewritten.changed),
        (unchanged.entries, 3)
    );
    drop(migration);
    let after = snapshot(&store);
    assert_eq!(after.entries().unwrap(), before.entries().unwrap());
    assert_eq!(
        after.get(b"p000", &0_u32.to_be_bytes()).unwrap().unwrap(),
        value
    );

    // It can be stopped.
    let stopped = begin_migration_of_copy(&before, directory.path(), LIMITS, &mut |_| false);
    assert!(stopped.unwrap().is_none());
    assert_eq!(names(), files);
}
