//! A request's failure, and its response.

use std::borrow::Cow;

use serde::Serialize;

use crate::{Header, Response, StoreError, paths};

/// The result of [`Guest::handle`](crate::Guest::handle), and of the methods here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A request's failure. Nothing that the request wrote is stored, and the client gets a response with this status and
/// the JSON object `{"error": <code>, "message": <message>}`.
#[derive(Clone, Debug)]
pub struct Error {
    status: u16,
    code: &'static str,
    message: Cow<'static, str>,
    headers: Vec<Header>,
}

impl Error {
    /// An error with a status (400..=599), a code for programs and a message for people.
    pub fn new(status: u16, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            headers: Vec::new(),
        }
    }

    /// An invalid request: 400, `bad_request`.
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, "bad_request", message)
    }

    /// Something that does not exist: 404, `not_found`.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(404, "not_found", message)
    }

    /// A method that the path does not support: 405, `method_not_allowed`; `allow` lists the supported ones.
    pub fn method_not_allowed(allow: &str) -> Self {
        Self::new(
            405,
            "method_not_allowed",
            ["this path supports ", allow].concat(),
        )
        .header("allow", allow)
    }

    /// Adds a header to the client's response.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push(Header {
            name: name.into(),
            value: value.into(),
        });
        self
    }

    /// The HTTP status, from 400 to 599.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The code for programs, such as `not_found`.
    pub fn code(&self) -> &'static str {
        self.code
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<Error> for Response {
    fn from(error: Error) -> Self {
        #[derive(Serialize)]
        struct Body<'a> {
            error: &'a str,
            message: &'a str,
        }
        let mut response = Self::json(&Body {
            error: error.code,
            message: &error.message,
        })
        .status(error.status)
        .discard();
        response.headers.extend(error.headers);
        response
    }
}

impl From<paths::BadEncoding> for Error {
    fn from(error: paths::BadEncoding) -> Self {
        Self::new(400, "bad_encoding", error.text())
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let (status, code, message) = match error {
            StoreError::ReadOnly => (
                500,
                "read_only",
                Cow::from("this request was routed as a read"),
            ),
            StoreError::KeySize(max) => (400, "key_size", bound("a key has 1 to ", max)),
            StoreError::ValueSize(max) => (413, "value_size", bound("a value has at most ", max)),
            StoreError::PartitionFull(max) => (
                507,
                "partition_full",
                bound("a partition has at most ", max),
            ),
        };
        Self::new(status, code, message)
    }
}

/// A bound as text, without the code size of `format!`.
fn bound(text: &str, bytes: u32) -> Cow<'static, str> {
    [text, &bytes.to_string(), " bytes"].concat().into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ostrakon_test_support::pages::{errors, rows};

    use super::*;

    #[test]
    fn the_guide_shows_each_error_of_the_store_and_what_the_client_sees_of_it() {
        let guide = include_str!("../../README.md");
        let errors = [
            StoreError::ReadOnly,
            StoreError::KeySize(1),
            StoreError::ValueSize(1),
            StoreError::PartitionFull(1),
        ];
        for error in errors {
            // One more is noticed here.
            let name = match error {
                StoreError::ReadOnly => "read-only",
                StoreError::KeySize(_) => "key-size",
                StoreError::ValueSize(_) => "value-size",
                StoreError::PartitionFull(_) => "partition-full",
            };
            let seen = Error::from(error);
            let row = format!("| `{name}` |");
            let row = guide.lines().find(|line| line.starts_with(&row));
            let row = row.unwrap_or_else(|| panic!("guest/README.md has no row for {name}"));
            let shown = format!("{} `{}`", seen.status(), seen.code());
            assert!(row.contains(&shown), "{row}: {shown}");
        }
    }

    #[test]
    fn the_guide_has_exactly_the_codes_that_the_sdk_returns() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let files = std::fs::read_dir(folder).expect("the sources are there");
        let sources = files.filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok());
        let all: BTreeSet<_> = sources
            .flat_map(|source| errors(&source).collect::<Vec<_>>())
            .collect();
        let rows = rows(include_str!("../../README.md"), "| code | status | from |");
        let shown = rows
            .iter()
            .map(|row| format!("{} {}", row[0].trim_matches('`'), row[1]));
        assert_eq!(shown.collect::<BTreeSet<_>>(), all, "guest/README.md");
    }
}
