//! The first message of each side.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::endpoint::Identity;
use super::handshake::Party;
use super::handshake_error::HandshakeError;

const MAGIC: [u8; 8] = *b"shardpr\n";

/// The first message of each side. Its format is the same in every protocol version; a later
/// version may only append to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    magic: [u8; 8],
    lowest: u16,
    highest: u16,
    pub guarded: bool,
    ordinal: u32,
    incarnation: u64,
    store: u128,
    pub nonce: [u8; 32],
}

impl Hello {
    /// A hello of this side with a new nonce.
    pub(super) fn of(us: &Party<'_>) -> Result<Self, HandshakeError> {
        Ok(Self {
            magic: MAGIC,
            lowest: us.settings.versions.lowest,
            highest: us.settings.versions.highest,
            guarded: !us.credentials.tokens.is_empty(),
            ordinal: us.identity.ordinal,
            incarnation: us.identity.incarnation,
            store: us.identity.store,
            nonce: nonce()?,
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("postcard can encode every hello")
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HandshakeError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(HandshakeError::NotAShard);
        }
        // The remaining bytes belong to a later version.
        let (hello, _later) = postcard::take_from_bytes::<Self>(bytes)
            .map_err(|_| HandshakeError::Malformed("its hello"))?;
        if hello.lowest > hello.highest {
            return Err(HandshakeError::Malformed("an empty range of versions"));
        }
        Ok(hello)
    }

    pub(super) fn identity(&self) -> Identity {
        Identity {
            ordinal: self.ordinal,
            incarnation: self.incarnation,
            store: self.store,
        }
    }

    pub(super) fn versions(&self) -> Versions {
        Versions {
            lowest: self.lowest,
            highest: self.highest,
        }
    }
}

/// The range of protocol versions that a side speaks, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    pub lowest: u16,
    pub highest: u16,
}

impl Versions {
    /// The versions that this code speaks. A new version is for changes that earlier hosts can
    /// neither do without nor skip. The code then also speaks the previous version, because Pods
    /// of both run together during a rolling update.
    pub(crate) const SPOKEN: Self = Self {
        lowest: 2,
        highest: 2,
    };

    /// The highest version in both ranges, if there is one.
    pub(crate) fn common(self, other: Self) -> Option<u16> {
        let highest = self.highest.min(other.highest);
        (highest >= self.lowest.max(other.lowest)).then_some(highest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} to {}", self.lowest, self.highest)
    }
}

fn nonce() -> Result<[u8; 32], HandshakeError> {
    let mut nonce = [0; 32];
    let mut filled = 0;
    while filled < nonce.len() {
        filled +=
            rustix::rand::getrandom(&mut nonce[filled..], rustix::rand::GetRandomFlags::empty())
                .map_err(|error| HandshakeError::NoRandomness(error.into()))?;
    }
    Ok(nonce)
}
