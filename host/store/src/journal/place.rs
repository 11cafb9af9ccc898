//! Where the data file's contents end in the journal.

use ostrakon_base::stored::{Format, Unreadable};

const FORMAT: Format = Format {
    what: "the journal's place",
    version: 1,
};

/// A place between two records. Stored with the data file's contents: everything before it is in
/// the data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where all checksums of this journal begin: another journal's records are none here.
    pub(super) seed: u32,
    /// The number of the last commit before it.
    pub(super) commit: u64,
    /// The position of the sector after it.
    pub(super) position: u64,
    /// The segment with that sector.
    pub(super) segment: u32,
    /// The sectors of each segment. The last one of them says which segment is next.
    pub(super) sectors: u32,
}

impl Place {
    /// The place of data that has no journal.
    pub(crate) fn none() -> Self {
        Self::first(0, 0, 1)
    }

    /// The place of an empty journal whose first segment this is.
    pub(super) fn first(seed: u32, segment: u32, sectors: u32) -> Self {
        Self {
            seed,
            commit: 0,
            // No position is 0, so no sector of zeros can be a whole one.
            position: sectors.into(),
            segment,
            sectors,
        }
    }

    /// How many segments the journal had before the one with this place, over all times.
    pub(super) fn lap(&self) -> u64 {
        self.lap_of(self.position)
    }

    pub(super) fn lap_of(&self, position: u64) -> u64 {
        position / u64::from(self.sectors)
    }

    /// Which sector of its segment has a position.
    pub(super) fn in_segment(&self, position: u64) -> u64 {
        position % u64::from(self.sectors)
    }

    /// Whether the sector with a position is the last of its segment.
    pub(super) fn is_link(&self, position: u64) -> bool {
        self.in_segment(position) == u64::from(self.sectors) - 1
    }

    /// Whether another place of the same journal is not before this one.
    pub(crate) fn is_up_to(&self, other: &Self) -> bool {
        self.position <= other.position
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(28);
        body.extend_from_slice(&self.seed.to_le_bytes());
        body.extend_from_slice(&self.commit.to_le_bytes());
        body.extend_from_slice(&self.position.to_le_bytes());
        body.extend_from_slice(&self.segment.to_le_bytes());
        body.extend_from_slice(&self.sectors.to_le_bytes());
        FORMAT.mark(&body)
    }

    pub(crate) fn decode(stored: &[u8]) -> Result<Self, Unreadable> {
        let (version, body) = FORMAT.unmark(stored)?;
        let short = || FORMAT.broken("it has the wrong length");
        if version != 1 {
            return Err(short());
        }
        let (seed, body) = body.split_first_chunk().ok_or_else(short)?;
        let (commit, body) = body.split_first_chunk().ok_or_else(short)?;
        let (position, body) = body.split_first_chunk().ok_or_else(short)?;
        let (segment, body) = body.split_first_chunk().ok_or_else(short)?;
        let sectors = u32::from_le_bytes(body.try_into().map_err(|_| short())?);
        if sectors < 2 {
            return Err(FORMAT.broken("its segments have no room"));
        }
        Ok(Self {
            seed: u32::from_le_bytes(*seed),
            commit: u64::from_le_bytes(*commit),
            position: u64::from_le_bytes(*position),
            segment: u32::from_le_bytes(*segment),
            sectors,
        })
    }
}
