//! Transfers of whole partitions.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::disk::FileDisk;
use super::*;

type Oracle = BTreeMap<Position, Vec<u8>>;

fn all(store: &Store) -> Oracle {
    let snapshot = snapshot(store);
    let page = snapshot
        .scan(None, 1_000_000, &mut unbounded)
        .expect("it reads");
    assert!(!page.more);
    page.entries.into_iter().collect()
}

/// Random partitions, small and large, move between two stores, with writes in between. Both stores
/// end up equal to two maps, sizes included.
#[test]
fn random_transfers_move_partitions_whole() {
    let seed = 0x7a_0f_e2;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    let directories = [(); 2].map(|()| tempfile::tempdir().expect("a directory can be created"));
    let mut stores = [0, 1].map(|index| open(directories[index].path()));
    let mut oracles = [Oracle::new(), Oracle::new()];
    let mut moved = 0;
    for round in 0..60_u64 {
        // Writes to a partition of the first store, sometimes beyond the size from which `sizes`
        // has a row.
        let partition = vec![b'a' + random.below(6) as u8; 1 + random.below(2) as usize];
        let count = [1, 3, 40][random.below(3) as usize];
        let mut changes = Vec::new();
        for _ in 0..count {
            let key = random.below(100).to_string().into_bytes();
            changes.push((key, round.to_string().into_bytes()));
        }
        let home = usize::from(oracles[1].keys().any(|(owner, _)| *owner == partition));
        let set: Vec<_> = changes
            .iter()
            .map(|(key, value)| (key.as_slice(), Some(value.as_slice())))
            .collect();
        commit(&mut stores[home], &partition, &set).expect("it is stored");
        for (key, value) in changes {
            oracles[home].insert((partition.clone(), key), value);
        }

        // Moves some partitions from one store to the other.
        let from = random.below(2) as usize;
        let partitions = oracles[from].keys().map(|(partition, _)| partition.clone());
        let mut leaving: Vec<_> = partitions.collect();
        leaving.dedup();
        leaving.retain(|_| random.below(3) == 0);
        moved += leaving.len();
        let gone: Vec<_> = oracles[from]
            .iter()
            .filter(|((partition, _), _)| leaving.contains(partition))
            .map(|(position, value)| (position.clone(), value.clone()))
            .collect();
        let topology = round.to_le_bytes().to_vec();
        let arrive = Transfer {
            topology: topology.clone(),
            arrived: whole(&gone),
            left: Arc::default(),
        };
        let leave = Transfer {
            topology,
            arrived: vec![],
            left: Arc::new(leaving),
        };
        // Repeating a transfer changes nothing, because it replaces the same data.
        for _ in 0..=random.below(2) {
            stores[1 - from].transfer(&arrive).expect("it is stored");
        }
        stores[from].transfer(&leave).expect("it is stored");
        for (position, value) in gone {
            oracles[from].remove(&position);
            oracles[1 - from].insert(position, value);
        }
        if random.below(4) == 0 {
            drop(stores);
            stores = [0, 1].map(|index| open(directories[index].path()));
        }
        for (store, oracle) in stores.iter().zip(&oracles) {
            assert_eq!(all(store), *oracle, "round {round}");
            assert_eq!(store.record().topology, Some(round.to_le_bytes().to_vec()));
            let mut sizes = BTreeMap::<_, (u64, u64)>::new();
            for ((partition, key), value) in oracle {
                let size = sizes.entry(partition).or_default();
                *size = (size.0 + (key.len() + value.len()) as u64, size.1 + 1);
            }
            for (partition, size) in &sizes {
                let found = snapshot(store).size(partition).expect("it reads");
                assert_eq!(found, *size, "round {round}, {partition:?}");
            }
            assert_walks(&snapshot(store), oracle, &mut random);
        }
    }
    println!("{moved} partitions moved");
    assert!(moved > 50);
}

/// Groups sorted entries into partitions.
fn whole(entries: &[(Position, Vec<u8>)]) -> Vec<Whole> {
    let partitions = entries.chunk_by(|((one, _), _), ((other, _), _)| one == other);
    let whole = partitions.map(|entries| Whole {
        partition: entries[0].0.0.clone(),
        entries: entries
            .iter()
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect(),
    });
    whole.collect()
}

/// Checks that scans of all partitions, page by page, and of some partitions find everything.
fn assert_walks(snapshot: &Snapshot, oracle: &Oracle, random: &mut Random) {
    let mut measured = Vec::<(Vec<u8>, u64)>::new();
    for ((partition, key), value) in oracle {
        let bytes = (key.len() + value.len()) as u64;
        match measured.last_mut() {
            Some((last, sum)) if last == partition => *sum += bytes,
            _ => measured.push((partition.clone(), bytes)),
        }
    }
    let limit = 1 + random.below(4) as usize;
    let (mut found, mut start) = (Vec::new(), None::<Vec<u8>>);
    loop {
        let page = snapshot.measure(start.as_deref(), limit).expect("it reads");
        assert!(page.entries.len() <= limit);
        found.extend(page.entries);
        if !page.more {
            break;
        }
        start = found.last().map(|(last, _)| successor(last));
    }
    assert_eq!(found, measured);

    // The names include partitions that do not exist.
    let names = (0..6).flat_map(|letter| [1, 2].map(|length| vec![b'a' + letter; length]));
    let wanted: Vec<_> = names.filter(|_| random.below(2) == 0).collect();
    let expected: Vec<_> = oracle
        .iter()
        .filter(|((partition, _), _)| wanted.contains(partition))
        .map(|(position, value)| (position.clone(), value.clone()))
        .collect();
    let found = snapshot.whole(&wanted).expect("it reads");
    assert_eq!(found, whole(&expected));
}

#[test]
fn a_transfer_that_the_disk_refuses_leaves_everything_as_it_was() {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let mut store = open(directory.path());
    commit(&mut store, b"p", &[(b"k", Some(b"1"))]).expect("it is stored");
    let before = store.record().clone();
    let fails = Arc::new(AtomicBool::new(false));
    drop(store);
    let failing = Arc::clone(&fails);
    let options = Options {
        disk: Arc::new(move |file| {
            Box::new(Refusing {
                inner: FileDisk::new(file),
                fails: Arc::clone(&failing),
            })
        }),
        ..Options::new(directory.path(), 1 << 20)
    };
    let mut store = Store::open(options).expect("it opens");
    fails.store(true, Ordering::Relaxed);
    let transfer = Transfer {
        topology: b"after".to_vec(),
        arrived: whole(&[((b"q".to_vec(), b"k".to_vec()), b"2".to_vec())]),
        left: Arc::new(vec![b"p".to_vec()]),
    };
    store.transfer(&transfer).expect_err("the disk refuses");
    assert_eq!(store.record(), &before);
    fails.store(false, Ordering::Relaxed);
    drop(store);
    let store = open(directory.path());
    assert_eq!(all(&store).len(), 1);
    assert_eq!(
        snapshot(&store).get(b"p", b"k").expect("it reads"),
        Some(b"1".to_vec())
    );
    assert_eq!(store.record(), &before);
}

/// A disk that can be made to refuse writes and syncs.
#[derive(Debug)]
struct Refusing {
    inner: FileDisk,
    fails: Arc<AtomicBool>,
}

impl Refusing {
    fn operate(&self) -> io::Result<()> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(io::Error::other("refused for a test"));
        }
        Ok(())
    }
}

impl Disk for Refusing {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.operate()?;
        self.inner.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.operate()?;
        self.inner.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.operate()?;
        self.inner.write(offset, data)
    }
}
