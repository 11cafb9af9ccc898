//! Disks that fail at the n-th operation, and disks that lose power.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::FileDisk;
use super::*;

#[derive(Debug, Default)]
struct Image {
    /// The bytes that are read.
    seen: Vec<u8>,
    /// The bytes that survive a loss of power.
    durable: Vec<u8>,
    /// The writes since the last sync, in order.
    volatile: Vec<(u64, Vec<u8>)>,
    length: u64,
}

impl Image {
    fn apply(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
        let end = offset as usize + data.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(data);
    }

    /// The disk after a loss of power: of the writes since the last sync, some sectors arrived,
    /// and others did not. Now and then all or none of them did.
    fn lose_power(&mut self, random: &mut Random) {
        let few = random.below(4);
        for (offset, data) in std::mem::take(&mut self.volatile) {
            for (at, sector) in data.chunks(512).enumerate() {
                if random.below(4) < few {
                    Self::apply(&mut self.durable, offset + 512 * at as u64, sector);
                }
            }
        }
        self.durable.resize(self.length as usize, 0);
        self.seen = self.durable.clone();
    }
}

/// A disk's files and its faults, over all openings.
#[derive(Debug, Default)]
pub(super) struct Medium {
    files: Vec<Image>,
    pub(super) operations: u64,
    /// The operation at which the disk begins to fail, the number of failures, and the error.
    pub(super) fails: Option<(u64, u64, io::ErrorKind)>,
    pub(super) failures: u64,
    /// How long stores wait after a failure.
    backoff: std::time::Duration,
}

