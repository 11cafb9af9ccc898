//! How a shard's own state is stored beside its data: each record begins with a mark and its version.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..4 | `ostr` |
//! | 4..6 | the version, little-endian |
//! | 6.. | the body, by the version |
//!
//! Records without the mark are those of hosts before versions were stored: their body is that of
//! version 1. A record is never guessed at: a later version, or bytes that are left over, are errors.

use serde::Serialize;
use serde::de::DeserializeOwned;

const MARK: &[u8] = b"ostr";

/// Which record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The live generation.
    Generation,
    /// The shard's part in the protocol among shards.
    Topology,
}

impl Kind {
    /// The version that this host writes, and the newest that it reads.
    const fn version(self) -> u16 {
        match self {
            Self::Generation | Self::Topology => 1,
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Generation => "what is stored of the live generation",
            Self::Topology => "what is stored of the shard's place among others",
        }
    }
}

/// Why a record cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A later host wrote it.
    #[error(
        "{} is of version {found}, and this version of ostrakon ({}) reads up to {}: run the version that wrote it, or a newer one; nothing was changed",
        .kind.what(), env!("CARGO_PKG_VERSION"), .kind.version()
    )]
    Newer {
        /// Which record.
        kind: Kind,
        /// Its version.
        found: u16,
    },
    /// It is no record of the version that it says.
    #[error("{} cannot be read: {reason}", .kind.what())]
    Broken {
        /// Which record.
        kind: Kind,
        /// What is wrong with it.
        reason: String,
    },
}

impl Unreadable {
    /// Whether a later host can read it.
    pub fn is_newer(&self) -> bool {
        matches!(self, Self::Newer { .. })
    }
}

fn with_version(kind: Kind, body: &[u8]) -> Vec<u8> {
    [MARK, &kind.version().to_le_bytes(), body].concat()
}

/// The body of a record.
fn body(kind: Kind, stored: &[u8]) -> Result<&[u8], Unreadable> {
    let Some(marked) = stored.strip_prefix(MARK) else {
        return Ok(stored);
    };
    let broken = || Unreadable::Broken {
        kind,
        reason: "it ends within its version".to_owned(),
    };
    let (version, body) = marked.split_first_chunk().ok_or_else(broken)?;
    match u16::from_le_bytes(*version) {
        1 => Ok(body),
        0 => Err(Unreadable::Broken {
            kind,
            reason: "there is no version 0".to_owned(),
        }),
        found => Err(Unreadable::Newer { kind, found }),
    }
}

/// A record whose body is JSON.
pub(super) fn encode_json(kind: Kind, value: &impl Serialize) -> Vec<u8> {
    let body = serde_json::to_vec(value).expect("numbers and digests are always valid JSON");
    with_version(kind, &body)
}

/// Reads a record whose body is JSON. Fields that are not known are an error: they mean something to
/// who wrote them.
pub(super) fn decode_json<T: DeserializeOwned>(kind: Kind, stored: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(body(kind, stored)?).map_err(|error| Unreadable::Broken {
        kind,
        reason: error.to_string(),
    })
}

/// A record whose body is in postcard's encoding.
pub(super) fn encode_postcard(kind: Kind, value: &impl Serialize) -> Vec<u8> {
    let body = postcard::to_stdvec(value).expect("it can always be encoded");
    with_version(kind, &body)
}

/// Reads a record whose body is in postcard's encoding, to its last byte.
pub(super) fn decode_postcard<T: DeserializeOwned>(
    kind: Kind,
    stored: &[u8],
) -> Result<T, Unreadable> {
    let broken = |reason: String| Unreadable::Broken { kind, reason };
    let (value, rest) = postcard::take_from_bytes(body(kind, stored)?)
        .map_err(|error| broken(error.to_string()))?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(broken(format!("{} bytes are left over", rest.len())))
    }
}

#[cfg(test)]
mod tests;
