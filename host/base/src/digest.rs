//! The SHA-256 digest that identifies content.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// The SHA-256 of some content; shown in lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(content: &[u8]) -> Self {
        Self(Sha256::digest(content).into())
    }

    /// The digest of contents one after the other. The caller sees to it that no two lists are the same
    /// bytes.
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// The digest of named contents. Each name and content is preceded by its
    /// length, so that no two different maps are hashed as the same bytes.
    pub fn of_files(files: &BTreeMap<String, Bytes>) -> Self {
        let mut hash = Sha256::new();
        for (name, content) in files {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update((content.len() as u64).to_le_bytes());
            hash.update(content);
        }
        Self(hash.finalize().into())
    }

    /// Restores a digest from its stored bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Parses a digest from its full hexadecimal form.
    pub fn named(text: &str) -> Option<Self> {
        parse(text)
    }

    /// The bytes to store.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 hexadecimal digits, for display.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| serde::de::Error::custom("a digest has 64 hexadecimal digits"))
    }
}

fn parse(text: &str) -> Option<Digest> {
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() || !text.is_ascii() {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(Digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&'static str, &'static str)]) -> BTreeMap<String, Bytes> {
        entries
            .iter()
            .map(|(name, content)| ((*name).into(), Bytes::from(*content)))
            .collect()
    }

    #[test]
    fn is_shown_as_the_well_known_hexadecimal() {
        let digest = Digest::of(b"abc");
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), hex);
        assert_eq!(digest.short(), "ba7816bf8f01");
        assert_eq!(Digest::from_bytes(*digest.as_bytes()), digest);
    }

    #[test]
    fn files_differ_wherever_a_name_or_a_content_does() {
        let all = [
            files(&[]),
            files(&[("a", "")]),
            files(&[("a", "b")]),
            files(&[("ab", "")]),
            files(&[("a", ""), ("b", "")]),
            files(&[("a", "b"), ("b", "")]),
            files(&[("a", ""), ("b", "b")]),
        ];
        for (i, one) in all.iter().enumerate() {
            for (j, other) in all.iter().enumerate() {
                assert_eq!(
                    Digest::of_files(one) == Digest::of_files(other),
                    i == j,
                    "{i} {j}"
                );
            }
        }
    }

    #[test]
    fn the_order_in_which_files_were_read_does_not_count() {
        let (one, other) = (
            files(&[("a", "1"), ("b", "2")]),
            files(&[("b", "2"), ("a", "1")]),
        );
        assert_eq!(Digest::of_files(&one), Digest::of_files(&other));
    }
}
