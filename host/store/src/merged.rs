//! Entries of redb and of memtables, in one order.

use std::cmp::Ordering;
use std::ops::Bound;

use redb::{AccessGuard, ReadableTable};

use super::memtable::{At, Held, Key, Memtable};
use super::snapshot::{ReadError, Snapshot};

/// A partition key and an entry key.
pub(super) type Position<'a> = (&'a [u8], &'a [u8]);

/// A range of entries of a shard.
pub(super) type Range<'a> = (Bound<Position<'a>>, Bound<Position<'a>>);

/// An entry where it is, not copied.
pub(super) enum Found<'a> {
    Stored(
        AccessGuard<'a, (&'static [u8], &'static [u8])>,
        AccessGuard<'a, &'static [u8]>,
    ),
    Held(&'a Key, &'a [u8]),
}

impl Found<'_> {
    pub(super) fn position(&self) -> Position<'_> {
        match self {
            Self::Stored(position, _) => position.value(),
            Self::Held(key, _) => key.parts(),
        }
    }

    pub(super) fn value(&self) -> &[u8] {
        match self {
            Self::Stored(_, value) => value.value(),
            Self::Held(_, value) => value,
        }
    }
}

/// What has entries in order.
pub(super) trait Ranged {
    /// The entries of a range, in order.
    fn ranged<'a>(
        &'a self,
        range: Range<'_>,
    ) -> Result<impl Iterator<Item = Result<Found<'a>, ReadError>> + use<'a, Self>, ReadError>;
}

impl<T: ReadableTable<(&'static [u8], &'static [u8]), &'static [u8]>> Ranged for T {
    fn ranged<'a>(
        &'a self,
        range: Range<'_>,
    ) -> Result<impl Iterator<Item = Result<Found<'a>, ReadError>> + use<'a, T>, ReadError> {
        Ok(self.range(range)?.map(|entry| {
            let (position, value) = entry?;
            Ok(Found::Stored(position, value))
        }))
    }
}

impl Ranged for Snapshot {
    fn ranged<'a>(
        &'a self,
        range: Range<'_>,
    ) -> Result<impl Iterator<Item = Result<Found<'a>, ReadError>> + use<'a>, ReadError> {
        self.merged(range, false)
    }
}

type Stored<'a> = redb::Range<'a, (&'static [u8], &'static [u8]), &'static [u8]>;

/// A memtable's changes in a range that were not passed yet.
struct Changes<'a> {
    rest: imbl::ordmap::RangedIter<'a, Key, Held, imbl::shared_ptr::DefaultSharedPtr>,
    next: Option<(&'a Key, &'a Held)>,
}

/// The entries of a range of a snapshot, in order or backwards.
pub(super) struct Merged<'a> {
    reverse: bool,
    stored: Stored<'a>,
    next: Option<Found<'a>>,
    /// Those of the newer memtable first.
    changes: [Option<Changes<'a>>; 2],
}

impl<'a> Merged<'a> {
    pub(super) fn new(
        stored: Stored<'a>,
        memtables: [Option<&'a Memtable>; 2],
        (from, to): Range<'_>,
        reverse: bool,
    ) -> Result<Self, ReadError> {
        let at = |(partition, key)| At(partition, key);
        let changes = memtables.map(|memtable| {
            let memtable = memtable.filter(|memtable| !memtable.is_empty())?;
            let rest = memtable.range(from.map(at), to.map(at));
            Some(Changes { rest, next: None })
        });
        let mut merged = Self {
            reverse,
            stored,
            next: None,
            changes,
        };
        merged.advance_stored()?;
        for changes in merged.changes.iter_mut().flatten() {
            changes.advance(reverse);
        }
        Ok(merged)
    }

    fn advance_stored(&mut self) -> Result<(), ReadError> {
        let next = if self.reverse {
            self.stored.next_back()
        } else {
            self.stored.next()
        };
        let next = next.transpose()?;
        self.next = next.map(|(position, value)| Found::Stored(position, value));
        Ok(())
    }

    /// The next changed entry, and whether the entry of redb is further away, or is the same.
    fn changed(&self) -> Option<(&'a Key, &'a Held, Option<Ordering>)> {
        let mut first: Option<(&Key, &Held)> = None;
        for (key, held) in self
            .changes
            .iter()
            .flatten()
            .filter_map(|changes| changes.next)
        {
            // Of the same entry, the newer change comes first.
            if first.is_none_or(|(first, _)| self.order(key.parts(), first.parts()).is_lt()) {
                first = Some((key, held));
            }
        }
        let (key, held) = first?;
        let stored = self.next.as_ref();
        let order = stored.map(|stored| self.order(key.parts(), stored.position()));
        Some((key, held, order))
    }

    /// Which of two entries comes first.
    fn order(&self, one: Position<'_>, other: Position<'_>) -> Ordering {
        if self.reverse {
            other.cmp(&one)
        } else {
            one.cmp(&other)
        }
    }

    fn step(&mut self) -> Result<Option<Found<'a>>, ReadError> {
        loop {
            let Some((key, held, order)) = self.changed() else {
                let found = self.next.take();
                if found.is_some() {
                    self.advance_stored()?;
                }
                return Ok(found);
            };
            if order.is_some_and(Ordering::is_gt) {
                let found = self.next.take();
                self.advance_stored()?;
                return Ok(found);
            }
            if order == Some(Ordering::Equal) {
                self.advance_stored()?;
            }
            let reverse = self.reverse;
            for changes in self.changes.iter_mut().flatten() {
                if changes.next.is_some_and(|(other, _)| other == key) {
                    changes.advance(reverse);
                }
            }
            if let Some(value) = held {
                return Ok(Some(Found::Held(key, value)));
            }
        }
    }
}

impl<'a> Iterator for Merged<'a> {
    type Item = Result<Found<'a>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

impl Changes<'_> {
    fn advance(&mut self, reverse: bool) {
        self.next = if reverse {
            self.rest.next_back()
        } else {
            self.rest.next()
        };
    }
}
