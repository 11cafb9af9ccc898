//! Bearer tokens: a request that shows a known token in its `authorization` header is accepted.

use std::fmt;
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use hmac::digest::CtOutput;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::http::{Refusal, refusals};

/// The tokens accepted now; `None` if no token is required. The set can change at any time.
pub type LiveTokens = Arc<ArcSwapOption<BearerTokens>>;

/// The accepted tokens. Only a digest of each is kept, keyed with a key of this value's own: every
/// comparison takes the same time, and no token can leak.
#[derive(Clone)]
pub struct BearerTokens {
    keyed: Hmac<Sha256>,
    known: Vec<CtOutput<Hmac<Sha256>>>,
}

/// Why a list of tokens is rejected. No variant contains a token.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    #[error("it has no token: put one on a line, or take the key away")]
    None,
    /// A token is short enough to be guessed.
    #[error(
        "the token on line {line} has {bytes} bytes: use at least {} random ones",
        BearerTokens::LEAST
    )]
    Short {
        /// The line, from 1.
        line: usize,
        /// The token's length in bytes.
        bytes: usize,
    },
    /// A token has a character that a header cannot carry.
    #[error(
        "the token on line {0} has characters that cannot be sent as a token: use letters, digits and any of -._~+/, and = at its end"
    )]
    Characters(usize),
    /// The system gave no random bytes for the key.
    #[error("the system gave no random bytes: check that getrandom is allowed")]
    Random(#[source] io::Error),
}

impl BearerTokens {
    /// The fewest bytes a token may have.
    pub const LEAST: usize = 16;

    /// Reads a list of one token per line. Several tokens are accepted, so that a new one can
    /// replace an old one without a gap.
    ///
    /// # Errors
    /// When the list is empty, or a line is not a valid token.
    pub fn read(list: &[u8]) -> Result<Self, TokensError> {
        let mut key = Zeroizing::new([0; 64]);
        let mut filled = 0;
        while filled < key.len() {
            let flags = rustix::rand::GetRandomFlags::empty();
            let random = rustix::rand::getrandom(&mut key[filled..], flags);
            filled += random.map_err(|error| TokensError::Random(error.into()))?;
        }
        let keyed = Hmac::new((&*key).into());
        let mut tokens = Self {
            keyed,
            known: Vec::new(),
        };
        for (number, line) in list.split(|byte| *byte == b'\n').enumerate() {
            let (line, token) = (number + 1, line.trim_ascii());
            if token.is_empty() {
                continue;
            }
            if !is_token(token) {
                return Err(TokensError::Characters(line));
            }
            if token.len() < Self::LEAST {
                let bytes = token.len();
                return Err(TokensError::Short { line, bytes });
            }
            tokens.known.push(tokens.digest(token));
        }
        if tokens.known.is_empty() {
            return Err(TokensError::None);
        }
        Ok(tokens)
    }

    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// Checks that a request shows an accepted token: `authorization: Bearer <token>`.
    ///
    /// # Errors
    /// The refusal to answer the request with.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut shown = headers.get_all(AUTHORIZATION).into_iter();
        let (Some(only), None) = (shown.next(), shown.next()) else {
            return Err(refusals::NO_TOKEN);
        };
        let token = bearer(only.as_bytes()).ok_or(refusals::NO_TOKEN)?;
        let digest = self.digest(token);
        // Every token is compared, so that the time taken does not reveal which one matches.
        let fitting = self.known.iter().filter(|known| **known == digest).count();
        if fitting > 0 {
            Ok(())
        } else {
            Err(refusals::WRONG_TOKEN)
        }
    }

    fn digest(&self, token: &[u8]) -> CtOutput<Hmac<Sha256>> {
        let mut mac = self.keyed.clone();
        mac.update(token);
        mac.finalize()
    }
}

impl fmt::Debug for BearerTokens {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "BearerTokens({})", self.known.len())
    }
}

/// The token in a header's value, if its scheme is `Bearer` (RFC 6750, section 2.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(b"bearer ".len())?;
    let token = rest.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

/// Whether the bytes are a `b64token` as defined by RFC 6750.
fn is_token(token: &[u8]) -> bool {
    let signs = token.trim_ascii_end();
    let end = signs.iter().rposition(|byte| *byte != b'=');
    end.is_some_and(|end| {
        let mut signs = signs[..=end].iter();
        signs.all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(byte))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const ONE: &str = "one-0123456789abcdef";
    const TWO: &str = "two/0123456789+abcd==";

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn each_of_several_is_known_and_nothing_else_is() {
        let tokens = BearerTokens::read(format!("\n{ONE} \r\n\n{TWO}\n").as_bytes()).unwrap();
        assert_eq!(tokens.count(), 2);
        for (values, wanted) in [
            (vec![format!("Bearer {ONE}")], Ok(())),
            (vec![format!("bearer  {TWO}")], Ok(())),
            (vec![], Err(refusals::NO_TOKEN)),
            (vec![ONE.to_owned()], Err(refusals::NO_TOKEN)),
            (vec![format!("Basic {ONE}")], Err(refusals::NO_TOKEN)),
            (
                vec![format!("Bearer {ONE}"), format!("Bearer {ONE}")],
                Err(refusals::NO_TOKEN),
            ),
            (vec!["Bearer ".to_owned()], Err(refusals::NO_TOKEN)),
            (
                vec![format!("Bearer {}", &ONE[..19])],
                Err(refusals::WRONG_TOKEN),
            ),
            (vec![format!("Bearer {ONE}0")], Err(refusals::WRONG_TOKEN)),
            (
                vec![format!("Bearer {ONE}\t{TWO}")],
                Err(refusals::WRONG_TOKEN),
            ),
        ] {
            let values: Vec<_> = values.iter().map(String::as_str).collect();
            assert_eq!(tokens.check(&headers(&values)), wanted, "{values:?}");
        }
    }

    #[test]
    fn a_list_that_cannot_be_used_is_refused_and_not_told() {
        let said = |list: &str| BearerTokens::read(list.as_bytes()).unwrap_err().to_string();
        assert!(said(" \n\n").starts_with("it has no token"));
        let short = said(&format!("{ONE}\n\nshort-one"));
        assert!(
            short.starts_with("the token on line 3 has 9 bytes"),
            "{short}"
        );
        for wrong in [
            "two words 0123456789",
            "quote\"0123456789abc",
            "================",
        ] {
            let text = said(&format!("{ONE}\n{wrong}"));
            assert!(text.starts_with("the token on line 2"), "{text}");
            assert!(!text.contains(wrong), "{text}");
        }
    }

    #[test]
    fn it_cannot_be_printed() {
        let tokens = BearerTokens::read(ONE.as_bytes()).unwrap();
        assert_eq!(format!("{tokens:?}"), "BearerTokens(1)");
    }
}
