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

/// Both hellos of a handshake, as they went over the wire, and what binds them
/// to the stream that they went over, if it is in TLS.
pub(super) struct Transcript<'a> {
    pub binding: Option<[u8; 32]>,
    pub connecting: &'a [u8],
    pub accepting: &'a [u8],
}

impl Transcript<'_> {
    /// The proof of a role that it knows a token.
    pub(super) fn prove(&self, token: &Token, role: Role) -> [u8; 32] {
        self.mac(token, role).finalize().into_bytes().into()
    }

    /// The one of the tokens that a proof shows knowledge of.
    pub(super) fn verify<'t>(
        &self,
        tokens: &'t Tokens,
        role: Role,
        proof: &[u8; 32],
    ) -> Option<&'t Token> {
        // Every token is tried, so that the time tells nothing of which fits.
        tokens.iter().fold(None, |known, token| {
            let fits = self.mac(token, role).verify_slice(proof).is_ok();
            if fits { Some(token) } else { known }
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
        // Last and of one length, or not at all: nothing else can read as it.
        if let Some(binding) = &self.binding {
            mac.update(binding);
        }
        mac
    }
}
