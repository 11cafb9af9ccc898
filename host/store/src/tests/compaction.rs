//! Compactions: what they give back, and what goes on meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redb::ReadableDatabase as _;

use super::disk::FileDisk;
use super::faults::TestDisk;
use super::*;
use crate::compaction::UNFINISHED;

const PATIENCE: Duration = Duration::from_mins(2);

const LARGE: Limits = Limits {
    max_key_bytes: 16,
    max_value_bytes: 2 << 20,
    max_partition_bytes: 1 << 30,
};

type Contents = BTreeMap<Position, Vec<u8>>;

fn contents(snapshot: &Snapshot) -> Contents {
    let (mut all, mut more) = (Contents::new(), true);
    while more {
        let last = all.last_key_value().map(|(position, _)| position.clone());
        let after = last
            .as_ref()
            .map(|(partition, key)| (&partition[..], &key[..]));
        let page = snapshot.scan(after, usize::MAX, &mut unbounded);
        let page = page.expect("it reads");
        more = page.more;
        all.extend(page.entries);
    }
    all
}

fn set(store: &mut Store, partition: &[u8], key: &[u8], value: Option<Vec<u8>>) {
    let mut transaction = Group::new(snapshot(store)).begin(partition.to_vec(), LARGE);
    match value {
        Some(value) => transaction.set(key.to_vec(), value).expect("it is set"),
        None => drop(transaction.delete(key.to_vec()).expect("it is deleted")),
    }
    store.commit(transaction.commit()).expect("it is committed");
}

/// The space that the data file takes, in bytes.
fn taken(directory: &Path) -> u64 {
    let metadata = fs::metadata(directory.join("shard.redb"));
    512 * metadata.expect("it is there").blocks()
}

