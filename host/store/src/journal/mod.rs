//! The journal: where a commit becomes durable, by one write and one sync.
//!
//! It is a row of sectors in files of one megabyte, the segments, in the directory `journal`.
//! Segments are made ahead of need, filled with zeros and synced, so a commit changes neither a
//! file's length nor where its blocks are, and finds its space. When the data file has caught up,
//! they are used again; what they contain then is known to be old by its position.
//!
//! # What is assumed of the disk
//!
//! When the power fails during a write, each sector of 512 bytes is afterwards either as it was or
//! as it was to be. No record shares a sector with another, so a write never touches a sector that
//! was acknowledged. The kernel does write such sectors again, with the same content, because it
//! writes whole pages: a disk with larger physical sectors must keep them whole, too. This is what
//! `SQLite` calls "powersafe overwrite", and what `InnoDB`'s log of 512-byte blocks relies on. A disk
//! that does not keep to it is found out by the checksums: the start is refused.
//!
//! After a failed write or sync, nothing is known of what the disk has: a later sync may succeed
//! although the pages were dropped ("fsyncgate"). So no file of the journal is believed any more.
//! The memtables, which have everything that was acknowledged, are written to the data file, and
//! the journal begins anew behind everything that was tried.

mod place;
mod record;
mod replay;
mod sector;
mod segment;

pub use replay::Damaged;

pub(crate) use place::Place;
pub(crate) use replay::{Fault, Replayed, replay};

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use record::{HEAD, Head};
use replay::Sector;
use sector::{LINK, PAYLOAD, SECTOR};
use segment::{Segment, bytes_of};

use crate::disk::sync_directory;
use crate::file::MakeDisk;
use crate::held::Stamp;

/// The version of the records that this program writes.
pub(crate) const VERSION: u16 = record::VERSION as u16;

/// The name of the directory with the segments.
pub(crate) const DIRECTORY: &str = "journal";

/// How many segments are kept ready beyond the one in use.
const AHEAD: usize = 2;

/// The memory that is kept for encoding records.
const KEPT_BYTES: usize = 1 << 20;

/// A segment that is made by another thread.
#[derive(Debug)]
pub(crate) struct Made(io::Result<Segment>);

/// What makes a segment.
pub(crate) struct Order {
    directory: PathBuf,
    number: u32,
    sectors: u32,
    make: MakeDisk,
}

impl Order {
    pub(crate) fn run(self) -> Made {
        let Self {
            directory,
            number,
            sectors,
            make,
        } = self;
        Made(Segment::make(&directory, number, sectors, &make))
    }
}

