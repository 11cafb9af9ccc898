//! A disk in memory that outlives its processes, and loses unsynced writes when a process dies.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard};

use ostrakon_store as store;

use super::life::Life;
use super::random;

/// One shard's file. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Mutex<Image>>);

#[derive(Debug, Default)]
struct Image {
    /// The file as the process sees it.
    seen: Vec<u8>,
    /// The file after a loss of power, if no unsynced write survives.
    durable: Vec<u8>,
    /// The writes since the last sync: offsets and lengths.
    unsynced: Vec<(usize, usize)>,
    /// For a late disk: the file as it was at the last sync.
    late: Option<Vec<u8>>,
}

impl Image {
    fn keep(&mut self, (offset, length): (usize, usize)) {
        let range = offset..(offset + length).min(self.seen.len());
        if !range.is_empty() {
            self.durable[range.clone()].copy_from_slice(&self.seen[range]);
        }
    }
}

impl Disk {
    /// A disk that reports syncs too early: it is always one sync late.
    pub(super) fn late() -> Self {
        let disk = Self::default();
        disk.image().late = Some(Vec::new());
        disk
    }

    fn image(&self) -> MutexGuard<'_, Image> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// The options with which a process opens its store on this disk.
    pub(super) fn options(&self, directory: &std::path::Path, life: &Life) -> store::Options {
        let (disk, life) = (self.clone(), life.clone());
        store::Options {
            directory: directory.to_owned(),
            cache_bytes: 1 << 20,
            check: false,
            disk: Box::new(move |file| Box::new(Opened::new(&disk, &life, file))),
        }
    }

    /// Loses power: some of the unsynced writes survive. Returns whether there were any
    /// unsynced writes.
    pub(super) fn lose_power(&self, seed: u64) -> bool {
        let mut image = self.image();
        let unsynced = std::mem::take(&mut image.unsynced);
        let length = image.seen.len();
        if image.late.is_none() {
            image.durable.resize(length, 0);
        }
        for write in &unsynced {
            if image.late.is_none() && random::of(seed, &[write.0 as u64]).is_multiple_of(2) {
                image.keep(*write);
            }
        }
        image.seen = image.durable.clone();
        !unsynced.is_empty()
    }
}

/// The disk as one process has opened it.
#[derive(Debug)]
struct Opened {
    disk: Disk,
    life: Life,
}

impl Opened {
    /// The real file only distinguishes a new store, whose file is empty, from an existing one.
    fn new(disk: &Disk, life: &Life, mut file: File) -> Self {
        if file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            file.write_all(b"elsewhere")
                .expect("the file can be written");
            let mut image = disk.image();
            *image = Image {
                late: image.late.take(),
                ..Image::default()
            };
        }
        Self {
            disk: disk.clone(),
            life: life.clone(),
        }
    }

    fn living(&self) -> io::Result<MutexGuard<'_, Image>> {
        if self.life.is_over() {
            return Err(io::Error::other("the process is dead"));
        }
        Ok(self.disk.image())
    }
}

impl store::Disk for Opened {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.image().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let image = self.disk.image();
        let start = usize::try_from(offset).expect("the file is in memory");
        let found = image.seen.get(start..start + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let length = usize::try_from(len).expect("the file is in memory");
        self.living()?.seen.resize(length, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if !self.life.deed() {
            return Err(io::Error::other("the process is dead"));
        }
        let mut image = self.living()?;
        if let Some(late) = image.late.take() {
            image.durable = late;
            image.late = Some(image.seen.clone());
            return Ok(());
        }
        let length = image.seen.len();
        image.durable.resize(length, 0);
        for write in std::mem::take(&mut image.unsynced) {
            image.keep(write);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).expect("the file is in memory");
        let mut image = self.living()?;
        let end = start + data.len();
        if image.seen.len() < end {
            image.seen.resize(end, 0);
        }
        image.seen[start..end].copy_from_slice(data);
        image.unsynced.push((start, data.len()));
        Ok(())
    }
}
