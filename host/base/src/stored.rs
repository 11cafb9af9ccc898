//! Versions of data on disk. A later start, possibly of another version of this program, reads
//! it.
//!
//! Each [`Format`] has a version number, which is stored with the data:
//!
//! | encoding | where the number is | without one |
//! | --- | --- | --- |
//! | [`Format::mark`] | `ostr`, then a little-endian u16, then the body | version 0 |
//! | [`Format::to_json`] | the field `version` of a JSON object | version 0 |
//! | [`Format::to_line`] | a separate file, in decimal | version 0 |
//!
//! Version 0 is data from before versions existed. A reader accepts its own version and the one
//! before. Anything else is [`Unreadable`] and is never taken for missing: a later version is
//! distinguished from damage, and is left untouched. The body of a version has exactly the fields
//! of that version. An additional field is an error, because it means something to the version
//! that wrote it; a new field therefore needs a new version.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

const MARK: &[u8] = b"ostr";
const VERSION: &str = "version";

/// One kind of stored data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// The name of the data, which begins error messages.
    pub what: &'static str,
    /// The version that this program writes, and the newest that it reads.
    pub version: u16,
}

/// Why stored data cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A later version of this program wrote the data.
    #[error(
        "{} is of version {found}, and this version of ostrakon ({}) reads up to {}",
        .format.what, env!("CARGO_PKG_VERSION"), .format.version
    )]
    Newer {
        format: Format,
        /// The version found.
        found: u64,
    },
    /// The data does not match the version that it carries.
    #[error("{} cannot be read: {reason}", .format.what)]
    Broken { format: Format, reason: String },
}

impl Unreadable {
    /// The stored version if a later program wrote the data; none if the data is damaged.
    pub fn newer(&self) -> Option<u64> {
        match self {
            Self::Newer { found, .. } => Some(*found),
            Self::Broken { .. } => None,
        }
    }
}

impl Format {
    /// An error for damaged data, with the reason.
    pub fn broken(&self, reason: &(impl ToString + ?Sized)) -> Unreadable {
        Unreadable::Broken {
            format: *self,
            reason: reason.to_string(),
        }
    }

    /// The stored version, if this program can read it.
    fn known(&self, found: u64) -> Result<u16, Unreadable> {
        match u16::try_from(found) {
            Ok(0) => Err(self.broken("there is no version 0")),
            Ok(version) if version <= self.version => Ok(version),
            _ => Err(Unreadable::Newer {
                format: *self,
                found,
            }),
        }
    }

    /// Prepends this format's version to the bytes.
    pub fn mark(&self, body: &[u8]) -> Vec<u8> {
        [MARK, &self.version.to_le_bytes(), body].concat()
    }

    /// Splits the output of [`Format::mark`] into version and body.
    ///
    /// # Errors
    /// If the version is later than this program's, or the data ends within its version.
    pub fn unmark<'a>(&self, stored: &'a [u8]) -> Result<(u16, &'a [u8]), Unreadable> {
        let Some(marked) = stored.strip_prefix(MARK) else {
            return Ok((0, stored));
        };
        let cut = || self.broken("it ends before its version is complete");
        let (version, body) = marked.split_first_chunk().ok_or_else(cut)?;
        let version = self.known(u16::from_le_bytes(*version).into())?;
        Ok((version, body))
    }

    /// Encodes a value's fields as a JSON object with this format's version.
    ///
    /// # Panics
    /// If the value has no fields, or its keys are not text.
    pub fn to_json(&self, body: &impl Serialize) -> Vec<u8> {
        #[derive(Serialize)]
        struct Versioned<'a, T> {
            version: u16,
            #[serde(flatten)]
            body: &'a T,
        }
        let version = self.version;
        serde_json::to_vec(&Versioned { version, body })
            .expect("the value has fields with text keys")
    }

    /// Splits the output of [`Format::to_json`] into the version and the other fields.
    ///
    /// # Errors
    /// If the version is later than this program's, or the data is not a JSON object.
    pub fn split_json(&self, stored: &[u8]) -> Result<(u16, Map<String, Value>), Unreadable> {
        let mut fields: Map<String, Value> =
            serde_json::from_slice(stored).map_err(|error| self.broken(&error))?;
        let version = match fields.remove(VERSION) {
            None => 0,
            Some(version) => {
                let number = version.as_u64();
                self.known(number.ok_or_else(|| self.broken("its version is not a number"))?)?
            }
        };
        Ok((version, fields))
    }

    /// Decodes a value from these fields. Unknown fields are an error if its type denies them.
    ///
    /// # Errors
    /// If the fields do not fit the type.
    pub fn from_fields<T: DeserializeOwned>(
        &self,
        fields: Map<String, Value>,
    ) -> Result<T, Unreadable> {
        serde_json::from_value(Value::Object(fields)).map_err(|error| self.broken(&error))
    }

    /// This format's version, as the whole content of a file.
    pub fn to_line(&self) -> Vec<u8> {
        format!("{}\n", self.version).into_bytes()
    }

    /// Reads the version that [`Format::to_line`] wrote.
    ///
    /// # Errors
    /// If the version is later than this program's, or is not a number.
    pub fn from_line(&self, stored: &[u8]) -> Result<u16, Unreadable> {
        let line = stored.strip_suffix(b"\n").unwrap_or(stored);
        let number = str::from_utf8(line).ok().and_then(|line| line.parse().ok());
        self.known(number.ok_or_else(|| self.broken("its version is not a number"))?)
    }
}

