//! The journal and its checkpoints: crashes at each operation, flipped bits, files that go missing.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use super::faults::{SMALL_SIZES, TestDisk};
use super::*;

type Contents = BTreeMap<Position, Vec<u8>>;

fn contents(store: &Store) -> Contents {
    let page = snapshot(store).scan(None, usize::MAX, &mut unbounded);
    page.expect("it reads").entries.into_iter().collect()
}

/// As [`contents`], on a disk that may fail: reopens the file as a request that cannot read does.
/// None if the disk goes on failing.
fn contents_if_readable(store: &mut Store) -> Option<Contents> {
    for _ in 0..3 {
        let view = store.snapshot_or_reopen().ok()?;
        match view.scan(None, usize::MAX, &mut unbounded) {
            Ok(page) => return Some(page.entries.into_iter().collect()),
            Err(_) => store.recover(view.opening()),
        }
    }
    None
}

/// What may be stored, by what was acknowledged.
#[derive(Default)]
struct Model {
    acknowledged: (Contents, Record),
    /// The commits since then that failed, each on top of what was acknowledged. One of them may be
    /// stored: the last that reached the disk.
    failed: Vec<(Contents, Record)>,
}

impl Model {
    fn allows(&self, found: &(Contents, Record)) -> bool {
        *found == self.acknowledged || self.failed.contains(found)
    }
}

/// Counts of what happened.
#[derive(Debug, Default)]
struct Counted {
    runs: u32,
    commits: u32,
    refused: u32,
    restarts: u32,
    /// A restart that did not succeed, because the disk failed.
    refused_starts: u32,
    replayed: u64,
    checkpoints: u64,
    compactions: u64,
    segments: u64,
    /// A migration that was called failed was found to be stored.
    overtaken: u32,
}

impl Counted {
    fn add(&mut self, metrics: &str) {
        self.replayed += value_of(metrics, "ostrakon_replay_commits");
        self.checkpoints += value_of(metrics, "ostrakon_checkpoint_duration_seconds_count");
        self.compactions += value_of(metrics, "ostrakon_compactions_total");
        self.segments = self
            .segments
            .max(value_of(metrics, "ostrakon_journal_bytes"));
    }
}

fn value_of(metrics: &str, name: &str) -> u64 {
    let line = metrics
        .lines()
        .find(|line| line.starts_with(&format!("{name} ")));
    let value = line.and_then(|line| line.split(' ').nth(1));
    value
        .expect("there is such a metric")
        .parse()
        .expect("it is a number")
}

/// One random group: changes to some partitions, of sizes from nothing to several segments.
fn change(
    store: &mut Store,
    random: &mut Random,
    next: &mut Contents,
) -> Result<Group, CommitError> {
    let mut group = Group::new(store.snapshot_or_reopen()?);
    for _ in 0..=random.below(3) {
        let partition = vec![b'a' + random.below(4) as u8];
        let mut transaction = group.begin(partition.clone(), LIMITS);
        for _ in 0..random.below(6) {
            let key = vec![b'k', random.below(9) as u8];
            let at = (partition.clone(), key.clone());
            let failed = |_| CommitError::Full;
            if random.below(3) == 0 {
                transaction.delete(key).map_err(failed)?;
                next.remove(&at);
            } else {
                let length = match random.below(12) {
                    0 => 3000,
                    1..=3 => random.below(700),
                    _ => random.below(30),
                };
                let value = vec![random.below(256) as u8; length as usize];
                transaction
                    .set(key, value.clone())
                    .map_err(|_| CommitError::Full)?;
                next.insert(at, value);
            }
        }
        group = transaction.commit();
    }
    Ok(group)
}

