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

/// A FIFO in place of the lock hung the start, before there was anything to see.
#[test]
fn what_is_no_regular_file_is_an_error_and_not_waited_for() {
    use ostrakon_test_support::files::{fifo, in_time};

    for name in ["lock", "shard.redb", "shard.new"] {
        let directory = tempfile::tempdir().expect("a directory");
        let other = directory.path().join("other");
        fs::write(&other, "mine").expect("it is written");
        let path = directory.path().join(name);
        let makers: [&dyn Fn(); 3] = [
            &|| fifo(&path),
            &|| fs::create_dir(&path).expect("it is made"),
            &|| std::os::unix::fs::symlink(&other, &path).expect("it is made"),
        ];
        for make in makers {
            make();
            let options = Options::new(directory.path(), 1 << 20);
            let error = in_time(move || Store::open(options)).expect_err(name);
            assert!(
                matches!(&error, OpenError::Io { path: at, .. } if *at == path),
                "{error}"
            );
            if path.is_dir() {
                fs::remove_dir(&path).expect("it is there");
            } else {
                fs::remove_file(&path).expect("it is there");
            }
        }
        assert_eq!(fs::read(&other).expect("it is there"), b"mine");
        // Where something was in the data file's place, the lock says so.
        fs::remove_file(directory.path().join("lock")).ok();
        open(directory.path());
    }
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
