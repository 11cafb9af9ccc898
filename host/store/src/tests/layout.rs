//! Which files can be opened, and how others are rejected.

use std::fs;

use super::*;

#[test]
fn a_directory_in_use_is_refused_and_opens_afterwards() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let store = open(directory.path());
    let refused = Store::open(Options::new(directory.path(), 1 << 20)).expect_err("it is in use");
    assert!(matches!(refused, OpenError::InUse(_)), "{refused}");
    drop(store);
    open(directory.path());
}

/// Regression: a FIFO in place of the lock file blocked the start before any output.
#[test]
fn what_is_no_regular_file_is_an_error_and_not_waited_for() {
    use ostrakon_test_support::files::{fifo, in_time};

    for name in ["lock", "shard.redb", "shard.new"] {
        let directory = tempfile::tempdir().expect("a directory can be created");
        let other = directory.path().join("other");
        fs::write(&other, "mine").expect("the file can be written");
        let path = directory.path().join(name);
        let makers: [&dyn Fn(); 3] = [
            &|| fifo(&path),
            &|| fs::create_dir(&path).expect("the directory can be created"),
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
        assert_eq!(fs::read(&other).expect("the file can be read"), b"mine");
        // If there was something in the data file's place, the lock file records that.
        fs::remove_file(directory.path().join("lock")).ok();
        open(directory.path());
    }
}

/// A store of layout 1, written by [`write_one`] when that layout was new.
const LAYOUT_1: &[u8] = include_bytes!("../fixtures/layout-1.redb.zst");

/// The record stored beside the data.
fn record() -> Record {
    Record {
        schema: Some(3),
        generation: Some(b"five".to_vec()),
        topology: Some(b"two of three".to_vec()),
    }
}

/// Writes a store with something in each table.
fn write_one(directory: &Path) {
    let mut store = open(directory);
    commit(&mut store, b"small", &[(b"key", Some(b"value"))]).expect("it is stored");
    let large: Vec<_> = (0..=SMALL).map(|at| [b'k', at as u8]).collect();
    let large: Vec<_> = large
        .iter()
        .map(|key| (&key[..], Some(&b"v"[..])))
        .collect();
    commit(&mut store, b"large", &large).expect("it is stored");
    store.set_record(record()).expect("it is stored");
}

/// Writes the bytes as the data file.
fn place(directory: &Path, file: &[u8]) {
    fs::write(directory.join("shard.redb"), file).expect("the file can be written");
}

fn fixture() -> Vec<u8> {
    zstd::decode_all(LAYOUT_1).expect("it is compressed")
}

/// The whole content of a store's file, table by table.
fn tables(directory: &Path) -> Vec<(String, Vec<String>)> {
    use redb::{ReadableDatabase as _, ReadableTable as _, TableHandle as _};

    let database = redb::Database::open(directory.join("shard.redb")).expect("a file of redb");
    let transaction = database.begin_read().expect("it begins");
    let names = transaction.list_tables().expect("they can be listed");
    let names: Vec<_> = names.map(|table| table.name().to_owned()).collect();
    let rows = |name: &str| -> Vec<String> {
        macro_rules! rows {
            ($table:expr) => {{
                let table = transaction
                    .open_table($table)
                    .expect("it is of these types");
                let rows = table.iter().expect("it reads").map(|row| {
                    let (key, value) = row.expect("it reads");
                    format!("{:?} {:?}", key.value(), value.value())
                });
                rows.collect()
            }};
        }
        match name {
            "entries" => rows!(ENTRIES),
            "sizes" => rows!(SIZES),
            "meta" => rows!(META),
            other => panic!("table `{other}` is new"),
        }
    };
    names
        .into_iter()
        .map(|name| (name.clone(), rows(&name)))
        .collect()
}

#[test]
fn each_layout_there_has_been_is_read() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    place(directory.path(), &fixture());
    let store = open(directory.path());
    assert_eq!(store.record(), &record());
    let snapshot = snapshot(&store);
    let value = |partition: &[u8], key: &[u8]| snapshot.get(partition, key).expect("it reads");
    assert_eq!(value(b"small", b"key"), Some(b"value".to_vec()));
    assert_eq!(value(b"large", b"k\x20"), Some(b"v".to_vec()));
    drop(store);
    let checked = check(directory.path(), 1 << 20).expect("it can be looked at");
    assert_eq!((checked.partitions, checked.problems), (2, Vec::new()));
}

