//! The journal's files: made ahead of need, filled with zeros, and used again and again.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ostrakon_base::regular;

use super::sector::SECTOR;
use crate::disk::{Disk, sync_directory};
use crate::file::MakeDisk;
use crate::held::Identity;

/// How many zeros are written at a time.
const STRIDE: usize = 64 * 1024;

static ZEROS: [u8; STRIDE] = [0; STRIDE];

/// The bytes of a segment.
pub(super) fn bytes_of(sectors: u32) -> u64 {
    u64::from(sectors) * SECTOR as u64
}

/// A segment's file, open.
#[derive(Debug)]
pub(super) struct Segment {
    /// The name of its file.
    pub(super) number: u32,
    pub(super) path: PathBuf,
    pub(super) disk: Box<dyn Disk>,
    identity: Identity,
    /// How many bytes it had when it was opened or made.
    length: u64,
}

impl Segment {
    /// Makes a segment of zeros, durably. On failure nothing is left of it.
    pub(super) fn make(
        directory: &Path,
        number: u32,
        sectors: u32,
        make: &MakeDisk,
    ) -> io::Result<Self> {
        let path = path(directory, number);
        let made = Self::fill(&path, number, sectors, make).and_then(|segment| {
            sync_directory(directory)?;
            Ok(segment)
        });
        if made.is_err() {
            // It was never used. If it stays, the next start ignores it.
            let _ = fs::remove_file(&path);
        }
        made
    }

    fn fill(path: &Path, number: u32, sectors: u32, make: &MakeDisk) -> io::Result<Self> {
        let file = regular::edit_own(path, true)?;
        file.set_len(0)?;
        let mut segment = Self::of(path, number, file, make)?;
        let length = bytes_of(sectors);
        segment.disk.set_len(length)?;
        let mut at = 0;
        while at < length {
            let stride = usize::try_from(length - at).map_or(STRIDE, |left| STRIDE.min(left));
            segment.disk.write(at, &ZEROS[..stride])?;
            at += stride as u64;
        }
        segment.disk.sync()?;
        segment.length = fs::metadata(path)?.len();
        Ok(segment)
    }

    /// Opens a segment's file, also for writing.
    pub(super) fn open(directory: &Path, number: u32, make: &MakeDisk) -> io::Result<Self> {
        let path = path(directory, number);
        let file = regular::edit_own(&path, false)?;
        Self::of(&path, number, file, make)
    }

    /// Opens a segment's file only to read it.
    pub(super) fn look_into(directory: &Path, number: u32, make: &MakeDisk) -> io::Result<Self> {
        let path = path(directory, number);
        let file = regular::open_own(&path)?;
        Self::of(&path, number, file, make)
    }

    fn of(path: &Path, number: u32, file: File, make: &MakeDisk) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            number,
            path: path.to_owned(),
            identity: Identity::of(&metadata),
            length: metadata.len(),
            disk: make(file),
        })
    }

    /// Whether its path still leads to this file, and that is as long as it was.
    pub(super) fn is_there(&self) -> bool {
        fs::metadata(&self.path)
            .is_ok_and(|found| Identity::of(&found) == self.identity && found.len() == self.length)
    }

    /// Whether it has anything but zeros. A segment whose making was cut off does not.
    pub(super) fn has_content(&self) -> io::Result<bool> {
        let length = self.disk.len()?;
        let mut content = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.disk.read(0, &mut content)?;
        Ok(content.iter().any(|byte| *byte != 0))
    }

    /// Its whole content; fails if it does not have the length of a segment.
    pub(super) fn read(&self, sectors: u32) -> io::Result<Vec<u8>> {
        if self.disk.len()? != bytes_of(sectors) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = usize::try_from(bytes_of(sectors)).map_err(io::Error::other)?;
        let mut content = vec![0; length];
        self.disk.read(0, &mut content)?;
        Ok(content)
    }
}

pub(super) fn path(directory: &Path, number: u32) -> PathBuf {
    directory.join(number.to_string())
}

/// The numbers of the segments' files in a directory, in order.
pub(super) fn numbers(directory: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse::<u32>().ok());
        numbers.extend(number.filter(|number| name.to_str() == Some(&number.to_string())));
    }
    numbers.sort_unstable();
    Ok(numbers)
}