/// A migration: each value gets a byte more, and the schema is the next.
fn migrate(store: &mut Store, next: &mut (Contents, Record)) -> Result<Arc<Snapshot>, CommitError> {
    let mut migration = store.begin_migration(LIMITS)?;
    let failed = |_| CommitError::Full;
    for value in next.0.values_mut() {
        value.push(b'm');
    }
    let entries: Vec<_> = next.0.clone().into_iter().collect();
    let set = migration.set_many(&entries, &mut unbounded);
    set.map_err(|_| CommitError::Full)?;
    migration.scan(None, 1, &mut unbounded).map_err(failed)?;
    next.1.schema = Some(next.1.schema.unwrap_or(0) + 1);
    store.commit_migration(migration, next.1.clone())
}

/// Random commits, checkpoints and restarts on a disk that fails at some operation or does not.
fn run(disk: &TestDisk, directory: &Path, random: &mut Random, counted: &mut Counted) -> Model {
    let mut model = Model::default();
    let mut opened: Option<Store> = None;
    for _ in 0..30 {
        let mut store = if let Some(store) = opened.take() {
            store
        } else {
            let Ok(mut store) = disk.open(directory) else {
                counted.refused_starts += 1;
                break;
            };
            // What was tried last may be stored. From now on it is.
            let Some(found) = contents_if_readable(&mut store) else {
                counted.refused_starts += 1;
                break;
            };
            let found = (found, store.record().clone());
            assert!(
                model.allows(&found),
                "the start finds what was acknowledged"
            );
            model = Model {
                acknowledged: found,
                failed: Vec::new(),
            };
            store
        };
        if random.below(10) == 0 {
            let _ = store.catch_up();
        }
        if random.below(3) == 0 {
            let _ = store.compact();
        }
        let mut next = model.acknowledged.clone();
        let made = change(&mut store, random, &mut next.0);
        let committed = made.and_then(|group| {
            if random.below(12) == 0 {
                next = model.acknowledged.clone();
                migrate(&mut store, &mut next)
            } else if random.below(8) == 0 {
                next = model.acknowledged.clone();
                next.1.generation = Some(vec![random.below(256) as u8; 40]);
                store.set_record(next.1.clone())
            } else {
                store.commit(group)
            }
        });
        if committed.is_ok() {
            counted.commits += 1;
            model = Model {
                acknowledged: next,
                failed: Vec::new(),
            };
            if let Some(seen) = contents_if_readable(&mut store) {
                assert!(seen == model.acknowledged.0, "readers see it");
            }
        } else {
            counted.refused += 1;
            model.failed.push(next);
            if store.snapshot().is_some() {
                let seen = snapshot(&store).scan(None, usize::MAX, &mut unbounded);
                if let Ok(seen) = seen {
                    let seen: Contents = seen.entries.into_iter().collect();
                    assert!(seen == model.acknowledged.0, "readers see nothing else");
                }
                assert_eq!(*store.record(), model.acknowledged.1);
            }
        }
        if store.is_overtaken() {
            counted.overtaken += 1;
        }
        if random.below(9) == 0 || store.is_overtaken() {
            counted.restarts += 1;
            counted.add(&store.metrics().render());
            drop(store);
        } else {
            opened = Some(store);
        }
    }
    if let Some(store) = opened {
        counted.add(&store.metrics().render());
    }
    counted.runs += 1;
    model
}

/// Opens the store on a disk that works, and compares.
fn compare(disk: &TestDisk, directory: &Path, model: &Model, context: &str) {
    for _ in 0..2 {
        let mut store = disk
            .open(directory)
            .unwrap_or_else(|error| panic!("the store does not open again: {error:?}, {context}"));
        let found = (contents(&store), store.record().clone());
        assert!(
            model.allows(&found),
            "what is stored is neither what was acknowledged nor what was tried last, {context}"
        );
        let entries = snapshot(&store).entries().expect("it reads");
        assert_eq!(entries, found.0.len() as u64, "{context}");
        store.catch_up().expect("the disk works");
        let snapshot = snapshot(&store);
        let space = counted_space(&snapshot);
        assert_eq!(snapshot.space(), space, "{context}");
    }
}

