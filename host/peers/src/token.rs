//! The secrets that the shards of a cluster share.

use std::fmt;

use zeroize::Zeroizing;

/// A secret shared by the shards of a cluster; it is wiped when dropped and
/// never printed.
#[derive(Clone)]
pub struct Token(Zeroizing<Vec<u8>>);

/// The reason why some bytes cannot be a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token is too short to withstand guessing.
    #[error("the token has {0} bytes; use at least {least} random ones", least = Token::LEAST)]
    TooShort(usize),
}

impl Token {
    /// The fewest bytes a token may have.
    ///
    /// Whoever talks to a shard gets a proof to try guesses on at leisure, so
    /// a short token would be no secret.
    pub const LEAST: usize = 16;

    /// Makes a token of these bytes.
    ///
    /// # Errors
    /// When it is too short.
    pub fn new(bytes: Vec<u8>) -> Result<Self, TokenError> {
        let bytes = Zeroizing::new(bytes);
        if bytes.len() < Self::LEAST {
            return Err(TokenError::TooShort(bytes.len()));
        }
        Ok(Self(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Token(..)")
    }
}

/// The tokens a side accepts, of which it sends a proof of the first.
///
/// To change the token of a running cluster, go through three lists on every
/// shard: `[old, new]`, then `[new, old]`, then `[new]`.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<Token>);

impl Tokens {
    /// No token at all; for use on loopback only.
    pub fn none() -> Self {
        Self::default()
    }

    /// The tokens of a list, the first of which is the one to prove.
    pub fn new(list: Vec<Token>) -> Self {
        Self(list)
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn first(&self) -> Option<&Token> {
        self.0.first()
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a token is among them.
    pub(super) fn contain(&self, token: &Token) -> bool {
        // Both are ours: no stranger sees how long this takes.
        self.iter().any(|other| other.bytes() == token.bytes())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Token> {
        self.0.iter()
    }
}
