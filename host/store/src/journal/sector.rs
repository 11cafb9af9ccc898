//! The journal's unit: 512 bytes with a checksum and a position of their own.
//!
//! | bytes | content |
//! | --- | --- |
//! | 0..4 | the checksum of the rest: CRC-32C, from the journal's seed |
//! | 4..8 | the sector's number within its record, from 0; [`LINK`] for a segment's last sector |
//! | 8..16 | its position: how many sectors the journal had before it, over all times |
//! | 16..512 | a part of the record |

/// The bytes of a sector.
pub(super) const SECTOR: usize = 512;

/// The bytes of a sector before its part of the record.
const HEAD: usize = 16;

/// The bytes of a record in each sector.
pub(super) const PAYLOAD: usize = SECTOR - HEAD;

/// The number of a sector that is no part of a record, but says which segment is next.
pub(super) const LINK: u32 = u32::MAX;

/// What is found in a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It was written whole.
    Whole { position: u64, number: u32 },
    /// It was never written.
    Blank,
    /// Neither: no write that was cut off leaves it so.
    Damaged,
}

/// Appends a sector. A shorter part is filled up with zeros.
pub(super) fn write(seed: u32, position: u64, number: u32, part: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&position.to_le_bytes());
    out.extend_from_slice(part);
    out.resize(start + SECTOR, 0);
    let checksum = crc32c::crc32c_append(seed, &out[start + 4..]);
    out[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// Looks at a sector.
pub(super) fn look(seed: u32, sector: &[u8]) -> Seen {
    let (checksum, rest) = sector.split_at(4);
    if crc32c::crc32c_append(seed, rest).to_le_bytes() == checksum {
        Seen::Whole {
            position: position(sector),
            number: u32::from_le_bytes(rest[..4].try_into().expect("four bytes")),
        }
    } else if sector.iter().all(|byte| *byte == 0) {
        Seen::Blank
    } else {
        Seen::Damaged
    }
}

/// The position that a sector says it has.
pub(super) fn position(sector: &[u8]) -> u64 {
    u64::from_le_bytes(sector[8..HEAD].try_into().expect("eight bytes"))
}

/// The part of a record in a sector.
pub(super) fn part(sector: &[u8]) -> &[u8] {
    &sector[HEAD..]
}
