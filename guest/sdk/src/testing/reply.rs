//! The reply that a client of a shard in memory gets.

use super::Limits;
use crate::{Header, Response};

/// Headers that only the host can set, in addition to those that begin with `ostrakon-`.
const FORBIDDEN: [&str; 8] = [
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A response, as the host would send it to the client.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status, from 200 to 599.
    pub status: u16,
    /// The body; empty in the reply to a `HEAD`.
    pub body: Vec<u8>,
    /// Whether the guest panicked or gave a response that the contract does not allow.
    pub failed: bool,
    headers: Vec<Header>,
}

impl Reply {
    /// The first header of a name, as a text.
    ///
    /// # Panics
    /// Where it is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(std::str::from_utf8(&header.value).expect("the header is a text"))
    }

    /// All headers of a name, such as `set-cookie`, as texts.
    ///
    /// # Panics
    /// Where one is not UTF-8.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        let headers = self.headers.iter();
        let named = headers.filter(|header| header.name.eq_ignore_ascii_case(name));
        let texts = named.map(|header| std::str::from_utf8(&header.value));
        texts
            .map(|text| text.expect("the header is a text"))
            .collect()
    }

    /// The body as a text.
    ///
    /// # Panics
    /// Where it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is a text")
    }

    /// The body, read as JSON.
    ///
    /// # Panics
    /// If it is not such a value.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).expect("the body is such a value")
    }

    pub(super) fn status(status: u16) -> Self {
        Self {
            status,
            body: Vec::new(),
            failed: false,
            headers: Vec::new(),
        }
    }

    pub(super) fn failed() -> Self {
        Self {
            failed: true,
            ..Self::status(500)
        }
    }

    /// The reply that the host makes from a response; `None` means that the guest panicked.
    pub(super) fn checked(response: Option<Response>, method: &str, limits: &Limits) -> Self {
        let Some(Response {
            status,
            headers,
            mut body,
            ..
        }) = response
        else {
            return Self::failed();
        };
        if !allowed(status, &headers, &body, limits) {
            return Self::failed();
        }
        // HTTP has no body there.
        if method == "HEAD" || matches!(status, 204 | 205 | 304) {
            body.clear();
        }
        Self {
            status,
            body,
            failed: false,
            headers,
        }
    }
}

/// The most bytes of all headers of a response, each with [`HEADER`] more than it has.
const HEADERS: usize = 32 << 10;
const HEADER: usize = 32;

/// Whether the host takes a response.
pub(super) fn allowed(status: u16, headers: &[Header], body: &[u8], limits: &Limits) -> bool {
    let sizes = headers
        .iter()
        .map(|header| header.name.len() + header.value.len());
    let size: usize = sizes.sum();
    (200..=599).contains(&status)
        && headers.iter().all(allowed_header)
        && size + headers.len() * HEADER <= HEADERS
        && size + body.len() <= limits.reply
}

/// RFC 9110, sections 5.1 and 5.5, and the headers that only the host sets.
fn allowed_header(header: &Header) -> bool {
    let name = header.name.to_ascii_lowercase();
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let text = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
    !name.is_empty()
        && name.bytes().all(token)
        && header.value.iter().copied().all(text)
        && !FORBIDDEN.contains(&name.as_str())
        && !name.starts_with("ostrakon-")
}
