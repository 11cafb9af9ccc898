//! Files with flipped bits, and with zeroed or missing parts. A read gives the right value or an
//! error; the check of the whole file finds any wrong value.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::ReadableDatabase as _;

use super::disk::FileDisk;
use super::*;

const PARTITIONS: u64 = 60;
const ENTRIES_EACH: u64 = 50;

fn key(partition: u64, entry: u64) -> (Vec<u8>, Vec<u8>) {
    let partition = format!("partition-{partition:03}").into_bytes();
    (partition, format!("entry-{entry:03}").into_bytes())
}

/// The value of a key: its length and bytes follow from the key.
fn value(partition: u64, entry: u64) -> Vec<u8> {
    let mut random = Random(1 + partition * 1000 + entry);
    let length = 20 + random.below(200);
    (0..length).map(|_| random.below(256) as u8).collect()
}

/// A data directory's files.
#[derive(Clone)]
struct Image {
    data: Vec<u8>,
    journal: Vec<(OsString, Vec<u8>)>,
}

impl Image {
    fn of(directory: &Path) -> Self {
        let journal = fs::read_dir(directory.join("journal")).expect("it is there");
        let journal = journal.map(|entry| {
            let entry = entry.expect("it is read");
            (
                entry.file_name(),
                fs::read(entry.path()).expect("it is read"),
            )
        });
        Self {
            data: fs::read(directory.join("shard.redb")).expect("it is read"),
            journal: journal.collect(),
        }
    }

    /// The same with another data file.
    fn with(&self, data: &[u8]) -> Self {
        Self {
            data: data.to_vec(),
            journal: self.journal.clone(),
        }
    }
}

/// A file with some thousand entries, both after closing it and after a kill.
fn images() -> (Image, Image) {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let mut store = open(directory.path());
    for partition in 0..PARTITIONS {
        let entries: Vec<_> = (0..ENTRIES_EACH)
            .map(|entry| (key(partition, entry).1, value(partition, entry)))
            .collect();
        let changes: Vec<_> = entries
            .iter()
            .map(|(key, value)| (key.as_slice(), Some(value.as_slice())))
            .collect();
        commit(&mut store, &key(partition, 0).0, &changes).expect("it is stored");
    }
    let record = Record {
        schema: Some(1),
        ..Record::default()
    };
    store.set_record(record).expect("it is stored");
    store.catch_up().expect("it is written");
    let killed = Image::of(directory.path());
    store.close();
    (Image::of(directory.path()), killed)
}

/// A data directory with these files.
fn directory_of(image: &Image) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let path = directory.path().join("shard.redb");
    fs::write(&path, &image.data).expect("the file can be written");
    fs::create_dir(directory.path().join("journal")).expect("it can be made");
    for (name, content) in &image.journal {
        let path = directory.path().join("journal").join(name);
        fs::write(path, content).expect("the file can be written");
    }
    (directory, path)
}

#[derive(Debug, Default)]
struct Outcomes {
    runs: u32,
    served: u32,
    starts_refused: u32,
    reads_refused: u32,
    writes_refused: u32,
    /// A stored value was read as a different one, or as missing.
    silently_wrong: u32,
    found_by_check: u32,
    values_right: u64,
    values_refused: u64,
    /// The data file could not be brought up to date.
    not_written: u32,
}

fn snapshot_of(store: &Store) -> Option<Arc<Snapshot>> {
    store.snapshot().cloned()
}

