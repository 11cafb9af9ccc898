//! The request's own partition.

use std::vec::IntoIter;

use serde::{Serialize, de::DeserializeOwned};

pub use crate::bindings::ostrakon::shard::store::{Entry, Error};
use crate::{bindings::ostrakon::shard::store::Range, imports};

/// The request's own partition: an ordered map from bytes to bytes, in one transaction with the whole request.
///
/// Keys have 1 to 1,024 bytes, values at most 9 MiB, a partition at most 16 MiB, unless the host is set otherwise.
/// After a failed write the request can continue. Its other writes are stored unless it returns an error.
#[derive(Clone, Copy, Debug)]
pub struct Store(pub(crate) ());

impl Store {
    /// The value of a key; `None` if there is no such entry.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        imports::store_get(key.as_ref())
    }

    /// The values of several keys, in the given order, in one call to the host.
    ///
    /// One call passes at most 18 MiB in each direction by default; more ends the request with status 500 `guest-memory`.
    /// Each key or value passed to the host counts 24 bytes more than it has, and each value returned 64. This applies to
    /// all `_many` methods.
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Option<Vec<u8>>> {
        imports::store_get_many(&owned(keys))
    }

    /// Stores a value under a key, and replaces the former one.
    ///
    /// # Errors
    /// In a `read` request, and over a limit.
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Error> {
        imports::store_set(key.as_ref(), value.as_ref())
    }

    /// Stores several entries, in one call to the host: all of them, or none on an error.
    ///
    /// # Errors
    /// In a `read` request, and over a limit.
    pub fn set_many<K: Into<Vec<u8>>, V: Into<Vec<u8>>>(
        &self,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<(), Error> {
        let entries = entries.into_iter().map(|(key, value)| Entry {
            key: key.into(),
            value: value.into(),
        });
        imports::store_set_many(&entries.collect::<Vec<_>>())
    }

    /// Removes an entry, and returns whether it existed.
    ///
    /// # Errors
    /// In a `read` request.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        imports::store_delete(key.as_ref())
    }

    /// Removes several entries, in one call to the host, and returns how many existed.
    ///
    /// # Errors
    /// In a `read` request.
    pub fn delete_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<u32, Error> {
        imports::store_delete_many(&owned(keys))
    }

    /// All entries, in the order of their keys; narrowed by the methods of [`Scan`].
    pub fn scan(&self) -> Scan {
        Scan {
            range: Range {
                start: None,
                end: None,
                reverse: false,
            },
            page_size: 256,
            page: Vec::new().into_iter(),
            more: true,
        }
    }

    /// The value of a key, read as JSON; `None` if there is no such entry.
    ///
    /// # Errors
    /// If the stored bytes are not such a value, as status 500.
    pub fn get_json<T: DeserializeOwned>(&self, key: impl AsRef<[u8]>) -> crate::Result<Option<T>> {
        self.get(key).map(|value| parse(&value)).transpose()
    }

    /// Stores a value, written as JSON, under a key.
    ///
    /// # Errors
    /// As [`Store::set`].
    ///
    /// # Panics
    /// If the value cannot be JSON, such as a map with keys that are not texts.
    pub fn set_json<T: Serialize + ?Sized>(
        &self,
        key: impl AsRef<[u8]>,
        value: &T,
    ) -> Result<(), Error> {
        self.set(key, crate::json(value))
    }
}

impl Entry {
    /// The value, read as JSON.
    ///
    /// # Errors
    /// If it is not such a value, as status 500.
    pub fn json<T: DeserializeOwned>(&self) -> crate::Result<T> {
        parse(&self.value)
    }
}

/// An iterator over entries of a partition, which fetches them from the host page by page.
#[derive(Debug)]
pub struct Scan {
    range: Range,
    page_size: u32,
    page: IntoIter<Entry>,
    more: bool,
}

impl Scan {
    /// Only the keys that begin with a prefix.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<Vec<u8>>) -> Self {
        let prefix = prefix.into();
        self.range.end = prefix_end(&prefix);
        self.range.start = Some(prefix);
        self
    }

    /// Only the keys from this one on.
    #[must_use]
    pub fn from(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.range.start = Some(key.into());
        self
    }

    /// Only the keys before this one, which is left out.
    #[must_use]
    pub fn until(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.range.end = Some(key.into());
        self
    }

    /// Goes from the last key to the first.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.range.reverse = true;
        self
    }

    /// The number of entries to fetch at once (at least 1, by default 256). The host returns at most 1 MiB at once, where
    /// each entry counts 64 bytes more than it has.
    #[must_use]
    pub fn page_size(mut self, entries: u32) -> Self {
        self.page_size = entries.max(1);
        self
    }
}

impl Iterator for Scan {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        if let Some(entry) = self.page.next() {
            return Some(entry);
        }
        if !self.more {
            return None;
        }
        let page = imports::store_scan(&self.range, self.page_size);
        self.more = page.more;
        if let Some(last) = page.entries.last() {
            if self.range.reverse {
                self.range.end = Some(last.key.clone());
            } else {
                self.range.start = Some(successor(&last.key));
            }
        }
        self.page = page.entries.into_iter();
        self.page.next()
    }
}

/// The first key after a key.
pub(crate) fn successor(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// The first key after all keys that begin with a prefix; `None` if there is no such key.
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

fn owned<K: AsRef<[u8]>>(keys: impl IntoIterator<Item = K>) -> Vec<Vec<u8>> {
    keys.into_iter().map(|key| key.as_ref().to_vec()).collect()
}

fn parse<T: DeserializeOwned>(value: &[u8]) -> crate::Result<T> {
    serde_json::from_slice(value)
        .map_err(|error| crate::Error::new(500, "bad_entry", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_no_key_has_it() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