/// Waits for the end of a compaction.
fn wait(store: &mut Store) -> Result<u64, CompactError> {
    let began = Instant::now();
    loop {
        store.tend();
        let progress = store.compacting().progress().expect("there is one");
        if let Some(ended) = progress.ended {
            return ended;
        }
        assert!(began.elapsed() < PATIENCE, "{progress:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Checks what the file says about the space that its entries need.
fn check_space(store: &mut Store) -> u64 {
    store.catch_up().expect("it is brought up to date");
    let snapshot = snapshot(store);
    let counted = counted_space(&snapshot);
    assert_eq!(
        snapshot.space(),
        counted,
        "the row is the sum of all entries"
    );
    counted
}

#[test]
fn the_space_of_what_was_deleted_is_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    let empty = taken(directory.path());
    for key in 0..40_u8 {
        set(&mut store, b"large", &[key], Some(vec![key; 1_000_000]));
    }
    for key in 0..30_u8 {
        set(&mut store, b"small", &[key], Some(vec![key; 100]));
    }
    assert!(check_space(&mut store) > 40_000_000);
    for key in 0..40_u8 {
        set(&mut store, b"large", &[key], None);
    }
    let needed = check_space(&mut store);
    assert!(needed < 10_000, "{needed}");
    let before = taken(directory.path());
    assert!(before > 40_000_000, "{before}: redb gives nothing back");
    let expected = contents(&snapshot(&store));
    store.compact().unwrap();
    let after = wait(&mut store).unwrap();
    println!("{before} bytes before, {after} after, {empty} in an empty store");
    assert!(after <= empty, "{after}");
    assert_eq!(taken(directory.path()), after);
    assert_eq!(contents(&snapshot(&store)), expected);
    assert_eq!(check_space(&mut store), needed);
    assert!(!directory.path().join(UNFINISHED).exists());
    drop(store);
    let store = open(directory.path());
    assert_eq!(contents(&snapshot(&store)), expected);
    drop(store);
    let checked = check(directory.path(), 1 << 20).unwrap();
    assert_eq!(checked.problems, [""; 0]);
}

/// The estimate must be near the space that a compacted file really takes.
#[test]
fn the_space_that_entries_need_is_what_a_compacted_file_takes() {
    for length in [10, 100, 700, 1500, 3000, 9000, 70_000] {
        let directory = tempfile::tempdir().unwrap();
        let mut store = open(directory.path());
        let count = (6_000_000 / (length + 60)) as u32;
        let mut transaction = Group::new(snapshot(&store)).begin(b"partition".to_vec(), LARGE);
        for key in 0..count {
            let key = format!("{:08}", key.wrapping_mul(2_654_435_761));
            transaction.set(key.into_bytes(), vec![7; length]).unwrap();
        }
        store.commit(transaction.commit()).unwrap();
        let needed = check_space(&mut store);
        store.compact().unwrap();
        let taken = wait(&mut store).unwrap();
        println!("{count} entries of {length}: {needed} bytes needed, {taken} taken");
        // An empty file takes 50 KB.
        assert!(taken < needed * 11 / 10 + 200_000, "{taken} of {needed}");
        assert!(needed < taken * 5 / 4, "{taken} of {needed}");
    }
}

/// Commits, checkpoints and readers go on while the file is copied in steps of some kilobytes.
#[test]
fn commits_go_on_while_the_file_is_copied_and_old_views_stay() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(Options {
        journal: Sizes {
            memtable_bytes: 100_000,
            step_bytes: 20_000,
            ..Sizes::default()
        },
        ..Options::new(directory.path(), 1 << 20)
    })
    .unwrap();
    let mut model = Contents::new();
    let mut random = Random(99);
    let mut write = |store: &mut Store, model: &mut Contents| {
        let position = (
            vec![b'a' + random.below(20) as u8],
            random.below(500).to_le_bytes().to_vec(),
        );
        let value = (random.below(4) > 0).then(|| {
            let length = if random.below(30) == 0 {
                9000
            } else {
                random.below(300)
            };
            vec![random.below(256) as u8; length as usize]
        });
        set(store, &position.0, &position.1, value.clone());
        match value {
            Some(value) => drop(model.insert(position, value)),
            None => drop(model.remove(&position)),
        }
    };
    for _ in 0..5000 {
        write(&mut store, &mut model);
    }
    let (mut compactions, mut commits) = (0, 0);
    let mut kept = Vec::new();
    while compactions < 5 {
        let began = Instant::now();
        kept.push((snapshot(&store), model.clone()));
        store.compact().unwrap();
        let mut before_its_end = 0;
        while store.compacting().progress().unwrap().ended.is_none() {
            write(&mut store, &mut model);
            before_its_end += 1;
            assert!(began.elapsed() < PATIENCE);
        }
        let ended = store.compacting().progress().unwrap().ended.unwrap();
        ended.unwrap();
        compactions += 1;
        commits += before_its_end;
        assert!(
            before_its_end > 20,
            "{before_its_end}: it was copied meanwhile"
        );
        assert_eq!(contents(&snapshot(&store)), model);
        store.look().expect("the file is where it belongs");
    }
    for (view, model) in &kept {
        assert_eq!(contents(view), *model, "a view stays as it was");
    }
    check_space(&mut store);
    let metrics = store.metrics().render();
    let checkpoints = metrics
        .lines()
        .find(|line| line.starts_with("ostrakon_checkpoint_duration_seconds_count"));
    println!("{commits} commits during {compactions} compactions, {checkpoints:?}");
    drop((store, kept));
    assert_eq!(contents(&snapshot(&open(directory.path()))), model);
    let checked = check(directory.path(), 1 << 20).unwrap();
    assert_eq!(checked.problems, [""; 0]);
}

/// A disk whose second data file fails at some operation.
#[derive(Debug)]
struct Fails {
    disk: FileDisk,
    /// How many operations it takes before, and the error.
    after: Option<(std::sync::atomic::AtomicI64, io::ErrorKind)>,
}

impl Fails {
    fn operate(&self) -> io::Result<()> {
        match &self.after {
            Some((left, kind)) if left.fetch_sub(1, Ordering::Relaxed) <= 0 => Err((*kind).into()),
            _ => Ok(()),
        }
    }
}

impl Disk for Fails {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.operate()?;
        self.disk.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.operate()?;
        self.disk.set_len(len)
    }

    fn set_sparse_len(&self, len: u64) -> io::Result<()> {
        self.operate()?;
        self.disk.set_sparse_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.operate()?;
        self.disk.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.operate()?;
        self.disk.write(offset, data)
    }
}

/// The second file fails at each operation: the store does not notice, and the data file is as it
/// was, or, where the copy was complete, as it is to be.
#[test]
fn a_copy_that_fails_leaves_everything_as_it_was() {
    let mut failed = 0;
    for operations in (0..).step_by(3) {
        let kind = if operations % 2 == 0 {
            io::ErrorKind::StorageFull
        } else {
            io::ErrorKind::Other
        };
        let directory = tempfile::tempdir().unwrap();
        let unfinished = directory.path().join(UNFINISHED);
        let armed = Arc::new(AtomicBool::new(false));
        let is_second = {
            let armed = Arc::clone(&armed);
            move || armed.load(Ordering::Relaxed)
        };
        let mut store = Store::open(Options {
            disk: Arc::new(move |file| {
                let after = is_second().then(|| (operations.into(), kind));
                Box::new(Fails {
                    disk: FileDisk::new(file),
                    after,
                })
            }),
            journal: Sizes {
                step_bytes: 3000,
                ..Sizes::default()
            },
            threads: false,
            ..Options::new(directory.path(), 1 << 20)
        })
        .unwrap();
        for key in 0..60_u8 {
            set(&mut store, b"p", &[key], Some(vec![key; 300]));
        }
        store.catch_up().unwrap();
        let expected = contents(&snapshot(&store));
        armed.store(true, Ordering::Relaxed);
        let ended = store.compact().and_then(|()| wait(&mut store));
        armed.store(false, Ordering::Relaxed);
        assert_eq!(contents(&snapshot(&store)), expected);
        assert!(!unfinished.exists());
        assert_eq!(store.damage().first(), None);
        match ended {
            Ok(_) => break,
            Err(CompactError::Full) if kind == io::ErrorKind::StorageFull => {}
            Err(CompactError::Failed(_)) if kind == io::ErrorKind::Other => {}
            Err(other) => panic!("{other:?} after {operations}"),
        }
        failed += 1;
        set(&mut store, b"p", b"more", Some(vec![1]));
        store.catch_up().unwrap();
        store.compact().unwrap();
        wait(&mut store).unwrap();
        set(&mut store, b"p", b"more", None);
        drop(store);
        assert_eq!(contents(&snapshot(&open(directory.path()))), expected);
    }
    println!("{failed} copies failed");
    assert!(failed > 5, "{failed}");
}

