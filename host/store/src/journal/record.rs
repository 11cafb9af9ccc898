//! A record: one commit, in as many sectors as it needs.
//!
//! | bytes | content |
//! | --- | --- |
//! | 0 | the version, [`VERSION`] |
//! | 1..4 | zeros |
//! | 4..8 | the length of the body, a little-endian u32 |
//! | 8..16 | the commit's number, a little-endian u64: one above the number before |
//! | 16.. | the body |

use super::sector::PAYLOAD;

/// The version of the records that this program writes.
pub(super) const VERSION: u8 = 1;

/// The bytes before a record's body.
pub(super) const HEAD: usize = 16;

#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) length: u32,
    pub(super) commit: u64,
}

impl Head {
    /// How many sectors the record has.
    pub(super) fn sectors(&self) -> u32 {
        let sectors = (HEAD + self.length as usize).div_ceil(PAYLOAD);
        u32::try_from(sectors).expect("it has fewer sectors than bytes")
    }

    pub(super) fn write(&self, out: &mut [u8]) {
        out[..4].copy_from_slice(&[VERSION, 0, 0, 0]);
        out[4..8].copy_from_slice(&self.length.to_le_bytes());
        out[8..HEAD].copy_from_slice(&self.commit.to_le_bytes());
    }

    /// Reads the head of a record's first part.
    ///
    /// # Errors
    /// The record's version, if it is another.
    pub(super) fn read(part: &[u8]) -> Result<Self, u8> {
        if part[0] != VERSION {
            return Err(part[0]);
        }
        Ok(Self {
            length: u32::from_le_bytes(part[4..8].try_into().expect("four bytes")),
            commit: u64::from_le_bytes(part[8..HEAD].try_into().expect("eight bytes")),
        })
    }
}

/// The number of the segment that a link leads to.
pub(super) fn linked(part: &[u8]) -> u32 {
    u32::from_le_bytes(part[..4].try_into().expect("four bytes"))
}
