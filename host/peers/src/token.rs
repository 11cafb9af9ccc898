//! The secrets that the shards of a cluster share.

use std::fmt;

use zeroize::Zeroizing;

/// A secret shared by the shards of a cluster. It is wiped when dropped, and never printed.
#[derive(Clone)]
pub struct Token(Zeroizing<Vec<u8>>);

/// Why some bytes cannot be a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token is too short to resist guessing.
    #[error("the token has {0} bytes; use at least {least} random ones", least = Token::LEAST)]
    TooShort(usize),
}

impl Token {
    /// The shortest token, in bytes.
    ///
    /// Any process that connects to a shard gets a proof against which it can try guesses offline,
    /// so a short token would be no secret.
    pub const LEAST: usize = 16;

    /// A token of these bytes.
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

/// The tokens that a side accepts. It proves knowledge of the first one.
///
/// To change the token of a running cluster, go through three lists on every shard: `[old, new]`,
/// then `[new, old]`, then `[new]`.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<Token>);

impl Tokens {
    /// No token at all, for use on loopback only.
    pub fn none() -> Self {
        Self::default()
    }

    /// The tokens of a list, the first of which is proved.
    pub fn new(list: Vec<Token>) -> Self {
        Self(list)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn first(&self) -> Option<&Token> {
        self.0.first()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a token is in the list.
    pub(super) fn contain(&self, token: &Token) -> bool {
        // Both tokens are ours, so the time taken reveals nothing to a stranger.
        self.iter().any(|other| other.bytes() == token.bytes())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Token> {
        self.0.iter()
    }
}
