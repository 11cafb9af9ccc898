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

/// A store of layout 1, which had no journal, with the same data as [`write_one`] writes.
const LAYOUT_1: &[u8] = include_bytes!("../fixtures/layout-1.redb.zst");

/// A store of layout 2, written by [`write_one`] when that layout was new.
const LAYOUT_2: [&[u8]; 2] = [
    include_bytes!("../fixtures/layout-2.redb.zst"),
    include_bytes!("../fixtures/layout-2.journal.zst"),
];

/// The record stored beside the data.
fn record() -> Record {
    Record {
        schema: Some(3),
        generation: Some(b"five".to_vec()),
        topology: Some(b"two of three".to_vec()),
    }
}

/// Writes a store with something in each table, and in the journal.
fn write_one(directory: &Path) {
    let mut store = open(directory);
    commit(&mut store, b"small", &[(b"key", Some(b"old"))]).expect("it is stored");
    let large: Vec<_> = (0..=SMALL).map(|at| [b'k', at as u8]).collect();
    let large: Vec<_> = large
        .iter()
        .map(|key| (&key[..], Some(&b"v"[..])))
        .collect();
    commit(&mut store, b"large", &large).expect("it is stored");
    store.set_record(record()).expect("it is stored");
    store.catch_up().expect("it is written");
    let changes: [(&[u8], _); 2] = [(b"key", Some(&b"value"[..])), (b"gone", None)];
    commit(&mut store, b"small", &changes).expect("it is stored");
    store.set_record(record()).expect("it is stored");
}

/// Writes the bytes as the data file, and as the journal's first segment.
fn place(directory: &Path, [file, segment]: &[Vec<u8>; 2]) {
    fs::write(directory.join("shard.redb"), file).expect("the file can be written");
    if !segment.is_empty() {
        fs::create_dir_all(directory.join("journal")).expect("it can be made");
        fs::write(directory.join("journal/0"), segment).expect("the file can be written");
    }
}

fn files(directory: &Path) -> [Vec<u8>; 2] {
    ["shard.redb", "journal/0"].map(|name| fs::read(directory.join(name)).unwrap_or_default())
}

fn unpacked(file: &[u8]) -> Vec<u8> {
    zstd::decode_all(file).expect("it is compressed")
}

fn layout_1() -> [Vec<u8>; 2] {
    [unpacked(LAYOUT_1), Vec::new()]
}

fn layout_2() -> [Vec<u8>; 2] {
    LAYOUT_2.map(unpacked)
}

/// The bodies of the records in a store's journal that its file does not have.
fn records(directory: &Path) -> Vec<Vec<u8>> {
    let file = fs::File::open(directory.join("shard.redb")).expect("it is there");
    let meta = check::peek(directory, Box::new(disk::FileDisk::new(file))).expect("it is read");
    let disk: MakeDisk = Arc::new(|file| Box::new(disk::FileDisk::new(file)));
    let (mut bodies, place) = (Vec::new(), meta.place.expect("it has a journal"));
    crate::journal::replay(&directory.join("journal"), &disk, place, |body| {
        bodies.push(body.to_vec());
        true
    })
    .expect("it is read");
    bodies
}