impl Medium {
    fn operate(&mut self) -> io::Result<()> {
        self.operations += 1;
        if let Some((at, times, kind)) = self.fails
            && (at..at.saturating_add(times)).contains(&self.operations)
        {
            self.failures += 1;
            return Err(kind.into());
        }
        Ok(())
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct TestDisk(Arc<Mutex<Medium>>);

impl TestDisk {
    pub(super) fn lose_power(&self, random: &mut Random) {
        for file in &mut self.medium().files {
            file.lose_power(random);
        }
    }

    pub(super) fn medium(&self) -> MutexGuard<'_, Medium> {
        self.0.lock().expect("no test panics while it holds this")
    }

    pub(super) fn open(&self, directory: &Path) -> Result<Store, OpenError> {
        let (disk, backoff) = (self.clone(), self.medium().backoff);
        Store::open(Options {
            cache_bytes: 1 << 20,
            disk: Arc::new(move |file| Box::new(disk.file(file))),
            threads: false,
            backoff,
            journal: SMALL_SIZES,
            ..Options::new(directory, 1 << 20)
        })
    }

    /// The simulated file that belongs to a real one. The real file contains only the number of the
    /// simulated one, so it can be renamed. An empty real file is a new one.
    fn file(&self, mut file: File) -> TestFile {
        let mut number = Vec::new();
        file.read_to_end(&mut number).expect("the number is read");
        let mut medium = self.medium();
        let number = if number.is_empty() {
            medium.files.push(Image::default());
            let number = medium.files.len() - 1;
            file.write_all(&number.to_le_bytes())
                .expect("the number is written");
            number
        } else {
            usize::from_le_bytes(number.try_into().expect("the text is a number"))
        };
        TestFile {
            medium: Arc::clone(&self.0),
            number,
        }
    }
}

#[derive(Debug)]
struct TestFile {
    medium: Arc<Mutex<Medium>>,
    number: usize,
}

impl TestFile {
    /// Counts an operation, which may fail, and then performs it.
    fn operate<T>(&self, make: impl FnOnce(&mut Image) -> T) -> io::Result<T> {
        let mut medium = self
            .medium
            .lock()
            .expect("no test panics while it holds this");
        medium.operate()?;
        Ok(make(&mut medium.files[self.number]))
    }
}

impl Disk for TestFile {
    fn len(&self) -> io::Result<u64> {
        self.operate(|file| file.length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.operate(|file| {
            file.seen.resize(file.length as usize, 0);
            out.copy_from_slice(&file.seen[offset as usize..offset as usize + out.len()]);
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.operate(|file| file.length = len)
    }

    fn sync(&self) -> io::Result<()> {
        let synced = self.operate(|file| {
            for (offset, data) in std::mem::take(&mut file.volatile) {
                Image::apply(&mut file.durable, offset, &data);
            }
        });
        if synced.is_err() {
            let mut medium = self
                .medium
                .lock()
                .expect("no test panics while it holds this");
            let file = &mut medium.files[self.number];
            // They can be read, and no later sync writes them: some kernels do so.
            file.volatile.clear();
        }
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.operate(|file| {
            Image::apply(&mut file.seen, offset, data);
            file.volatile.push((offset, data.to_vec()));
        })
    }
}

/// So that a run goes through many segments and checkpoints.
pub(super) const SMALL_SIZES: Sizes = Sizes {
    segment_bytes: 4 * 512,
    segments: 6,
    memtable_bytes: 1500,
    idle: std::time::Duration::MAX,
    step_bytes: 700,
};

/// Two entries that a transaction always writes with the same value.
const PAIR: [&[u8]; 2] = [b"one", b"two"];

fn set_pair(store: &mut Store, partition: &[u8], value: u64) -> Result<(), CommitError> {
    let value = value.to_le_bytes();
    commit(
        store,
        partition,
        &PAIR.map(|key| (key, Some(value.as_slice()))),
    )
}

/// The value of a partition's pair. Panics if only half of a transaction is stored.
fn pair(store: &Store, partition: &[u8]) -> Option<u64> {
    let [one, two] = PAIR.map(|key| snapshot(store).get(partition, key).expect("it reads"));
    assert_eq!(one, two, "half of a transaction is stored in {partition:?}");
    one.map(|value| u64::from_le_bytes(value.try_into().expect("eight bytes")))
}

/// Runs commits on a failing disk, restarts on a good one, and checks that every acknowledged
/// write is there in full, and no other write in part.
fn survive(disk: &TestDisk, mut random: Random, power_loss: bool, context: &str) -> (u64, u64) {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let mut acknowledged: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    let mut attempted: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
    let (mut stored, mut refused) = (0, 0);
    if let Ok(mut store) = disk.open(directory.path()) {
        for value in 1..=40 {
            let partition = vec![b'a' + random.below(5) as u8];
            if set_pair(&mut store, &partition, value).is_ok() {
                stored += 1;
                acknowledged.insert(partition.clone(), value);
                attempted.remove(&partition);
                // Readers see the value, too.
                assert_eq!(pair(&store, &partition), Some(value), "{context}");
            } else {
                refused += 1;
                attempted.entry(partition).or_default().push(value);
            }
        }
    }
    let mut medium = disk.medium();
    medium.fails = None;
    if power_loss {
        for file in &mut medium.files {
            file.lose_power(&mut random);
        }
    }
    drop(medium);
    let store = disk.open(directory.path()).unwrap_or_else(|error| {
        panic!(
            "the store does not open again: {error}: {:?}, {context}",
            error.source()
        )
    });
    for partition in b'a'..=b'e' {
        let partition = vec![partition];
        let found = pair(&store, &partition);
        let kept = acknowledged.get(&partition).copied();
        let maybe = attempted.get(&partition).into_iter().flatten().copied();
        assert!(
            found == kept || maybe.into_iter().any(|value| found == Some(value)),
            "{partition:?} has {found:?} after {kept:?} was acknowledged, {context}"
        );
    }
    (stored, refused)
}

/// Each operation of a run fails in turn: once, for a short series, and forever.
#[test]
fn a_write_is_never_acknowledged_falsely_whichever_operation_fails() {
    let healthy = TestDisk::default();
    survive(&healthy, Random(1), false, "healthy");
    let operations = healthy.medium().operations;
    let (mut runs, mut stored, mut refused) = (0, 0, 0);
    for at in (1..=operations).step_by(3) {
        for (times, kind) in [
            (1, io::ErrorKind::Other),
            (4, io::ErrorKind::StorageFull),
            (u64::MAX, io::ErrorKind::Other),
        ] {
            let disk = TestDisk::default();
            disk.medium().fails = Some((at, times, kind));
            let context = format!("operation {at} fails {times} times");
            let counts = survive(&disk, Random(1), false, &context);
            runs += 1;
            stored += counts.0;
            refused += counts.1;
        }
    }
    println!("{runs} runs over {operations} operations: {stored} stored, {refused} refused");
    assert!(stored > 0 && refused > 0);
}

/// Power is lost at every seventh operation: of the unsynced writes, some arrive, in part and in
/// any order.
#[test]
fn an_acknowledged_write_survives_a_loss_of_power() {
    let healthy = TestDisk::default();
    survive(&healthy, Random(1), false, "healthy");
    let operations = healthy.medium().operations;
    let (mut runs, mut stored) = (0, 0);
    for at in (1..=operations).step_by(7) {
        for seed in 1..=4 {
            let disk = TestDisk::default();
            disk.medium().fails = Some((at, u64::MAX, io::ErrorKind::Other));
            let context = format!("power is lost at operation {at}, seed {seed}");
            stored += survive(&disk, Random(seed), true, &context).0;
            runs += 1;
        }
    }
    println!("{runs} losses of power over {operations} operations: {stored} stored");
    assert!(stored > 0);
}

#[test]
fn a_full_disk_refuses_writes_keeps_reads_and_takes_writes_again() {
    let disk = TestDisk::default();
    disk.medium().backoff = std::time::Duration::from_millis(250);
    let directory = tempfile::tempdir().expect("a directory can be created");
    let mut store = disk.open(directory.path()).expect("it opens");
    for _ in 0..3 {
        // Segments are made ahead of need.
        set_pair(&mut store, b"a", 1).expect("there is space");
    }
    let operations = disk.medium().operations;
    disk.medium().fails = Some((operations + 1, 1, io::ErrorKind::StorageFull));
    assert!(matches!(
        set_pair(&mut store, b"a", 2),
        Err(CommitError::Full)
    ));
    assert_eq!(disk.medium().failures, 1);
    assert_eq!(pair(&store, b"a"), Some(1));
    // Until the disk is tried again, writes are rejected without touching it.
    assert!(matches!(
        set_pair(&mut store, b"a", 3),
        Err(CommitError::Full)
    ));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while set_pair(&mut store, b"a", 4).is_err() {
        assert!(std::time::Instant::now() < deadline, "writes do not resume");
        std::thread::yield_now();
    }
    assert_eq!(pair(&store, b"a"), Some(4));
}

/// Only the kernel knows whether data is on the disk. If a sync did not reach the kernel, no other
/// test would notice.
#[test]
fn a_real_disk_asks_the_system_to_sync() {
    let (_reader, writer) = io::pipe().expect("a pipe");
    let pipe = FileDisk::new(std::os::fd::OwnedFd::from(writer).into());
    pipe.sync().expect_err("a pipe cannot be synced");
    let file = FileDisk::new(tempfile::tempfile().expect("a file"));
    file.sync().expect("a file can be");
}