/// A change of the stored data needs a new layout with a fixture.
#[test]
fn what_is_written_is_what_was_written_by_this_version_before() {
    let now = tempfile::tempdir().expect("a directory can be created");
    write_one(now.path());
    let written = fs::read(now.path().join("shard.redb")).expect("the file can be read");
    let before = tempfile::tempdir().expect("a directory can be created");
    place(before.path(), &fixture());
    assert_eq!(tables(now.path()), tables(before.path()));
    // The version of redb's format in both commit slots.
    for slot in [64, 192] {
        assert_eq!(u16::from(written[slot]), REDB.version);
        assert_eq!(written[slot], fixture()[slot]);
    }
}

/// Like a file after the kill of a process of a later version, which redb changes when it opens it.
#[test]
fn a_file_of_a_later_version_is_refused_with_both_numbers_and_stays_as_it_is() {
    let later_layout = {
        let directory = tempfile::tempdir().expect("a directory can be created");
        write_one(directory.path());
        let path = directory.path().join("shard.redb");
        let database = redb::Database::open(&path).expect("it is a file of redb");
        let transaction = database.begin_write().expect("it begins");
        transaction
            .open_table(META)
            .expect("it is there")
            .insert("layout", 99_u32.to_le_bytes().as_slice())
            .expect("it is written");
        transaction.commit().expect("it is stored");
        fs::read(&path).expect("it is open")
    };
    let mut later_format = fixture();
    for slot in [64, 192] {
        later_format[slot] = 4;
    }
    for (file, said) in [
        (later_layout, "the data's layout is of version 99, "),
        (later_format, "the data's file format is of version 4, "),
    ] {
        let directory = tempfile::tempdir().expect("a directory can be created");
        place(directory.path(), &file);
        let options = Options::new(directory.path(), 1 << 20);
        for refused in [
            Store::open(options).map(drop),
            check(directory.path(), 1 << 20).map(drop),
        ] {
            let error = refused.expect_err("it is newer");
            assert!(matches!(error, OpenError::Newer { .. }), "{error}");
            assert!(!error.is_damage());
            let text = error.to_string();
            assert!(
                text.contains(said) && text.contains("reads up to "),
                "{text}"
            );
            let now = fs::read(directory.path().join("shard.redb")).expect("the file can be read");
            assert!(now == file, "the file was changed");
        }
    }
}

/// A caller may decide not to open the store because of its record.
#[test]
fn a_file_that_was_found_and_not_opened_is_as_it_was() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let killed = {
        let directory = tempfile::tempdir().expect("a directory can be created");
        write_one(directory.path());
        let _store = open(directory.path());
        fs::read(directory.path().join("shard.redb")).expect("it is open")
    };
    place(directory.path(), &killed);
    let found = Store::find(Options::new(directory.path(), 1 << 20)).expect("it is found");
    assert_eq!(found.record(), &record());
    drop(found);
    let path = directory.path().join("shard.redb");
    assert!(
        fs::read(&path).expect("the file can be read") == killed,
        "the file was changed"
    );
    // Otherwise this test would not prove anything.
    drop(open(directory.path()));
    assert!(
        fs::read(&path).expect("the file can be read") != killed,
        "opening must change the file"
    );
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let path = directory.path().join("shard.redb");
    fs::write(&path, b"these are not the bytes of a store").expect("the file can be written");
    let refused = Store::open(Options::new(directory.path(), 1 << 20)).expect_err("it is no store");
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
    assert_eq!(
        fs::read(&path).expect("the file can be read"),
        b"these are not the bytes of a store"
    );
}

#[test]
fn the_record_of_a_swap_is_there_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let mut store = open(directory.path());
    store.set_record(record()).expect("it is stored");
    drop(store);
    assert_eq!(open(directory.path()).record(), &record());
}
