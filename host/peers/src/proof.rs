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
    // Of equal length, so that no label followed by a hello can be read as the other label.
    fn label(self) -> &'static [u8] {
        match self {
            Self::Connecting => b"shard peers, connecting side\0",
            Self::Accepting => b"shard peers, accepting side\0\0",
        }
    }
}

/// Both hellos of a handshake as sent over the wire, and the channel binding of their stream, if
/// it is in TLS.
pub(super) struct Transcript<'a> {
    pub binding: Option<[u8; 32]>,
    pub connecting: &'a [u8],
    pub accepting: &'a [u8],
}

impl Transcript<'_> {
    /// The proof that the side in this role knows the token.
    pub(super) fn prove(&self, token: &Token, role: Role) -> [u8; 32] {
        self.mac(token, role).finalize().into_bytes().into()
    }

    /// The token that the proof was made with, if it is one of these.
    pub(super) fn verify<'t>(
        &self,
        tokens: &'t Tokens,
        role: Role,
        proof: &[u8; 32],
    ) -> Option<&'t Token> {
        // Every token is tried, so that the time taken does not reveal which one matches.
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
            // Prefixed with its length, so that no byte can move from one hello to the other.
            mac.update(&(hello.len() as u64).to_be_bytes());
            mac.update(hello);
        }
        // Last and of a fixed length, or absent: nothing else can be read as the binding.
        if let Some(binding) = &self.binding {
            mac.update(binding);
        }
        mac
    }
}