/// Power is lost at each operation of random runs. What was not synced arrives sector by sector,
/// or not.
#[test]
fn every_crash_leaves_what_was_acknowledged_and_half_of_nothing() {
    let mut counted = Counted::default();
    for seed in 1..=3 {
        let healthy = TestDisk::default();
        let directory = tempfile::tempdir().expect("a directory can be created");
        run(
            &healthy,
            directory.path(),
            &mut Random(seed),
            &mut Counted::default(),
        );
        let operations = healthy.medium().operations;
        for at in (1 + seed..operations).step_by(7) {
            for luck in 1..=2 {
                let disk = TestDisk::default();
                let directory = tempfile::tempdir().expect("a directory can be created");
                disk.medium().fails = Some((at, u64::MAX, io::ErrorKind::Other));
                let model = run(&disk, directory.path(), &mut Random(seed), &mut counted);
                let context = format!("seed {seed}, power is lost at operation {at}, luck {luck}");
                disk.medium().fails = None;
                disk.lose_power(&mut Random(luck * at));
                compare(&disk, directory.path(), &model, &context);
            }
        }
    }
    println!("{counted:#?}");
    assert!(counted.checkpoints > 100 && counted.replayed > 100 && counted.segments > 4 * 2048);
    assert!(counted.compactions > 100);
}

/// Each operation of a run fails once, or some times, and the run goes on.
#[test]
fn every_failed_operation_is_refused_or_survived() {
    let mut counted = Counted::default();
    let healthy = TestDisk::default();
    let directory = tempfile::tempdir().expect("a directory can be created");
    run(
        &healthy,
        directory.path(),
        &mut Random(5),
        &mut Counted::default(),
    );
    let operations = healthy.medium().operations;
    for at in (1..operations).step_by(5) {
        for (times, kind) in [(1, io::ErrorKind::Other), (5, io::ErrorKind::StorageFull)] {
            let disk = TestDisk::default();
            let directory = tempfile::tempdir().expect("a directory can be created");
            disk.medium().fails = Some((at, times, kind));
            let model = run(&disk, directory.path(), &mut Random(5), &mut counted);
            disk.medium().fails = None;
            let context = format!("operation {at} fails {times} times, power is lost later");
            disk.lose_power(&mut Random(at));
            compare(&disk, directory.path(), &model, &context);
        }
    }
    println!("{counted:#?}");
    assert!(counted.commits > 1000 && counted.refused > 100 && counted.overtaken > 0);
}

/// A sync fails, and the process ends, or goes on: the kernel shows what it has dropped, so that a
/// start reads it. What is acknowledged after that must not depend on it.
#[test]
fn what_a_failed_sync_dropped_is_never_counted_on() {
    let mut found = 0;
    for restart in [true, false] {
        for at in 1..=60 {
            let disk = TestDisk::default();
            let directory = tempfile::tempdir().expect("a directory can be created");
            let mut store = disk.open(directory.path()).expect("it opens");
            let set = |store: &mut Store, key: u8| {
                commit(store, b"p", &[(&[key], Some(&[key; 600]))]).is_ok()
            };
            let mut acknowledged: Vec<u8> = (1..=3).filter(|key| set(&mut store, *key)).collect();
            let operations = disk.medium().operations;
            disk.medium().fails = Some((operations + at, 1, io::ErrorKind::Other));
            acknowledged.extend((4..=6).filter(|key| set(&mut store, *key)));
            let failed = disk.medium().failures > 0 && acknowledged.len() < 6;
            disk.medium().fails = None;
            if restart {
                drop(store);
                store = disk.open(directory.path()).expect("it opens");
                let there = contents(&store).into_keys().map(|(_, key)| key[0]);
                acknowledged = there.collect();
            }
            acknowledged.extend((7..=8).filter(|key| set(&mut store, *key)));
            assert!(acknowledged.ends_with(&[7, 8]), "the disk works again");
            drop(store);
            disk.lose_power(&mut Random(at));
            let store = disk.open(directory.path()).unwrap_or_else(|error| {
                panic!("it opens again: {error}, operation {at}, restart {restart}")
            });
            let there: Vec<u8> = contents(&store)
                .into_keys()
                .map(|(_, key)| key[0])
                .collect();
            assert_eq!(there, acknowledged, "operation {at}, restart {restart}");
            found += u32::from(failed);
        }
    }
    println!("{found} commits failed");
    assert!(found >= 8, "{found}");
}