impl Outcomes {
    /// Opens a damaged file, reads and writes throughout it, and checks it.
    fn meet(&mut self, image: &Image, context: &str) {
        self.runs += 1;
        let (checked, path) = directory_of(image);
        let found = check(checked.path(), 1 << 20).expect("nobody has it");
        assert!(
            fs::read(&path).expect("it is read") == image.data,
            "the check changed the file, {context}"
        );
        let is_found = !found.problems.is_empty();
        self.found_by_check += u32::from(is_found);

        let (opened, _) = directory_of(image);
        let mut store = match Store::open(Options::new(opened.path(), 1 << 20)) {
            Ok(store) => store,
            Err(error) => {
                assert!(error.is_damage(), "{error}, {context}");
                assert!(
                    is_found,
                    "a start is refused, but the check finds nothing, {context}"
                );
                self.starts_refused += 1;
                return;
            }
        };
        let (mut refused, mut wrong) = (0_u32, 0_u32);
        for partition in 0..PARTITIONS {
            for entry in 0..ENTRIES_EACH {
                let (of, key) = key(partition, entry);
                match snapshot(&store).get(&of, &key) {
                    Ok(found) if found.as_ref() == Some(&value(partition, entry)) => {
                        self.values_right += 1;
                    }
                    Ok(_) => wrong += 1,
                    Err(error) => {
                        assert!(error.is_damage(), "{error:?}, {context}");
                        refused += 1;
                    }
                }
            }
            // These calls use other code of redb.
            let (of, _) = key(partition, 0);
            let (view, limit) = (snapshot(&store), 10_000);
            let _ = view.scan_partition(&of, None, None, partition % 2 == 0, limit, &mut unbounded);
            let _ = view.size(&of);
            let _ = view.whole(std::slice::from_ref(&of));
            let _ = view.measure(Some(&of), limit);
        }
        let _ = snapshot(&store).count_partitions(None);
        let _ = snapshot(&store).scan(None, 10_000, &mut unbounded);
        let mut writes_refused = 0_u32;
        for partition in (0..PARTITIONS).step_by(7) {
            let (of, key) = key(partition, partition % ENTRIES_EACH);
            let changed: [(&[u8], _); 2] = [(&key, Some(&b"another"[..])), (b"new", Some(b"one"))];
            if store.snapshot_or_reopen().is_err() {
                writes_refused += 1;
                continue;
            }
            match commit(&mut store, &of, &changed) {
                // If keys are damaged, the entry may be stored where a look-up does not find it.
                Ok(()) => {
                    let stored = snapshot(&store).get(&of, &key).ok().flatten();
                    wrong += u32::from(stored.as_deref() != Some(&b"another"[..]));
                }
                Err(_) => writes_refused += 1,
            }
        }
        let mut written = BTreeMap::new();
        for partition in (0..PARTITIONS).step_by(7) {
            let (of, _) = key(partition, 0);
            let Ok(stored) = snapshot_of(&store).map_or(Ok(None), |view| view.get(&of, b"new"))
            else {
                continue;
            };
            written.insert(of, stored);
        }
        // A part of it may be damaged: then that part stays in the journal.
        self.not_written += u32::from(store.catch_up().is_err());
        for (of, stored) in &written {
            let found = snapshot_of(&store).map(|view| view.get(of, b"new").ok().flatten());
            wrong += u32::from(found.is_some_and(|found| found != *stored));
        }
        let migration = store.begin_migration(LIMITS);
        if let Ok(mut migration) = migration {
            let (of, key) = key(3, 3);
            let _ = migration.partitions(None, None, 10_000, &mut unbounded);
            let _ = migration.set_many(&[((of, key), b"migrated".to_vec())], &mut unbounded);
            let _ = store.commit_migration(migration, Record::default());
        }
        drop(store);
        self.values_refused += u64::from(refused);
        self.reads_refused += u32::from(refused > 0);
        self.writes_refused += u32::from(writes_refused > 0);
        self.silently_wrong += u32::from(wrong > 0);
        self.served += u32::from(refused + wrong + writes_refused == 0);
        assert!(
            is_found || refused + wrong + writes_refused == 0,
            "{refused} reads and {writes_refused} writes refused, {wrong} wrong, and the check finds nothing, {context}"
        );
    }
}

/// Each start, read and write on a damaged file succeeds or returns an error, and the check finds
/// any wrong value.
#[test]
fn damage_is_an_error_or_found_by_the_check_and_never_a_panic() {
    let (closed, killed) = images();
    let mut outcomes = Outcomes::default();
    for seed in 1..=12 {
        let mut random = Random(seed * 7919);
        for (name, image) in [("closed", &closed), ("killed", &killed)] {
            let length = image.data.len() as u64;
            // The header, the first pages, or anywhere.
            for (within, flips) in [(512, 1), (length, 1), (length, 5), (length, 200)] {
                let mut damaged = image.data.clone();
                for _ in 0..flips {
                    let at = random.below(within) as usize;
                    damaged[at] ^= 1 << random.below(8);
                }
                let context = format!("seed {seed}, {name}, {flips} bits of the first {within}");
                outcomes.meet(&image.with(&damaged), &context);
            }
        }
    }
    println!("{outcomes:#?}");
    assert!(outcomes.served > 0 && outcomes.starts_refused > 0 && outcomes.reads_refused > 0);
}

