//! Strict percent-encoding: malformed text is an error.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// All but the unreserved characters of RFC 3986, section 2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The error of a percent-encoded text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadEncoding {
    /// A `%` is not followed by two hexadecimal digits.
    Malformed,
    /// The decoded bytes are not UTF-8.
    NotUtf8,
}

impl BadEncoding {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Malformed => {
                "a % in the path or query is not followed by two hexadecimal digits: write %25 for a %"
            }
            Self::NotUtf8 => "the percent-decoded path or query is not UTF-8",
        }
    }
}

impl std::fmt::Display for BadEncoding {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.text())
    }
}

impl std::error::Error for BadEncoding {}

/// Decodes a part of a path.
///
/// # Errors
/// If a `%` is not followed by two hexadecimal digits, or the bytes are not UTF-8.
pub fn decode(text: &str) -> Result<String, BadEncoding> {
    // As most texts are: nothing is encoded.
    if !text.contains('%') {
        return Ok(text.to_owned());
    }
    let well_formed = text.split('%').skip(1).all(|rest| {
        rest.as_bytes()
            .get(..2)
            .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if !well_formed {
        return Err(BadEncoding::Malformed);
    }
    percent_decode_str(text)
        .decode_utf8()
        .map(Into::into)
        .map_err(|_| BadEncoding::NotUtf8)
}

/// Decodes a part of a query, in which a `+` is a space.
///
/// # Errors
/// As [`decode`].
pub fn decode_form(text: &str) -> Result<String, BadEncoding> {
    decode(&text.replace('+', " "))
}

/// Encodes a text or bytes for use as one segment of a path or one value of a query.
pub fn encode(text: impl AsRef<[u8]>) -> String {
    percent_encode(text.as_ref(), RESERVED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_and_decoding_are_inverse() {
        for text in [
            "",
            "a",
            "a/b?c=d&e+f",
            "100 %",
            "é",
            "日本",
            "\0\u{7f}",
            "a-b.c_d~e",
        ] {
            assert_eq!(decode(&encode(text)).as_deref(), Ok(text));
            assert_eq!(decode_form(&encode(text)).as_deref(), Ok(text));
        }
        assert_eq!(encode("a/é"), "a%2F%C3%A9");
        assert_eq!(encode("-._~"), "-._~");
    }

    #[test]
    fn malformed_encodings_are_refused() {
        for text in ["%", "%4", "%4g", "a%", "%%41", "%+1"] {
            assert_eq!(decode(text), Err(BadEncoding::Malformed), "{text}");
        }
        for text in ["%ff", "%C3", "%ED%A0%80"] {
            assert_eq!(decode(text), Err(BadEncoding::NotUtf8), "{text}");
        }
    }
}