/// A record that was acknowledged, and whose sectors are as they were before it: the disk has lost
/// a write. Later records show it.
#[test]
fn a_write_that_the_disk_lost_is_found_by_what_comes_after_it() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let (store, _) = some_commits(directory.path());
    drop(store);
    let files = segments(directory.path());
    let mut lost = 0;
    for (path, content) in &files {
        for at in (0..content.len()).step_by(512) {
            let number = u32::from_le_bytes(content[at + 4..at + 8].try_into().expect("four"));
            let is_first = number == 0 && content[at..at + 512].iter().any(|byte| *byte != 0);
            let commit = u64::from_le_bytes(content[at + 24..at + 32].try_into().expect("eight"));
            // The data file has the first two commits.
            if !is_first || commit <= 2 {
                continue;
            }
            let mut without = content.clone();
            without[at..at + 512].fill(0);
            fs::write(path, &without).expect("it is written");
            let found = Store::find(Options::new(directory.path(), 1 << 20));
            if commit == 12 {
                // The last one: it may have been cut off.
                assert_eq!(found.map(drop).map_err(|error| error.to_string()), Ok(()));
            } else {
                lost += 1;
                let text = found.expect_err("it is missed").to_string();
                let later = format!(
                    "commit {commit} cannot be read, and later ones, up to 12, were acknowledged"
                );
                assert!(text.contains(&later), "{text}");
            }
            fs::write(path, content).expect("it is written");
        }
    }
    assert_eq!(lost, 9);
}

/// A store whose data file has the first of these commits, and whose journal has all.
fn some_commits(directory: &Path) -> (Store, Vec<Contents>) {
    let options = Options {
        journal: Sizes {
            memtable_bytes: 1 << 20,
            segments: 64,
            ..SMALL_SIZES
        },
        ..Options::new(directory, 1 << 20)
    };
    let mut store = Store::open(options).expect("it opens");
    let mut states = vec![Contents::new()];
    for number in 0..12_u64 {
        if number == 2 {
            store.catch_up().expect("it is written");
        }
        // Some have one sector, some several, and some go on in another segment.
        let value = vec![number as u8; 1 + (number as usize % 4) * 500];
        commit(&mut store, b"p", &[(&[number as u8], Some(&value))]).expect("it is stored");
        states.push(contents(&store));
    }
    (store, states)
}

fn segments(directory: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let listed = fs::read_dir(directory.join("journal")).expect("it is there");
    let mut segments: Vec<_> = listed
        .map(|entry| entry.expect("it is read").path())
        .map(|path| (path.clone(), fs::read(path).expect("it is read")))
        .collect();
    segments.sort();
    segments
}

/// Every bit that counts: the start is refused, with a line that says where. Bits that no longer
/// count, or do not yet, change nothing. A wrong value is never read, and none goes missing.
#[test]
fn a_flipped_bit_is_found_and_told_apart_from_a_torn_end() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let (store, states) = some_commits(directory.path());
    drop(store);
    let (mut refused, mut served) = (0, 0);
    for (path, content) in segments(directory.path()) {
        for at in (0..content.len()).step_by(61) {
            let mut damaged = content.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&path, &damaged).expect("it is written");
            let context = format!("{} at {at}", path.display());
            let found = check(directory.path(), 1 << 20).expect("nobody has it");
            if let Err(error) = Store::find(Options::new(directory.path(), 1 << 20)) {
                refused += 1;
                assert!(error.is_damage(), "{error}");
                assert!(error.to_string().contains("damaged at byte"), "{error}");
                assert!(!found.problems.is_empty(), "{context}");
            } else {
                served += 1;
                assert_eq!(found.problems, [""; 0], "{context}");
                let copy = tempfile::tempdir().expect("a directory can be created");
                ostrakon_test_support::files::copy(directory.path(), copy.path());
                assert!(
                    Some(&contents(&open(copy.path()))) == states.last(),
                    "{context}"
                );
            }
            fs::write(&path, &content).expect("it is written");
        }
    }
    println!("{refused} flipped bits were refused, {served} did not count");
    assert!(refused > 20 && served > 20);
    let store = open(directory.path());
    assert!(Some(&contents(&store)) == states.last());
}

