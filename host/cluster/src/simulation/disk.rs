//! A disk in memory that outlives its processes, and loses unsynced writes when a process dies.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ostrakon_store as store;

use super::life::Life;
use super::random;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// So that a run goes through many segments and checkpoints, and none depends on the clock.
const SIZES: store::Sizes = store::Sizes {
    segment_bytes: 8 * 512,
    segments: 8,
    memtable_bytes: 4096,
    idle: Duration::MAX,
    step_bytes: 500,
};

/// One shard's files. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Mutex<Medium>>);

#[derive(Debug, Default)]
struct Medium {
    files: Vec<Image>,
    /// Syncs are reported too early: each file is always one sync late.
    is_late: bool,
}

#[derive(Debug, Default)]
struct Image {
    /// The file as the process sees it.
    seen: Vec<u8>,
    /// The file after a loss of power, if no unsynced write survives.
    durable: Vec<u8>,
    /// The writes since the last sync: offsets and lengths.
    unsynced: Vec<(usize, usize)>,
    /// On a late disk: the file as it was at the last sync.
    late: Option<Vec<u8>>,
}

impl Image {
    fn keep(&mut self, (offset, length): (usize, usize)) {
        let range = offset..(offset + length).min(self.seen.len());
        if !range.is_empty() {
            self.durable[range.clone()].copy_from_slice(&self.seen[range]);
        }
    }

    /// Some sectors of the unsynced writes survive. Returns whether there were any.
    fn lose_power(&mut self, seed: u64) -> bool {
        let unsynced = std::mem::take(&mut self.unsynced);
        if self.late.is_none() {
            self.durable.resize(self.seen.len(), 0);
            for (offset, length) in &unsynced {
                for at in (*offset..offset + length).step_by(SECTOR) {
                    if random::of(seed, &[at as u64]).is_multiple_of(2) {
                        self.keep((at, SECTOR.min(offset + length - at)));
                    }
                }
            }
        }
        self.seen = self.durable.clone();
        !unsynced.is_empty()
    }
}

impl Disk {
    /// A disk that reports syncs too early: it is always one sync late.
    pub(super) fn late() -> Self {
        let disk = Self::default();
        disk.medium().is_late = true;
        disk
    }

    fn medium(&self) -> MutexGuard<'_, Medium> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// The options with which a process opens its store on this disk.
    pub(super) fn options(&self, directory: &std::path::Path, life: &Life) -> store::Options {
        let (disk, life) = (self.clone(), life.clone());
        store::Options {
            disk: Arc::new(move |file| Box::new(Opened::new(&disk, &life, file))),
            journal: SIZES,
            threads: false,
            ..store::Options::new(directory, 1 << 20)
        }
    }

    /// Loses power: some sectors of the unsynced writes survive. Returns whether there were any
    /// unsynced writes.
    pub(super) fn lose_power(&self, seed: u64) -> bool {
        let mut lost = false;
        for (number, file) in (0..).zip(&mut self.medium().files) {
            lost |= file.lose_power(random::of(seed, &[number]));
        }
        lost
    }
}

/// A file of the disk as one process has opened it.
#[derive(Debug)]
struct Opened {
    disk: Disk,
    number: usize,
    life: Life,
}

impl Opened {
    /// The real file has only the number of the one in memory. A new one is empty.
    fn new(disk: &Disk, life: &Life, mut file: File) -> Self {
        let mut number = Vec::new();
        file.read_to_end(&mut number).expect("the file can be read");
        let number = if number.is_empty() {
            let mut medium = disk.medium();
            let late = medium.is_late.then(Vec::new);
            medium.files.push(Image {
                late,
                ..Image::default()
            });
            let number = medium.files.len() - 1;
            file.write_all(&number.to_le_bytes())
                .expect("the file can be written");
            number
        } else {
            usize::from_le_bytes(number.try_into().expect("the file has a number"))
        };
        Self {
            disk: disk.clone(),
            number,
            life: life.clone(),
        }
    }

    /// Does something to the file, if the process is alive.
    fn act<T>(&self, act: impl FnOnce(&mut Image) -> T) -> io::Result<T> {
        if self.life.is_over() {
            return Err(io::Error::other("the process is dead"));
        }
        Ok(act(&mut self.disk.medium().files[self.number]))
    }
}

impl store::Disk for Opened {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.medium().files[self.number].seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let medium = self.disk.medium();
        let start = usize::try_from(offset).expect("the file is in memory");
        let found = medium.files[self.number].seen.get(start..start + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let length = usize::try_from(len).expect("the file is in memory");
        self.act(|image| image.seen.resize(length, 0))
    }

    fn sync(&self) -> io::Result<()> {
        if !self.life.deed() {
            return Err(io::Error::other("the process is dead"));
        }
        self.act(|image| {
            if let Some(late) = image.late.take() {
                image.durable = late;
                image.late = Some(image.seen.clone());
                return;
            }
            image.durable.resize(image.seen.len(), 0);
            for write in std::mem::take(&mut image.unsynced) {
                image.keep(write);
            }
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).expect("the file is in memory");
        self.act(|image| {
            let end = start + data.len();
            if image.seen.len() < end {
                image.seen.resize(end, 0);
            }
            image.seen[start..end].copy_from_slice(data);
            image.unsynced.push((start, data.len()));
        })
    }
}