#[test]
fn a_compaction_is_stopped_by_an_operator_a_migration_and_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let unfinished = directory.path().join(UNFINISHED);
    let options = || Options {
        journal: Sizes {
            step_bytes: 1,
            ..Sizes::default()
        },
        ..Options::new(directory.path(), 1 << 20)
    };
    let mut store = Store::open(options()).unwrap();
    for key in 0..200_u8 {
        set(&mut store, b"p", &[key], Some(vec![key; 30]));
    }
    store.catch_up().unwrap();
    let begin = |store: &mut Store| {
        store.compact().unwrap();
        let began = Instant::now();
        while !unfinished.exists() {
            store.tend();
            assert!(began.elapsed() < PATIENCE);
        }
    };
    let is = |ended: Result<u64, CompactError>, why: Stopped| {
        assert!(
            matches!(ended, Err(CompactError::Stopped(stopped)) if stopped == why),
            "{ended:?}"
        );
        assert!(!unfinished.exists());
    };
    begin(&mut store);
    store.stop_compacting();
    is(wait(&mut store), Stopped::Operator);
    begin(&mut store);
    let mut migration = store.begin_migration(LIMITS).unwrap();
    let entry = ((b"p".to_vec(), vec![7]), vec![1, 2, 3]);
    migration.set_many(&[entry], &mut unbounded).unwrap();
    let record = store.record().clone();
    store.commit_migration(migration, record).unwrap();
    is(wait(&mut store), Stopped::Change);
    check_space(&mut store);
    begin(&mut store);
    let compacting = store.compacting().clone();
    store.close();
    assert!(!unfinished.exists());
    assert!(compacting.progress().is_some());
    // One that was killed leaves its file.
    fs::write(&unfinished, "half of it").unwrap();
    let store = Store::open(options()).unwrap();
    assert!(!unfinished.exists());
    assert_eq!(contents(&snapshot(&store)).len(), 200);
}

#[test]
fn the_file_in_the_place_of_the_first_is_locked_and_watched() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shard.redb");
    let mut store = open(directory.path());
    set(&mut store, b"p", b"k", Some(vec![1]));
    let inode = fs::metadata(&file).unwrap().ino();
    store.compact().unwrap();
    wait(&mut store).unwrap();
    assert_ne!(fs::metadata(&file).unwrap().ino(), inode);
    fs::remove_file(directory.path().join("lock")).unwrap();
    let again = Store::open(Options::new(directory.path(), 1 << 20));
    assert!(matches!(again, Err(OpenError::InUse(_))), "{again:?}");
    store.look().unwrap();
    let away = directory.path().join("away");
    fs::rename(&file, &away).unwrap();
    assert_eq!(store.look(), Err(Missing::Moved(file.clone())));
    fs::rename(&away, &file).unwrap();
    store.look().unwrap();
    set(&mut store, b"p", b"k", Some(vec![2]));
}