/// The last record, cut off at each of its sectors: it was never acknowledged.
#[test]
fn a_torn_end_is_cut_off_and_nothing_of_it_is_ever_taken_for_a_later_record() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let (mut store, states) = some_commits(directory.path());
    let before = segments(directory.path());
    let value = [7; 2500];
    commit(&mut store, b"p", &[(b"last", Some(&value))]).expect("it is stored");
    drop(store);
    let after = segments(directory.path());
    let before: BTreeMap<_, _> = sectors(&before).into_iter().collect();
    let changed: Vec<_> = sectors(&after)
        .into_iter()
        .filter_map(|(at, new)| {
            let old = before.get(&at).cloned().unwrap_or_else(|| vec![0; 512]);
            (old != new).then_some((at, old))
        })
        .collect();
    assert!((6..=9).contains(&changed.len()), "{}", changed.len());
    let data = fs::read(directory.path().join("shard.redb")).expect("it is read");
    for cut in (0..1_u32 << changed.len()).step_by(5) {
        // The sectors whose bit is set never arrived.
        let lost: Vec<_> = (0..)
            .zip(&changed)
            .filter(|(bit, _)| cut >> bit & 1 == 1)
            .collect();
        for (path, _) in segments(directory.path()) {
            fs::remove_file(path).expect("it is removed");
        }
        for (path, content) in &after {
            fs::write(path, content).expect("it is written");
        }
        fs::write(directory.path().join("shard.redb"), &data).expect("it is written");
        for (_, ((path, at), old)) in &lost {
            let mut content = fs::read(path).expect("it is read");
            content[*at..*at + 512].copy_from_slice(old);
            fs::write(path, content).expect("it is written");
        }
        let expected = if lost.is_empty() {
            states.len()
        } else {
            states.len() - 1
        };
        let mut store = open(directory.path());
        assert_eq!(contents(&store).len(), expected, "cut {cut:b}");
        // A short record in its place, and another start.
        commit(&mut store, b"p", &[(b"short", Some(b"1"))]).expect("it is stored");
        drop(store);
        let store = open(directory.path());
        assert_eq!(contents(&store).len(), expected + 1, "cut {cut:b}");
    }
}

/// A sector's file, and its first byte there.
type Place = (std::path::PathBuf, usize);

/// All sectors of some files.
fn sectors(files: &[(std::path::PathBuf, Vec<u8>)]) -> Vec<(Place, Vec<u8>)> {
    let of = |(path, content): &(std::path::PathBuf, Vec<u8>)| {
        let path = path.clone();
        let sectors = content.chunks(512).map(<[u8]>::to_vec).collect::<Vec<_>>();
        (0..)
            .step_by(512)
            .zip(sectors)
            .map(move |(at, sector)| ((path.clone(), at), sector))
    };
    files.iter().flat_map(of).collect()
}

/// Each file that has something is missed at the start; the line says what to do.
#[test]
fn a_segment_that_is_gone_or_cut_is_missed_at_the_start() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let (store, states) = some_commits(directory.path());
    drop(store);
    let (mut missed, mut spare) = (0, 0);
    for (path, content) in segments(directory.path()) {
        for cut in [None, Some(0), Some(content.len() / 2)] {
            match cut {
                None => fs::remove_file(&path).expect("it is removed"),
                Some(length) => fs::write(&path, &content[..length]).expect("it is cut"),
            }
            match Store::find(Options::new(directory.path(), 1 << 20)) {
                Err(error) => {
                    missed += 1;
                    let text = error.to_string();
                    assert!(text.contains("is missing or incomplete"), "{text}");
                    assert!(text.contains("restore a backup"), "{text}");
                }
                Ok(found) => {
                    spare += 1;
                    drop(found);
                    let found = check(directory.path(), 1 << 20).expect("nobody has it");
                    assert_eq!(found.entries, 12);
                }
            }
            fs::write(&path, &content).expect("it is written");
        }
    }
    println!("{missed} were missed, {spare} had nothing");
    assert!(missed >= 9 && spare >= 3, "{missed}, {spare}");
    assert!(Some(&contents(&open(directory.path()))) == states.last());
    fs::remove_dir_all(directory.path().join("journal")).expect("it is removed");
    Store::open(Options::new(directory.path(), 1 << 20)).expect_err("it had a journal");
}

