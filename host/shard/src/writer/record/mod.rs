//! The records that a shard stores beside its data. Each begins with a mark and its version
//! ([`Format::mark`]).
//!
//! Records without the mark come from hosts before versions were stored; their body is that of
//! version 1. A record is never guessed at: a later version and leftover bytes are errors.

use ostrakon_base::stored::{Format, Unreadable};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version 2 also says by which release it went live, and version 3 which trial that has.
pub(super) const GENERATION: Format = Format {
    what: "what is stored of the live generation",
    version: 3,
};

pub(super) const GENERATION_RELEASED: Format = Format {
    version: 2,
    ..GENERATION
};

pub(super) const GENERATION_ALONE: Format = Format {
    version: 1,
    ..GENERATION
};

/// The shard's part in the protocol among shards.
pub(super) const TOPOLOGY: Format = Format {
    what: "what is stored of the shard's place among others",
    version: 1,
};

/// A record whose body is JSON.
pub(super) fn encode_json(format: Format, value: &impl Serialize) -> Vec<u8> {
    let body = serde_json::to_vec(value).expect("numbers and digests are always valid JSON");
    format.mark(&body)
}

/// Reads a record whose body is JSON, and returns its version. Unknown fields are an error, because
/// they mean something to the host that wrote them.
pub(super) fn decode_json<T: DeserializeOwned>(
    format: Format,
    stored: &[u8],
) -> Result<(u16, T), Unreadable> {
    let (version, body) = format.unmark(stored)?;
    let body = serde_json::from_slice(body).map_err(|error| format.broken(&error))?;
    Ok((version, body))
}

/// A record whose body is in postcard's encoding.
pub(super) fn encode_postcard(format: Format, value: &impl Serialize) -> Vec<u8> {
    let body = postcard::to_stdvec(value).expect("the value can always be encoded");
    format.mark(&body)
}

/// Reads a record whose body is in postcard's encoding, and accepts no leftover bytes.
pub(super) fn decode_postcard<T: DeserializeOwned>(
    format: Format,
    stored: &[u8],
) -> Result<T, Unreadable> {
    // The body is the same in version 0.
    let (_version, body) = format.unmark(stored)?;
    let (value, rest) = postcard::take_from_bytes(body).map_err(|error| format.broken(&error))?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(format.broken(&format!("{} bytes are left over", rest.len())))
    }
}

#[cfg(test)]
mod tests;