/// If the name of the second file does not survive, the first file and the journal have
/// everything, as long as no checkpoint has come after it.
#[test]
fn a_switch_whose_name_is_lost_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shard.redb");
    let kept = directory.path().join("kept");
    let mut store = open(directory.path());
    for key in 0..50_u8 {
        set(&mut store, b"p", &[key], Some(vec![key; 300]));
    }
    store.catch_up().unwrap();
    for key in 20..80_u8 {
        set(&mut store, b"p", &[key], Some(vec![key; 20]));
    }
    fs::hard_link(&file, &kept).unwrap();
    store.compact().unwrap();
    wait(&mut store).unwrap();
    set(&mut store, b"p", b"last", Some(vec![1]));
    let expected = contents(&snapshot(&store));
    std::mem::forget(store.snapshot().cloned());
    // As a crash leaves it: the journal, and the first file under its name.
    let crashed = tempfile::tempdir().unwrap();
    copy_all(
        &directory.path().join("journal"),
        &crashed.path().join("journal"),
    );
    fs::copy(&kept, crashed.path().join("shard.redb")).unwrap();
    let found = open(crashed.path());
    assert_eq!(contents(&snapshot(&found)), expected);
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[test]
fn a_damaged_file_is_not_copied() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    set(&mut store, b"p", b"k", Some(vec![1]));
    let noted = store
        .damage()
        .contain(|| Err::<(), _>(ReadError(redb::StorageError::Corrupted("a page".into()))));
    noted.unwrap_err();
    let refused = store.compact();
    assert!(matches!(refused, Err(CompactError::Damaged)), "{refused:?}");
    assert!(store.compacting().progress().is_none());
    set(&mut store, b"p", b"k", Some(vec![2]));
}

/// A file of this layout that does not say how much space its entries need.
#[test]
fn a_file_that_does_not_say_what_it_needs_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    for key in 0..50_u8 {
        set(&mut store, b"p", &[key], Some(vec![key; 300]));
    }
    let needed = check_space(&mut store);
    store.close();
    let database = redb::Database::open(directory.path().join("shard.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    let mut meta = transaction.open_table(META).unwrap();
    meta.remove(space::SPACE).unwrap().expect("it is there");
    drop(meta);
    transaction.commit().unwrap();
    assert!(database.begin_read().is_ok());
    drop(database);
    let mut store = open(directory.path());
    set(&mut store, b"p", b"k", Some(vec![1]));
    assert_eq!(check_space(&mut store), needed + space::of_entry(1, 1, 1));
}

/// So that the crash tests of the journal meet compactions in the middle.
#[test]
fn sizes_are_small_enough_for_many_steps() {
    let directory = tempfile::tempdir().unwrap();
    let disk = TestDisk::default();
    let mut store = disk.open(directory.path()).unwrap();
    for key in 0..30_u8 {
        set(&mut store, b"p", &[key], Some(vec![key; 100]));
    }
    store.catch_up().unwrap();
    let before = disk.medium().operations;
    store.compact().unwrap();
    wait(&mut store).unwrap();
    let operations = disk.medium().operations - before;
    assert!(operations > 40, "{operations}");
}

/// Everything is copied, the store does not know it yet, and a migration comes: the copy, which
/// lacks the migration, must not take the file's place.
#[test]
fn a_copy_that_was_overtaken_by_a_migration_after_its_last_step_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    for key in 0..100_u8 {
        set(&mut store, b"p", &[key], Some(vec![key; 30]));
    }
    store.catch_up().unwrap();
    store.compact().unwrap();
    let began = Instant::now();
    loop {
        let progress = store.compacting().progress().unwrap();
        assert!(began.elapsed() < PATIENCE, "{progress:?}");
        if progress.copied >= progress.of {
            break;
        }
    }
    // The thread reports soon after its last step. Where it has not yet, nothing is tested.
    thread::sleep(Duration::from_millis(200));
    let mut migration = store.begin_migration(LIMITS).unwrap();
    let entry = ((b"p".to_vec(), vec![7]), vec![1, 2, 3]);
    migration.set_many(&[entry], &mut unbounded).unwrap();
    let record = store.record().clone();
    store.commit_migration(migration, record).unwrap();
    let ended = wait(&mut store);
    assert!(
        matches!(ended, Err(CompactError::Stopped(Stopped::Change))),
        "{ended:?}"
    );
    let migrated = snapshot(&store).get(b"p", &[7]).unwrap();
    assert_eq!(migrated, Some(vec![1, 2, 3]));
    // It is removed in the background.
    while directory.path().join(UNFINISHED).exists() {
        assert!(began.elapsed() < PATIENCE);
    }
}

/// A file that somebody put in the data file's place meanwhile is theirs.
#[test]
fn a_file_that_was_put_in_the_place_of_the_first_is_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let (file, away) = (
        directory.path().join("shard.redb"),
        directory.path().join("away"),
    );
    let mut store = open(directory.path());
    for key in 0..100_u8 {
        set(&mut store, b"p", &[key], Some(vec![key; 30]));
    }
    store.catch_up().unwrap();
    let expected = contents(&snapshot(&store));
    store.compact().unwrap();
    fs::rename(&file, &away).unwrap();
    fs::write(&file, "a backup").unwrap();
    for _ in 0..100 {
        store.tend();
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(fs::read(&file).unwrap(), b"a backup");
    assert!(store.compacting().progress().unwrap().ended.is_none());
    fs::rename(&away, &file).unwrap();
    wait(&mut store).unwrap();
    assert_eq!(contents(&snapshot(&store)), expected);
}