/// What is acknowledged after a file of the journal was removed, replaced or moved is found.
#[test]
fn a_segment_that_is_removed_or_replaced_meanwhile_loses_nothing() {
    for replace in [false, true] {
        for whole in [false, true] {
            let directory = tempfile::tempdir().expect("a directory can be created");
            let (mut store, mut states) = some_commits(directory.path());
            let journal = directory.path().join("journal");
            let moved = directory.path().join("elsewhere");
            if whole {
                fs::rename(&journal, &moved).expect("it is moved");
                if replace {
                    fs::create_dir(&journal).expect("it is made");
                }
            } else {
                for (path, content) in segments(directory.path()) {
                    fs::remove_file(&path).expect("it is removed");
                    if replace {
                        fs::write(&path, content).expect("it is written");
                    }
                }
            }
            for number in 20..24 {
                commit(&mut store, b"p", &[(&[number], Some(b"v"))]).expect("it is stored");
                states.push(contents(&store));
            }
            drop(store);
            let store = open(directory.path());
            assert!(
                Some(&contents(&store)) == states.last(),
                "{replace} {whole}"
            );
        }
    }
}

/// The same for a file that was truncated in its place.
#[test]
fn a_segment_that_is_truncated_meanwhile_loses_nothing() {
    for length in [0, 512, 4096] {
        let directory = tempfile::tempdir().expect("a directory can be created");
        let (mut store, mut states) = some_commits(directory.path());
        for path in segments(directory.path()).into_iter().map(|(path, _)| path) {
            let file = fs::File::options().write(true).open(path);
            let cut = file.and_then(|file| file.set_len(length));
            cut.expect("it is truncated");
        }
        for number in 20..24 {
            commit(&mut store, b"p", &[(&[number], Some(b"v"))]).expect("it is stored");
            states.push(contents(&store));
        }
        drop(store);
        let store = open(directory.path());
        assert!(Some(&contents(&store)) == states.last(), "{length}");
    }
}

/// A view is what it was, however many checkpoints and commits there were since.
#[test]
fn each_commit_has_a_view_of_its_own() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let options = Options {
        journal: SMALL_SIZES,
        ..Options::new(directory.path(), 1 << 20)
    };
    let mut store = Store::open(options).expect("it opens");
    let (mut random, mut views) = (Random(11), Vec::new());
    let mut now = Contents::new();
    for _ in 0..200 {
        let group = change(&mut store, &mut random, &mut now).expect("it reads");
        let view = store.commit(group).expect("it is stored");
        views.push((view, now.clone()));
    }
    for (view, expected) in &views {
        let page = view
            .scan(None, usize::MAX, &mut unbounded)
            .expect("it reads");
        assert!(page.entries.into_iter().collect::<Contents>() == *expected);
        assert_eq!(view.entries().expect("it reads"), expected.len() as u64);
    }
    let checkpoints = value_of(
        &store.metrics().render(),
        "ostrakon_checkpoint_duration_seconds_count",
    );
    println!("{} views over {checkpoints} checkpoints", views.len());
    assert!(checkpoints > 10);
}

/// The place in the journal that the data file names.
fn place_of(directory: &Path) -> Option<crate::journal::Place> {
    let path = directory.join("shard.redb");
    let file = fs::File::open(&path).expect("it is there");
    // A checkpoint may be writing it: then it is read again.
    let meta = check::peek(&path, Box::new(disk::FileDisk::new(file)));
    meta.ok().and_then(|meta| meta.place)
}