/// Renames a file that a later program wrote before another file takes its place, since that
/// program may still need it. Returns the new path.
///
/// # Errors
/// If the file cannot be renamed: then nothing may take its place.
pub fn set_aside(path: &Path, version: u64) -> io::Result<PathBuf> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".v{version}"));
    let aside = PathBuf::from(aside);
    fs::rename(path, &aside)?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    const FORMAT: Format = Format {
        what: "a test",
        version: 2,
    };

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        a: u8,
    }

    fn json(text: &str) -> Result<(u16, Body), Unreadable> {
        let (version, fields) = FORMAT.split_json(text.as_bytes())?;
        Ok((version, FORMAT.from_fields(fields)?))
    }

    #[test]
    fn what_is_written_carries_its_version() {
        assert_eq!(FORMAT.mark(b"body"), b"ostr\x02\0body");
        assert_eq!(FORMAT.to_json(&Body { a: 7 }), br#"{"version":2,"a":7}"#);
        assert_eq!(FORMAT.to_line(), b"2\n");
    }

    #[test]
    fn its_own_version_and_those_before_are_read() {
        for (version, stored) in [
            (0, &b"body"[..]),
            (1, b"ostr\x01\0body"),
            (2, b"ostr\x02\0body"),
        ] {
            assert_eq!(FORMAT.unmark(stored), Ok((version, &b"body"[..])));
        }
        for (version, stored) in [
            (0, r#"{"a":7}"#),
            (1, r#"{"a":7,"version":1}"#),
            (2, r#"{"version":2,"a":7}"#),
        ] {
            assert_eq!(json(stored), Ok((version, Body { a: 7 })));
        }
        assert_eq!(FORMAT.from_line(b"2\n"), Ok(2));
        assert_eq!(FORMAT.from_line(b"1"), Ok(1));
    }

    #[test]
    fn a_later_version_is_told_from_damage_and_named() {
        let newer = |found| Unreadable::Newer {
            format: FORMAT,
            found,
        };
        assert_eq!(FORMAT.unmark(b"ostr\x09\0other"), Err(newer(9)));
        assert_eq!(json(r#"{"version":3,"b":[]}"#), Err(newer(3)));
        assert_eq!(json(r#"{"version":65538}"#), Err(newer(65538)));
        assert_eq!(FORMAT.from_line(b"10\n"), Err(newer(10)));
        let said = newer(9).to_string();
        assert!(said.starts_with("a test is of version 9, and "), "{said}");
        assert!(said.ends_with("reads up to 2"), "{said}");

        for broken in ["ostr", "ostr\x01", "ostr\0\0body"] {
            let error = FORMAT.unmark(broken.as_bytes()).unwrap_err();
            assert_eq!(error.newer(), None, "{broken:?}: {error}");
        }
        for broken in [
            "",
            "{",
            "[]",
            r#"{"version":0,"a":7}"#,
            r#"{"version":-1,"a":7}"#,
            r#"{"version":"2","a":7}"#,
            r#"{"version":2,"a":7,"b":1}"#,
            r#"{"version":2,"a":7"#,
        ] {
            let error = json(broken).unwrap_err();
            assert_eq!(error.newer(), None, "{broken:?}: {error}");
        }
        for broken in ["", "\n", "0\n", "two\n", "2\n\n", "-1"] {
            let error = FORMAT.from_line(broken.as_bytes()).unwrap_err();
            assert_eq!(error.newer(), None, "{broken:?}: {error}");
        }
    }

    #[test]
    fn what_is_set_aside_is_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes.json");
        fs::write(&path, "later").unwrap();
        let aside = set_aside(&path, 9).unwrap();
        assert_eq!(aside, directory.path().join("notes.json.v9"));
        assert_eq!(fs::read(aside).unwrap(), b"later");
        assert!(!path.exists());
        set_aside(&path, 9).unwrap_err();
    }
}
