//! Reads what is in the journal and not yet in the data file.
//!
//! One record at most was being written when the process ended, because the next one begins only
//! after a sync. So whatever cannot be read must be that record: cut off, and never acknowledged.
//! Its sectors are whole, or as they were before. Two things show that it is not so, and are
//! damage: a sector that is neither, and a later record.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::place::Place;
use super::record::{self, Head};
use super::sector::{self, LINK, SECTOR, Seen};
use super::segment::{self, Segment};
use crate::file::MakeDisk;

/// What a journal has after a place.
#[derive(Debug)]
pub(crate) struct Replayed {
    /// The place after the last record.
    pub(super) end: Place,
    /// The segments from the first place's to the last place's, in order.
    pub(super) used: Vec<u32>,
    /// Other files that are segments.
    pub(super) others: Vec<u32>,
    /// The sectors of the last record.
    pub(super) last: Vec<Sector>,
    /// The sectors of a record that was cut off.
    pub(super) torn: Vec<Sector>,
    /// The records and their bytes.
    pub(crate) commits: u64,
    pub(crate) bytes: u64,
}

/// Why a journal cannot be read.
#[derive(Debug)]
pub(crate) enum Fault {
    Io(PathBuf, io::Error),
    /// A later version wrote the record.
    Newer(PathBuf, u8),
    Damaged(Damaged),
}

/// Where a journal is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// The segment's file.
    pub path: PathBuf,
    /// The first byte that makes no sense.
    pub byte: u64,
    /// The number of the commit that is there.
    pub commit: u64,
    /// The highest number of a later commit that was found.
    pub last: Option<u64>,
    /// The file is missing, or has another length.
    pub is_gone: bool,
}

impl fmt::Display for Damaged {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path, byte, commit, ..
        } = self;
        if self.is_gone {
            write!(
                formatter,
                "the journal's file {} is missing or incomplete: commit {commit} and those after it cannot be read",
                path.display()
            )?;
        } else {
            write!(
                formatter,
                "the journal's file {} is damaged at byte {byte}: commit {commit} cannot be read",
                path.display()
            )?;
        }
        match self.last {
            Some(last) => write!(
                formatter,
                ", and later ones, up to {last}, were acknowledged"
            ),
            None if self.is_gone => write!(formatter, ", and they may have been acknowledged"),
            None => write!(formatter, ", and it may have been acknowledged"),
        }
    }
}

/// A sector's segment, and its first byte there.
pub(super) type Sector = (u32, u64);

/// One whole record.
struct Record {
    head: Head,
    body: Vec<u8>,
    sectors: Vec<Sector>,
}

struct Reader<'a> {
    directory: &'a Path,
    make: &'a MakeDisk,
    place: Place,
    /// The number of the last commit that was read.
    commit: u64,
    /// The position of the next sector.
    position: u64,
    /// The segment with that position, and its content.
    segment: u32,
    content: Vec<u8>,
    used: Vec<u32>,
    /// How many of them are before the segment where the last record ends.
    passed: usize,
}

/// Whether there is no file, or one that is no segment.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{NotFound, UnexpectedEof};
    matches!(error.kind(), NotFound | UnexpectedEof)
}

/// Reads all records after a place, which the data file names, and gives each to `take`, which
/// returns whether its body makes sense.
///
/// # Errors
/// If the disk fails, or the journal is damaged or of a later version.
pub(crate) fn replay(
    directory: &Path,
    make: &MakeDisk,
    place: Place,
    mut take: impl FnMut(&[u8]) -> bool,
) -> Result<Replayed, Fault> {
    let mut reader = Reader {
        directory,
        make,
        place,
        commit: place.commit,
        position: place.position,
        segment: place.segment,
        content: Vec::new(),
        used: Vec::new(),
        passed: 0,
    };
    reader.enter(place.segment)?;
    let (mut last, mut commits, mut bytes) = (Vec::new(), 0, 0);
    loop {
        let (position, segment, used) = (reader.position, reader.segment, reader.used.len());
        reader.passed = used - 1;
        if let Some(record) = reader.record()? {
            reader.commit = record.head.commit;
            commits += 1;
            bytes += (record.sectors.len() * SECTOR) as u64;
            last = record.sectors;
            if !take(&record.body) {
                return Err(reader.damaged(position, None));
            }
            continue;
        }
        // The record that was cut off may have gone on in further segments.
        let torn = reader.torn(position)?;
        let mut others = reader.others()?;
        others.extend(reader.used.drain(used..));
        return Ok(Replayed {
            end: Place {
                commit: reader.commit,
                position,
                segment,
                ..place
            },
            used: reader.used,
            others,
            last,
            torn,
            commits,
            bytes,
        });
    }
}