/// The whole content of a store's file, table by table.
fn tables(directory: &Path) -> Vec<(String, Vec<String>)> {
    use redb::{ReadableDatabase as _, ReadableTable as _, TableHandle as _};

    let database = redb::Database::open(directory.join("shard.redb")).expect("a file of redb");
    let transaction = database.begin_read().expect("it begins");
    let names = transaction.list_tables().expect("they can be listed");
    let names: Vec<_> = names.map(|table| table.name().to_owned()).collect();
    let meta = transaction.open_table(META).expect("it is there");
    let place = meta.get("journal").expect("it reads").expect("it is there");
    // Each journal has a seed of its own: four bytes after mark and version.
    let seed = format!("{:?}", &place.value()[6..10]);
    let seed = format!(" {},", seed.trim_matches(['[', ']']));
    let rows = |name: &str| -> Vec<String> {
        macro_rules! rows {
            ($table:expr) => {{
                let table = transaction
                    .open_table($table)
                    .expect("it is of these types");
                let rows = table.iter().expect("it reads").map(|row| {
                    let (key, value) = row.expect("it reads");
                    format!("{:?} {:?}", key.value(), value.value()).replace(&seed, "")
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
    for files in [layout_1(), layout_2()] {
        let directory = tempfile::tempdir().expect("a directory can be created");
        place(directory.path(), &files);
        let checked = check(directory.path(), 1 << 20).expect("it can be looked at");
        assert_eq!((checked.partitions, checked.problems), (2, Vec::new()));
        // A second start finds what the first one brought over.
        for _ in 0..2 {
            let store = open(directory.path());
            assert_eq!(store.record(), &record());
            let snapshot = snapshot(&store);
            let value = |of: &[u8], key: &[u8]| snapshot.get(of, key).expect("it reads");
            assert_eq!(value(b"small", b"key"), Some(b"value".to_vec()));
            assert_eq!(value(b"large", b"k\x20"), Some(b"v".to_vec()));
            assert_eq!(snapshot.entries().expect("it reads"), SMALL + 2);
        }
        let checked = check(directory.path(), 1 << 20).expect("it can be looked at");
        assert_eq!((checked.partitions, checked.problems), (2, Vec::new()));
        assert_eq!((checked.entries, checked.record), (SMALL + 2, record()));
    }
}

/// A start that was cut off while it brought a file over left a journal that nobody used.
#[test]
fn bringing_a_file_over_is_begun_again() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    place(directory.path(), &[unpacked(LAYOUT_1), vec![0; 4096]]);
    assert_eq!(open(directory.path()).record(), &record());
}

/// A change of the stored data needs a new layout with a fixture.
#[test]
fn what_is_written_is_what_was_written_by_this_version_before() {
    let now = tempfile::tempdir().expect("a directory can be created");
    write_one(now.path());
    let [written, _] = files(now.path());
    let before = tempfile::tempdir().expect("a directory can be created");
    place(before.path(), &layout_2());
    assert_eq!(records(now.path()), records(before.path()));
    assert_eq!(records(now.path()).len(), 2);
    assert_eq!(tables(now.path()), tables(before.path()));
    // The version of redb's format in both commit slots.
    for slot in [64, 192] {
        assert_eq!(u16::from(written[slot]), REDB.version);
        assert_eq!(written[slot], layout_2()[0][slot]);
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
        files(directory.path())
    };
    let mut later_format = layout_2();
    for slot in [64, 192] {
        later_format[0][slot] = 4;
    }
    for (before, said) in [
        (later_layout, "the data's layout is of version 99, "),
        (later_format, "the data's file format is of version 4, "),
        (with_later_record(), "the journal is of version 2, "),
    ] {
        let directory = tempfile::tempdir().expect("a directory can be created");
        place(directory.path(), &before);
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
            assert!(files(directory.path()) == before, "a file was changed");
        }
    }
}

/// A store whose last record is of the next version.
fn with_later_record() -> [Vec<u8>; 2] {
    let [file, mut segment] = layout_2();
    let seed = {
        let directory = tempfile::tempdir().expect("a directory can be created");
        place(directory.path(), &layout_2());
        let file = fs::File::open(directory.path().join("shard.redb")).expect("it is there");
        let disk = Box::new(disk::FileDisk::new(file));
        let meta = check::peek(directory.path(), disk).expect("it is read");
        let place = meta.place.expect("it has a journal").encode();
        u32::from_le_bytes(place[6..10].try_into().expect("four bytes"))
    };
    let last = segment
        .chunks(512)
        .rposition(|sector| sector.iter().any(|byte| *byte != 0));
    let sector = &mut segment[last.expect("there is a record") * 512..][..512];
    sector[16] += 1;
    let checksum = crc32c::crc32c_append(seed, &sector[4..]);
    sector[..4].copy_from_slice(&checksum.to_le_bytes());
    [file, segment]
}

/// A caller may decide not to open the store because of its record.
#[test]
fn a_file_that_was_found_and_not_opened_is_as_it_was() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let killed = {
        let directory = tempfile::tempdir().expect("a directory can be created");
        write_one(directory.path());
        let _store = open(directory.path());
        files(directory.path())
    };
    place(directory.path(), &killed);
    let found = Store::find(Options::new(directory.path(), 1 << 20)).expect("it is found");
    assert_eq!(found.record(), &record());
    drop(found);
    assert!(files(directory.path()) == killed, "a file was changed");
    // Otherwise this test would not prove anything.
    drop(open(directory.path()));
    let [data, _] = files(directory.path());
    assert!(data != killed[0], "opening must change the file");
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

#[test]
#[ignore = "makes the fixtures of a new layout"]
fn make_fixtures() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    write_one(directory.path());
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/fixtures");
    for (file, name) in files(directory.path()).iter().zip(["redb", "journal"]) {
        let packed = zstd::encode_all(&file[..], 19).expect("it is compressed");
        fs::write(fixtures.join(format!("layout-{LAYOUT}.{name}.zst")), packed)
            .expect("it is written");
    }
}