/// The journal, open for writing.
pub(crate) struct Journal {
    directory: PathBuf,
    make: MakeDisk,
    /// The place after the last commit.
    end: Place,
    /// How many segments there are at most, unless one commit needs more.
    most: usize,
    /// The segments with records that the data file may not have, and their places in the row;
    /// the last one is in use.
    used: VecDeque<(u64, Segment)>,
    /// Segments that can be used.
    free: Vec<Segment>,
    ordered: usize,
    /// Where the journal begins anew after a failure.
    next: Option<(Place, Segment)>,
    /// No file has this number or a higher one.
    next_number: u32,
    /// The directory as it was when all segments were in it.
    seen: Option<Stamp>,
    /// A record's sectors, while they are written.
    sectors: Vec<u8>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Journal")
            .field("directory", &self.directory)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Makes an empty journal, and returns the place where it begins.
    ///
    /// # Errors
    /// If there is a journal that was used, or the disk fails.
    pub(crate) fn create(data: &Path, sectors: u32, make: &MakeDisk) -> io::Result<Place> {
        let directory = data.join(DIRECTORY);
        fs::create_dir_all(&directory)?;
        for number in segment::numbers(&directory)? {
            let found = Segment::look_into(&directory, number, make)?;
            // A segment whose making was cut off has zeros only.
            if found.has_content()? {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "it belongs to a data file that is not there: put that back, or, to start empty, move the journal away",
                ));
            }
            fs::remove_file(&found.path)?;
        }
        let mut seed = [0; 4];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
        Segment::make(&directory, 0, sectors, make)?;
        sync_directory(data)?;
        Ok(Place::first(u32::from_le_bytes(seed), 0, sectors))
    }

    /// Opens the journal that was replayed, and makes sure that the disk has what was read.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn open(
        data: &Path,
        most: usize,
        make: MakeDisk,
        replayed: &Replayed,
    ) -> io::Result<Self> {
        let directory = data.join(DIRECTORY);
        let end = replayed.end;
        let first = end.lap() + 1 - replayed.used.len() as u64;
        let open = |number: &u32| Segment::open(&directory, *number, &make);
        let used = replayed.used.iter().zip(first..);
        let used = used.map(|(number, lap)| Ok((lap, open(number)?)));
        let used = used.collect::<io::Result<VecDeque<_>>>()?;
        let mut free = Vec::new();
        for number in &replayed.others {
            let segment = open(number)?;
            if segment.disk.len()? == bytes_of(end.sectors) {
                free.push(segment);
            } else if !segment.has_content()? {
                // The process ended while it made it.
                fs::remove_file(&segment.path)?;
            } else {
                tracing::warn!(path = %segment.path.display(), "this is no segment of the journal: it is left alone");
            }
        }
        let highest = replayed.used.iter().chain(&replayed.others).max();
        let journal = Self {
            end,
            most,
            used,
            free,
            ordered: 0,
            next: None,
            next_number: highest.map_or(0, |highest| highest + 1),
            seen: Stamp::of(&directory).ok(),
            directory,
            make,
            sectors: Vec::new(),
        };
        // A process whose sync failed may have left the last record in the kernel's memory only,
        // where this one has read it. And nothing may remain of a record that was cut off: it
        // would be taken for a later one.
        journal.rewrite(&replayed.last, |segment, at, bytes| {
            segment.disk.read(at, bytes)
        })?;
        journal.rewrite(&replayed.torn, |_, _, bytes| {
            bytes.fill(0);
            Ok(())
        })?;
        // A process that ended early may have made a segment and not its name durable.
        sync_directory(&journal.directory)?;
        Ok(journal)
    }

    /// Writes sectors durably, neighbours at once, with what `fill` says that they should have.
    fn rewrite(
        &self,
        sectors: &[Sector],
        fill: impl Fn(&Segment, u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut rest = sectors;
        while let Some(&(number, at)) = rest.first() {
            let neighbours = (at..).step_by(SECTOR).map(|at| (number, at));
            let run = rest.iter().zip(neighbours);
            let run = run.take_while(|(one, next)| *one == next).count();
            rest = &rest[run..];
            let Some(segment) = self.segment(number) else {
                continue;
            };
            let mut bytes = vec![0; run * SECTOR];
            fill(segment, at, &mut bytes)?;
            segment.disk.write(at, &bytes)?;
            if rest.first().is_none_or(|(next, _)| *next != number) {
                segment.disk.sync()?;
            }
        }
        Ok(())
    }

    fn segment(&self, number: u32) -> Option<&Segment> {
        let used = self.used.iter().map(|(_, segment)| segment);
        used.chain(&self.free)
            .find(|segment| segment.number == number)
    }

    /// The place after the last commit.
    pub(crate) fn end(&self) -> Place {
        self.end
    }

    /// The bytes of the journal's files, and of those with records that the data file may lack.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let bytes = |segments: usize| segments as u64 * bytes_of(self.end.sectors);
        (
            bytes(self.used.len() + self.free.len()),
            bytes(self.used.len()),
        )
    }

    /// Whether so many segments more are within the limit, or no checkpoint could free one.
    pub(crate) fn may_grow(&self, by: usize) -> bool {
        self.used.len() + self.free.len() + by <= self.most || self.used.len() == 1
    }

    /// Whether the data file should be brought up to date, before segments run out.
    pub(crate) fn is_long(&self) -> bool {
        self.used.len() > self.most / 2
    }

    /// How many segments more than there are a record with such a body needs.
    pub(crate) fn lacks(&self, length: usize) -> usize {
        let sectors = (HEAD + length).div_ceil(PAYLOAD) as u64;
        let usable = u64::from(self.end.sectors) - 1;
        let left = usable - self.end.in_segment(self.end.position);
        let entered = sectors.saturating_sub(left).div_ceil(usable);
        let entered = usize::try_from(entered).unwrap_or(usize::MAX);
        entered.saturating_sub(self.free.len())
    }

    /// Writes one commit's record durably. There must be room for it.
    ///
    /// # Errors
    /// If the disk fails. Then nothing more can be written before [`Journal::restart`].
    pub(crate) fn write(&mut self, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(body.len()).expect("a group is bounded far below this");
        let commit = self.end.commit + 1;
        let mut first = [0; PAYLOAD];
        Head { length, commit }.write(&mut first);
        let (beginning, rest) = body.split_at(body.len().min(PAYLOAD - HEAD));
        first[HEAD..HEAD + beginning.len()].copy_from_slice(beginning);
        let parts = std::iter::once(&first[..]).chain(rest.chunks(PAYLOAD));

        let first_used = self.used.len() - 1;
        let mut sectors = std::mem::take(&mut self.sectors);
        sectors.clear();
        let mut start = self.end.position;
        for (number, part) in (0..).zip(parts) {
            if self.end.is_link(self.end.position) {
                let next = self.free.last().expect("there is room for the record");
                let link = next.number.to_le_bytes();
                sector::write(self.end.seed, self.end.position, LINK, &link, &mut sectors);
                self.put(start, &sectors)?;
                sectors.clear();
                let next = self.free.pop().expect("it was just there");
                self.end.position += 1;
                self.end.segment = next.number;
                start = self.end.position;
                self.used.push_back((self.end.lap(), next));
            }
            sector::write(self.end.seed, self.end.position, number, part, &mut sectors);
            self.end.position += 1;
        }
        self.put(start, &sectors)?;
        for (_, segment) in self.used.range(first_used..) {
            segment.disk.sync()?;
        }
        self.end.commit = commit;
        sectors.shrink_to(KEPT_BYTES);
        self.sectors = sectors;
        Ok(())
    }

    /// Writes sectors to the segment in use.
    fn put(&self, position: u64, sectors: &[u8]) -> io::Result<()> {
        let (_, segment) = self.used.back().expect("one segment is in use");
        segment
            .disk
            .write(self.end.in_segment(position) * SECTOR as u64, sectors)
    }

    /// Frees the segments whose records the data file has up to a place.
    pub(crate) fn release(&mut self, place: &Place) {
        while let Some((lap, _)) = self.used.front()
            && *lap < place.lap().min(self.end.lap())
        {
            let (_, segment) = self.used.pop_front().expect("it was just there");
            self.free.push(segment);
        }
        // One commit may have needed more than there should be.
        while self.used.len() + self.free.len() > self.most {
            let Some(segment) = self.free.pop() else {
                break;
            };
            self.remove(&segment);
        }
    }

    fn remove(&mut self, segment: &Segment) {
        if let Err(error) = fs::remove_file(&segment.path) {
            tracing::warn!(%error, path = %segment.path.display(), "a segment cannot be removed");
        }
        self.seen = None;
    }

    /// Whether another segment should be made now.
    pub(crate) fn wants_more(&self) -> bool {
        let has = self.used.len() + self.free.len() + self.ordered;
        self.free.len() + self.ordered < AHEAD && has < self.most
    }

    /// What makes one more segment.
    pub(crate) fn order(&mut self) -> Order {
        let number = self.next_number;
        self.next_number += 1;
        self.ordered += 1;
        Order {
            directory: self.directory.clone(),
            number,
            sectors: self.end.sectors,
            make: MakeDisk::clone(&self.make),
        }
    }

    pub(crate) fn ordered(&self) -> usize {
        self.ordered
    }

    /// Takes up a segment that was made.
    ///
    /// # Errors
    /// If it could not be made.
    pub(crate) fn take(&mut self, Made(made): Made) -> io::Result<()> {
        self.ordered -= 1;
        let segment = made?;
        self.seen = None;
        if !segment.is_there() {
            return Err(gone(&segment.path));
        }
        self.free.push(segment);
        Ok(())
    }

    /// Looks whether each segment is where and as long as it was made: at the one that is written to,
    /// and at the others if the directory has changed, or `at_all` of them.
    ///
    /// # Errors
    /// If one is not.
    pub(crate) fn look(&mut self, at_all: bool) -> io::Result<()> {
        let now = Stamp::of(&self.directory).ok();
        let is_as_seen = !at_all && now.is_some() && now == self.seen;
        let used = self.used.iter().rev().map(|(_, segment)| segment);
        let to_see = if is_as_seen { 1 } else { usize::MAX };
        let mut to_look_at = used.chain(&self.free).take(to_see);
        let missing = to_look_at.find(|segment| !segment.is_there());
        self.seen = now.filter(|_| missing.is_none());
        missing.map_or(Ok(()), |segment| Err(gone(&segment.path)))
    }

    /// The place where the journal can begin anew after a failure, in a segment that has just
    /// been made: beyond everything that was tried. The same one until it has begun there, because
    /// the data file may name it already.
    ///
    /// # Errors
    /// If no segment can be made.
    pub(crate) fn anew(&mut self) -> io::Result<Place> {
        if let Some((place, segment)) = &self.next
            && segment.is_there()
        {
            return Ok(*place);
        }
        if !self.directory.exists() {
            fs::create_dir(&self.directory)?;
            let data = self.directory.parent().unwrap_or(&self.directory);
            sync_directory(data)?;
        }
        let Made(made) = self.order().run();
        self.ordered -= 1;
        let segment = made?;
        let place = Place {
            position: (self.end.lap() + 1) * u64::from(self.end.sectors),
            segment: segment.number,
            ..self.end
        };
        self.next = Some((place, segment));
        Ok(place)
    }

    /// Begins anew there, once the data file says so. The other segments are given up.
    pub(crate) fn restart(&mut self) {
        let Some((place, segment)) = self.next.take() else {
            return;
        };
        let used = std::mem::take(&mut self.used);
        let used = used.into_iter().map(|(_, segment)| segment);
        let given_up: Vec<_> = used.chain(std::mem::take(&mut self.free)).collect();
        for segment in given_up.iter().filter(|segment| segment.is_there()) {
            self.remove(segment);
        }
        self.used.push_back((place.lap(), segment));
        self.end = place;
        self.seen = None;
    }
}

/// The error of a file that is no longer what was made.
fn gone(path: &Path) -> io::Error {
    let gone = format!(
        "the journal's file {} was removed, replaced or truncated",
        path.display()
    );
    io::Error::new(io::ErrorKind::NotFound, gone)
}
