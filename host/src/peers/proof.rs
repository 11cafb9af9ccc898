//! The proof that a side knows a token.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::token::{Token, Tokens};

/// The side of a connection that makes a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Connecting,
    Accepting,
}

impl Role {
    // Of one length, so that no label with a hello reads as the other label.
    fn label(self) -> &'static [u8] {
        match self {
            Self::Connecting => b"shard peers, connecting side\0",
            Self::Accepting => b"shard peers, accepting side\0\0",
        }
    }
}

/// Both hellos of a handshake, as they went over the wire.
pub(super) struct Transcript<'a> {
    pub connecting: &'a [u8],
    pub accepting: &'a [u8],
}

impl Transcript<'_> {
    /// The proof of a role that it knows a token.
    pub(super) fn prove(&self, token: &Token, role: Role) -> [u8; 32] {
        self.mac(token, role).finalize().into_bytes().into()
    }

    /// Whether a proof shows knowledge of one of the tokens.
    pub(super) fn verify(&self, tokens: &Tokens, role: Role, proof: &[u8; 32]) -> bool {
        // Every token is tried, so that the time tells nothing of which fits.
        tokens.iter().fold(false, |known, token| {
            known | self.mac(token, role).verify_slice(proof).is_ok()
        })
    }

    fn mac(&self, token: &Token, role: Role) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(token.bytes()).expect("hmac takes a key of any length");
        mac.update(role.label());
        for hello in [self.connecting, self.accepting] {
            // With its length, so that no byte can move from one hello to the other.
            mac.update(&(hello.len() as u64).to_be_bytes());
            mac.update(hello);
        }
        mac
    }
}