#[test]
fn parts_that_are_zero_or_missing_are_errors_too() {
    let (closed, killed) = images();
    let mut outcomes = Outcomes::default();
    for seed in 1..=30 {
        let mut random = Random(seed * 104_729);
        for (name, image) in [("closed", &closed), ("killed", &killed)] {
            let length = image.data.len() as u64;
            let page = (random.below(length / 4096) * 4096) as usize;
            let mut damaged = image.data.clone();
            damaged[page..page + 4096].fill(0);
            outcomes.meet(
                &image.with(&damaged),
                &format!("seed {seed}, {name}, page at {page} is zero"),
            );
            let mut damaged = image.data.clone();
            let other = (random.below(length / 4096) * 4096) as usize;
            damaged.copy_within(other..other + 4096, page);
            let context = format!("seed {seed}, {name}, page at {page} is that at {other}");
            outcomes.meet(&image.with(&damaged), &context);
            let cut = random.below(length) as usize;
            let context = format!("seed {seed}, {name}, cut off at {cut}");
            outcomes.meet(&image.with(&image.data[..cut]), &context);
        }
    }
    for (image, what) in [
        (Vec::new(), "empty"),
        (vec![0; closed.data.len()], "zero"),
        (vec![b'x'; 100], "short"),
        (b"redb".to_vec(), "the beginning"),
    ] {
        let refused = outcomes.starts_refused;
        outcomes.meet(&closed.with(&image), what);
        assert_eq!(outcomes.starts_refused, refused + 1, "{what}");
    }
    println!("{outcomes:#?}");
}

/// A start with a check refuses a file with damage that the check finds, and changes nothing.
#[test]
fn a_checked_start_refuses_a_value_that_is_wrong() {
    let (closed, killed) = images();
    for image in [&closed, &killed] {
        let options = |directory: &Path| Options {
            check: true,
            ..Options::new(directory, 1 << 20)
        };
        let (whole, path) = directory_of(image);
        let found = check(whole.path(), 1 << 20).expect("nobody has it");
        assert_eq!(found.problems, [""; 0]);
        let counted = (found.entries, found.partitions, found.record.schema);
        assert_eq!(counted, (PARTITIONS * ENTRIES_EACH, PARTITIONS, Some(1)));
        assert!(fs::read(&path).expect("it is read") == image.data);
        Store::open(options(whole.path())).expect("it is whole");

        // In the middle of a value, which redb does not check.
        let value = value(7, 7);
        let mut damaged = image.data.clone();
        let mut hits = 0;
        for at in 0..damaged.len() - value.len() {
            if damaged[at..].starts_with(&value) {
                damaged[at + 5] ^= 1;
                hits += 1;
            }
        }
        assert!(hits > 0);
        let (directory, path) = directory_of(&image.with(&damaged));
        let refused = Store::open(options(directory.path())).expect_err("it is damaged");
        assert!(matches!(refused, OpenError::Unsound { .. }), "{refused}");
        assert!(fs::read(&path).expect("it is read") == damaged);
        let store = Store::open(Options::new(directory.path(), 1 << 20)).expect("it opens");
        let (of, key) = key(7, 7);
        let found = snapshot(&store).get(&of, &key).expect("it is read");
        assert_ne!(found, Some(value), "the value must be damaged");
    }
}

