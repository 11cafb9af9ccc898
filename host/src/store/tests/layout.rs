//! Which files open, and how others are refused.

use std::fs;

use super::*;

#[test]
fn a_directory_in_use_is_refused_and_opens_afterwards() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let refused = Store::open(Options::new(directory.path(), 1 << 20)).expect_err("it is in use");
    assert!(matches!(refused, OpenError::InUse(_)), "{refused}");
    drop(store);
    open(directory.path());
}

#[test]
fn a_newer_layout_is_refused_with_both_numbers() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(open(directory.path()));
    let path = directory.path().join("shard.redb");
    let database = redb::Database::open(&path).expect("it is a file of redb");
    let transaction = database.begin_write().expect("it begins");
    transaction
        .open_table(META)
        .expect("it is there")
        .insert("layout", 99_u32.to_le_bytes().as_slice())
        .expect("it is written");
    transaction.commit().expect("it is stored");
    drop(database);
    let refused = Store::open(Options::new(directory.path(), 1 << 20)).expect_err("it is newer");
    let text = refused.to_string();
    assert!(
        text.contains("layout 99") && text.contains("up to 1"),
        "{text}"
    );
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("shard.redb");
    fs::write(&path, b"these are not the bytes of a store").expect("it is written");
    let refused = Store::open(Options::new(directory.path(), 1 << 20)).expect_err("it is no store");
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
    assert_eq!(
        fs::read(&path).expect("it is there"),
        b"these are not the bytes of a store"
    );
}

#[test]
fn the_record_of_a_swap_is_there_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = open(directory.path());
    let record = Record {
        schema: Some(3),
        generation: Some(b"five".to_vec()),
        topology: Some(b"two of three".to_vec()),
    };
    store.set_record(record.clone()).expect("it is stored");
    drop(store);
    assert_eq!(open(directory.path()).record(), &record);
}