/// The data file is closed because a read failed, when a checkpoint has just succeeded.
#[test]
fn a_checkpoint_that_ends_while_the_file_is_closed_loses_nothing() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let options = Options {
        journal: SMALL_SIZES,
        ..Options::new(directory.path(), 1 << 20)
    };
    let mut store = Store::open(options).expect("it opens");
    let mut ended = 0;
    for round in 0..8_u8 {
        commit(&mut store, b"p", &[(&[round], Some(&[round; 1500]))]).expect("it is stored");
        let before = place_of(directory.path());
        store.tend();
        let patience = std::time::Instant::now() + std::time::Duration::from_millis(200);
        while place_of(directory.path()) == before && std::time::Instant::now() < patience {
            std::thread::yield_now();
        }
        ended += u32::from(place_of(directory.path()) != before);
        store.recover(snapshot(&store).opening());
        assert_eq!(contents(&store).len(), usize::from(round) + 1);
        let entries = snapshot(&store).entries().expect("it reads");
        assert_eq!(entries, u64::from(round) + 1);
    }
    assert!(ended > 0, "no checkpoint has ended in between");
}

/// Nobody writes after a file of the journal was removed: the data file gets what it lacks by itself.
#[test]
fn a_journal_that_lost_a_file_is_replaced_without_a_further_write() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let (mut store, states) = some_commits(directory.path());
    fs::remove_dir_all(directory.path().join("journal")).expect("it is removed");
    store.look().expect("the data file is there");
    store.tend();
    drop(store);
    assert!(Some(&contents(&open(directory.path()))) == states.last());
}

/// The disk fails at each operation of a migration's commit, of which the last ones come after it
/// is stored. Data and schema go together, at once and after a restart.
#[test]
fn a_migration_is_stored_with_its_schema_or_not_at_all_whichever_operation_fails() {
    let (mut stored, mut refused, mut landed) = (0, 0, 0);
    for at in 1..=30 {
        let disk = TestDisk::default();
        let directory = tempfile::tempdir().expect("a directory can be created");
        let mut store = disk.open(directory.path()).expect("it opens");
        commit(&mut store, b"p", &[(b"k", Some(b"v"))]).expect("it is stored");
        let before = (contents(&store), store.record().clone());
        let mut migration = store.begin_migration(LIMITS).expect("it begins");
        let entry = ((b"p".to_vec(), b"k".to_vec()), b"migrated".to_vec());
        migration
            .set_many(std::slice::from_ref(&entry), &mut unbounded)
            .expect("it is set");
        let record = Record {
            schema: Some(2),
            ..Record::default()
        };
        let after = (Contents::from([entry]), record.clone());
        let operations = disk.medium().operations;
        disk.medium().fails = Some((operations + at, 1, io::ErrorKind::Other));
        let committed = store.commit_migration(migration, record);
        let has_failed = disk.medium().failures > 0;
        disk.medium().fails = None;
        store.snapshot_or_reopen().expect("the disk works again");
        let now = (contents(&store), store.record().clone());
        assert_eq!(
            now,
            if committed.is_ok() { after } else { before },
            "operation {at}"
        );
        stored += u32::from(committed.is_ok());
        refused += u32::from(committed.is_err());
        landed += u32::from(committed.is_ok() && has_failed);
        // A checkpoint, a restart and a loss of power later it is still so.
        store.set_record(now.1.clone()).expect("it is stored");
        store.catch_up().expect("it is written");
        drop(store);
        disk.lose_power(&mut Random(at));
        let store = disk.open(directory.path()).expect("it opens");
        assert_eq!(
            (contents(&store), store.record().clone()),
            now,
            "operation {at}"
        );
    }
    println!(
        "{stored} were stored, {landed} of them although an operation failed; {refused} were not"
    );
    assert!(refused > 3 && landed > 0 && stored > landed);
}