/// A checkpoint meets a damaged page: what belongs there stays in the journal and can be read, also
/// after a restart, and takes no further writes; the rest is written.
#[test]
fn what_cannot_be_written_stays_in_the_journal_and_the_rest_is_written() {
    let (_, killed) = images();
    let (directory, _) = directory_of(&killed);
    let mut store = open(directory.path());
    let [of, elsewhere] = [7, 50].map(|partition| key(partition, 7).0);
    for partition in [&of, &elsewhere] {
        commit(
            &mut store,
            partition,
            &[(b"entry-007a", Some(b"acknowledged"))],
        )
        .expect("it is stored");
    }
    drop(store);
    let image = Image::of(directory.path());

    let wanted = value(7, 7);
    let data = &image.data;
    let hits = (0..data.len() - wanted.len()).filter(|at| data[*at..].starts_with(&wanted));
    let damaged = hits.filter_map(|at| {
        let (mut damaged, page) = (data.clone(), at / 4096 * 4096);
        // The table of where each entry of the page ends.
        let entries = usize::from(u16::from_le_bytes([damaged[page + 2], damaged[page + 3]]));
        damaged[page + 4..page + 4 + 8 * entries].fill(0xff);
        let (directory, _) = directory_of(&image.with(&damaged));
        let store = Store::open(Options::new(directory.path(), 1 << 20)).ok()?;
        let is_in_use = snapshot(&store).get(&of, &key(7, 8).1).is_err();
        is_in_use.then_some((store, directory))
    });
    let (mut store, directory) = damaged.into_iter().next().expect("it is in a page");

    let read = |store: &Store, of: &[u8]| snapshot(store).get(of, b"entry-007a").expect("it reads");
    let acknowledged = Some(b"acknowledged".to_vec());
    for _ in 0..2 {
        store.catch_up().expect("the rest is written");
        assert!(store.damage().first().is_some());
        let metrics = store.metrics().render();
        assert!(
            metrics.contains("ostrakon_checkpoint_errors_total 1\n"),
            "{metrics}"
        );
        for partition in [&of, &elsewhere] {
            assert_eq!(read(&store, partition), acknowledged);
        }
        let is_stuck = [&of, &elsewhere].map(|partition| store.stuck(partition).is_some());
        assert_eq!(is_stuck, [true, false]);
        commit(&mut store, &elsewhere, &[(b"other", Some(b"1"))]).expect("it is stored");
        drop(store);
        store = open(directory.path());
    }
    for partition in [&of, &elsewhere] {
        assert_eq!(read(&store, partition), acknowledged);
    }
    drop(store);
    // Without the journal, the data file has the other partition's.
    let data = Image::of(directory.path()).data;
    let database = redb::Database::builder();
    let file = directory.path().join("copy");
    fs::write(&file, data).expect("it is written");
    let database = database.open(&file).expect("it is redb's");
    let table = database
        .begin_read()
        .expect("it begins")
        .open_table(ENTRIES)
        .expect("it is there");
    let found = table
        .get((&elsewhere[..], &b"entry-007a"[..]))
        .expect("it reads");
    assert!(found.is_some());
}

/// A disk that cannot read one page.
#[derive(Debug)]
struct BadPage {
    disk: FileDisk,
    /// Where the page is; zero if there is none.
    at: Arc<AtomicU64>,
    failures: Arc<AtomicU64>,
    /// After how many failures the disk is full.
    most: Arc<AtomicU64>,
}

impl Disk for BadPage {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = self.at.load(Ordering::Relaxed);
        // redb's debug assertions read all pages when a file is opened; a release does not.
        let is_for_debug = || {
            let trace = std::backtrace::Backtrace::force_capture().to_string();
            trace.contains("mark_allocated_page_for_debug")
        };
        let is_bad = at > 0 && (offset..offset + out.len() as u64).contains(&at);
        if is_bad && !is_for_debug() {
            self.failures.fetch_add(1, Ordering::Relaxed);
            return Err(io::Error::other("a bad sector"));
        }
        self.disk.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.failures.load(Ordering::Relaxed) >= self.most.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.disk.write(offset, data)
    }
}

/// A store with 200 partitions, whose changes the data file cannot take because it cannot read the
/// page of one of them.
struct BadSector {
    directory: tempfile::TempDir,
    store: Store,
    failures: Arc<AtomicU64>,
    most: Arc<AtomicU64>,
}