impl Reader<'_> {
    fn path(&self, number: u32) -> PathBuf {
        segment::path(self.directory, number)
    }

    /// Goes to a segment's start.
    fn enter(&mut self, number: u32) -> Result<(), Fault> {
        match Segment::look_into(self.directory, number, self.make)
            .and_then(|found| found.read(self.place.sectors))
        {
            Ok(content) => {
                (self.segment, self.content) = (number, content);
                self.used.push(number);
                Ok(())
            }
            Err(error) if is_gone(&error) => Err(Fault::Damaged(Damaged {
                path: self.path(number),
                byte: 0,
                commit: self.commit + 1,
                last: None,
                is_gone: true,
            })),
            Err(error) => Err(Fault::Io(self.path(number), error)),
        }
    }

    fn damaged(&self, position: u64, last: Option<u64>) -> Fault {
        Fault::Damaged(Damaged {
            path: self.path(self.segment),
            byte: self.offset(position) as u64,
            commit: self.commit + 1,
            last,
            is_gone: false,
        })
    }

    /// Reads the record at the position; none if it is not there whole.
    fn record(&mut self) -> Result<Option<Record>, Fault> {
        let start = self.position;
        let (mut body, mut sectors) = (Vec::new(), Vec::new());
        let mut head: Option<Head> = None;
        let mut number = 0;
        loop {
            let is_link = self.place.is_link(self.position);
            let wanted = if is_link { LINK } else { number };
            let at = self.offset(self.position);
            let sector = &self.content[at..at + SECTOR];
            match sector::look(self.place.seed, sector) {
                Seen::Whole { position, number }
                    if (position, number) == (self.position, wanted) => {}
                Seen::Whole { position, .. } if position < start => return Ok(None),
                Seen::Blank => return Ok(None),
                Seen::Whole { .. } | Seen::Damaged => {
                    let last = self.later(start, &mut Vec::new())?;
                    return Err(self.damaged(self.position, last));
                }
            }
            sectors.push((self.segment, at as u64));
            self.position += 1;
            let part = sector::part(sector);
            if is_link {
                self.enter(record::linked(part))?;
                continue;
            }
            body.extend_from_slice(part);
            number += 1;
            let head = if let Some(head) = head {
                head
            } else {
                let newer = |version| Fault::Newer(self.path(self.segment), version);
                *head.insert(Head::read(part).map_err(newer)?)
            };
            if number == head.sectors() {
                if head.commit != self.commit + 1 {
                    return Err(self.damaged(start, None));
                }
                body.drain(..record::HEAD);
                body.truncate(head.length as usize);
                return Ok(Some(Record {
                    head,
                    body,
                    sectors,
                }));
            }
        }
    }

    /// The sectors of a record that was cut off, which began at `start`.
    fn torn(&mut self, start: u64) -> Result<Vec<Sector>, Fault> {
        let mut torn = Vec::new();
        match self.later(start, &mut torn)? {
            None => Ok(torn),
            last => Err(self.damaged(self.position, last)),
        }
    }

    /// Collects the sectors of a record that began at `start` and is not whole. Returns the
    /// highest number of a later commit if there is one.
    fn later(&mut self, start: u64, torn: &mut Vec<Sector>) -> Result<Option<u64>, Fault> {
        let mut last = None;
        let mut numbers = self.others()?;
        // Those that were passed have nothing behind `start`.
        numbers.extend(self.used.iter().skip(self.passed));
        for number in numbers {
            let read = Segment::look_into(self.directory, number, self.make)
                .and_then(|found| found.read(self.place.sectors));
            let content = match read {
                Ok(content) => content,
                // No segment: whatever needs it names it, and has been found missing.
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(Fault::Io(self.path(number), error)),
            };
            for (at, sector) in content.chunks(SECTOR).enumerate() {
                let Seen::Whole {
                    position,
                    number: found,
                } = self.peek(sector, start)
                else {
                    continue;
                };
                if found == LINK || u64::from(found) == self.number_at(start, position) {
                    torn.push((number, (at * SECTOR) as u64));
                } else {
                    let commit = (found == 0).then(|| Head::read(sector::part(sector)).ok());
                    let commit = commit.flatten().map_or(self.commit + 2, |head| head.commit);
                    last = last.max(Some(commit));
                }
            }
        }
        Ok(last)
    }

    /// What a sector is if its position is not below `start`.
    fn peek(&self, sector: &[u8], start: u64) -> Seen {
        if sector::position(sector) < start {
            return Seen::Blank;
        }
        sector::look(self.place.seed, sector)
    }

    /// The segments that no record before led to.
    fn others(&self) -> Result<Vec<u32>, Fault> {
        let mut numbers = segment::numbers(self.directory)
            .map_err(|error| Fault::Io(self.directory.to_owned(), error))?;
        numbers.retain(|number| !self.used.contains(number));
        Ok(numbers)
    }

    /// The first byte of the sector with a position in its segment.
    fn offset(&self, position: u64) -> usize {
        usize::try_from(self.place.in_segment(position)).expect("a segment was read") * SECTOR
    }

    /// Which sector of a record that begins at `start` has this position. Links are none.
    fn number_at(&self, start: u64, position: u64) -> u64 {
        (position - start) - (self.place.lap_of(position) - self.place.lap_of(start))
    }
}