fn bad_sector() -> BadSector {
    let directory = tempfile::tempdir().unwrap();
    let [at, failures, most] = [0, 0, u64::MAX].map(|number| Arc::new(AtomicU64::new(number)));
    let disk = [&at, &failures, &most].map(Arc::clone);
    let mut store = Store::open(Options {
        disk: Arc::new(move |file| {
            let [at, failures, most] = disk.clone();
            Box::new(BadPage {
                disk: FileDisk::new(file),
                at,
                failures,
                most,
            })
        }),
        backoff: std::time::Duration::ZERO,
        ..Options::new(directory.path(), 0)
    })
    .unwrap();
    for key in 0..200_u8 {
        let partition = [b'p', key];
        commit(&mut store, &partition, &[(b"k", Some(&[key; 1000]))]).unwrap();
    }
    store.catch_up().unwrap();
    let file = fs::read(directory.path().join("shard.redb")).unwrap();
    // Copies of the page from before its last change may be anywhere.
    let copies = file.windows(500).enumerate();
    let mut copies = copies.filter(|(_, bytes)| *bytes == [77; 500]);
    let is_read = |store: &mut Store, offset: usize| {
        at.store(offset as u64, Ordering::Relaxed);
        let view = snapshot(store);
        let read = view.get(&[b'p', 77], b"k");
        read.is_err_and(|_| {
            store.recover(view.opening());
            true
        })
    };
    let copy = copies.find(|(offset, _)| is_read(&mut store, *offset));
    let (offset, _) = copy.expect("it is read");
    at.store(0, Ordering::Relaxed);
    for key in 0..200_u8 {
        let partition = [b'p', key];
        commit(&mut store, &partition, &[(b"l", Some(&[key; 10]))]).unwrap();
    }
    at.store(offset as u64, Ordering::Relaxed);
    BadSector {
        directory,
        store,
        failures,
        most,
    }
}

/// A page that must be rewritten cannot be read: the partitions on it take no further writes, and
/// the data file is brought up to date with all others.
#[test]
fn a_bad_sector_under_a_checkpoint_concerns_the_partitions_on_it() {
    let BadSector {
        directory,
        mut store,
        failures,
        ..
    } = bad_sector();
    let mut failed = 0;
    while store.catch_up().is_err() {
        failed += 1;
        assert!(failed < 10);
    }
    let stuck = (0..200_u8).filter(|key| store.stuck(&[b'p', *key]).is_some());
    let stuck: Vec<_> = stuck.collect();
    println!("after {failed} checkpoints that failed, {stuck:?} take no writes");
    assert!(stuck.contains(&77) && stuck.len() < 10, "{stuck:?}");
    assert!(failures.load(Ordering::Relaxed) > 3);
    let mut refused = Vec::new();
    for key in (0..200_u8).filter(|key| !stuck.contains(key)) {
        let partition = [b'p', key];
        let view = snapshot(&store);
        if commit(&mut store, &partition, &[(b"m", Some(&[key; 10]))]).is_err() {
            store.recover(view.opening());
            refused.push(key);
        }
    }
    // To find a partition's end, redb looks at what comes after it.
    assert!(refused.len() < 3, "{refused:?}");
    drop(store);
    // The sector can be read again: nothing was lost.
    let mut store = open(directory.path());
    store.catch_up().unwrap();
    for key in 0..200_u8 {
        let found = snapshot(&store).get(&[b'p', key], b"l").unwrap();
        assert_eq!(found, Some(vec![key; 10]), "{key}");
    }
}

/// The disk becomes full while a checkpoint is written in parts: what is in the data file and in the
/// journal is counted once.
#[test]
fn a_checkpoint_that_fails_between_its_parts_counts_no_entry_twice() {
    let mut in_parts = 0;
    for failures in 1..30 {
        let BadSector {
            directory,
            mut store,
            most,
            ..
        } = bad_sector();
        most.store(failures, Ordering::Relaxed);
        let tries = (0..10).map(|_| store.catch_up().is_ok());
        if tries.last() == Some(true) {
            break;
        }
        most.store(u64::MAX, Ordering::Relaxed);
        let view = store.snapshot_or_reopen().unwrap();
        in_parts += u32::from(view.stored.ahead != 0);
        assert_eq!(view.entries().unwrap(), 400, "{failures}");
        drop((view, store));
        let checked = check(directory.path(), 0).unwrap();
        let counts = (checked.entries, checked.partitions, checked.bytes);
        assert_eq!(counts, (400, 200, 200 * (1001 + 11)), "{failures}");
        let mut store = open(directory.path());
        let all = |store: &Store| snapshot(store).entries().unwrap();
        assert_eq!(all(&store), 400);
        store.catch_up().unwrap();
        assert_eq!(all(&store), 400);
    }
    println!("{in_parts} times a part was written before the disk was full");
    assert!(in_parts > 0);
}
