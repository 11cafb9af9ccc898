//! Typed collections in a partition: maps whose keys keep their order, and maps with an index.

use std::{marker::PhantomData, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Result, Scan, Store};

/// A key of a collection. It is stored so that the order of the stored bytes is the order of the keys.
pub trait Key: Sized {
    /// Appends the key to some bytes.
    fn write(&self, to: &mut Vec<u8>);

    /// Takes a key from the beginning of some bytes; `None` if there is none.
    fn read(from: &mut &[u8]) -> Option<Self>;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Key for $number {
            fn write(&self, to: &mut Vec<u8>) {
                to.extend(self.to_be_bytes());
            }

            fn read(from: &mut &[u8]) -> Option<Self> {
                let (bytes, rest) = from.split_first_chunk()?;
                *from = rest;
                Some(Self::from_be_bytes(*bytes))
            }
        }
    )*};
}

numbers!(u8, u16, u32, u64, u128);

impl Key for i64 {
    fn write(&self, to: &mut Vec<u8>) {
        self.cast_unsigned().wrapping_add(1 << 63).write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        Some(u64::read(from)?.wrapping_sub(1 << 63).cast_signed())
    }
}

/// A time or a length of time, in whole nanoseconds.
impl Key for Duration {
    fn write(&self, to: &mut Vec<u8>) {
        self.as_nanos().write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let nanos = u128::read(from)?;
        let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
        Some(Self::new(seconds, (nanos % 1_000_000_000) as u32))
    }
}

/// The text ends with the bytes 0 and 1. A 0 in it is followed by 255.
impl Key for String {
    fn write(&self, to: &mut Vec<u8>) {
        for byte in self.bytes() {
            to.push(byte);
            if byte == 0 {
                to.push(u8::MAX);
            }
        }
        to.extend([0, 1]);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let mut bytes = Vec::new();
        let mut rest = from.iter();
        loop {
            match *rest.next()? {
                0 => match *rest.next()? {
                    1 => break,
                    _ => bytes.push(0),
                },
                byte => bytes.push(byte),
            }
        }
        *from = rest.as_slice();
        Self::from_utf8(bytes).ok()
    }
}

/// In the order of the first, then of the second.
impl<A: Key, B: Key> Key for (A, B) {
    fn write(&self, to: &mut Vec<u8>) {
        self.0.write(to);
        self.1.write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        Some((A::read(from)?, B::read(from)?))
    }
}

/// In the order of the first, then of the second, then of the third.
impl<A: Key, B: Key, C: Key> Key for (A, B, C) {
    fn write(&self, to: &mut Vec<u8>) {
        self.0.write(to);
        self.1.write(to);
        self.2.write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        Some((A::read(from)?, B::read(from)?, C::read(from)?))
    }
}

/// The key of an entry: the collection's name, a 0, and the key in the collection.
fn stored(name: &str, key: &impl Key) -> Vec<u8> {
    let mut stored = prefix(name);
    key.write(&mut stored);
    stored
}

fn prefix(name: &str) -> Vec<u8> {
    check(name);
    [name.as_bytes(), &[0]].concat()
}

fn bad_entry() -> Error {
    Error::new(
        500,
        "bad_entry",
        "an entry's key is not of the collection's type",
    )
}

/// A map in the request's partition, in the order of its keys. Values are stored as JSON.
///
/// A partition can have several, under different names, beside other entries that do not begin with such a name and a
/// NUL.
#[derive(Debug)]
pub struct Map<K, V> {
    name: &'static str,
    types: PhantomData<fn() -> (K, V)>,
}

impl Store {
    /// The map with this name. It exists once it has an entry.
    pub fn map<K: Key, V>(&self, name: &'static str) -> Map<K, V> {
        Map {
            name,
            types: PhantomData,
        }
    }

    /// The map with this name and an index. `keys` gives the keys under which an entry is found there.
    pub fn indexed<K: Key, V, I: Key>(
        &self,
        name: &'static str,
        keys: fn(&K, &V) -> Vec<I>,
    ) -> Indexed<K, V, I> {
        Indexed {
            map: self.map(name),
            keys,
        }
    }
}

impl<K: Key, V: Serialize + DeserializeOwned> Map<K, V> {
    /// The value of a key, if there is one.
    ///
    /// # Errors
    /// If the stored bytes are not such a value, as status 500.
    pub fn get(&self, key: impl Into<K>) -> Result<Option<V>> {
        self.get_ref(&key.into())
    }

    /// Stores a value under a key, and replaces the former one.
    ///
    /// # Errors
    /// As [`Store::set`].
    pub fn set(&self, key: impl Into<K>, value: &V) -> Result<()> {
        Ok(Store(()).set_json(stored(self.name, &key.into()), value)?)
    }

    /// Removes a key, and returns whether there was one.
    ///
    /// # Errors
    /// As [`Store::delete`].
    pub fn remove(&self, key: impl Into<K>) -> Result<bool> {
        Ok(Store(()).delete(stored(self.name, &key.into()))?)
    }

    /// All entries, in the order of their keys; narrowed by the methods of [`Entries`].
    pub fn iter(&self) -> Entries<K, V> {
        Entries {
            name: self.name,
            scan: Store(()).scan().prefix(prefix(self.name)),
            types: PhantomData,
        }
    }
}

impl<K: Key, V: Serialize + DeserializeOwned> IntoIterator for &Map<K, V> {
    type Item = Result<(K, V)>;
    type IntoIter = Entries<K, V>;

    fn into_iter(self) -> Entries<K, V> {
        self.iter()
    }
}

/// An iterator over entries of a map, which fetches them from the host page by page.
#[derive(Debug)]
pub struct Entries<K, V> {
    name: &'static str,
    scan: Scan,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Key, V> Entries<K, V> {
    /// Only the keys from this one on.
    #[must_use]
    pub fn from(mut self, key: impl Into<K>) -> Self {
        self.scan = self.scan.from(stored(self.name, &key.into()));
        self
    }

    /// Only the keys before this one.
    #[must_use]
    pub fn until(mut self, key: impl Into<K>) -> Self {
        self.scan = self.scan.until(stored(self.name, &key.into()));
        self
    }

    /// Goes from the last key to the first.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.scan = self.scan.reverse();
        self
    }
}

impl<K: Key, V: DeserializeOwned> Iterator for Entries<K, V> {
    type Item = Result<(K, V)>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.scan.next()?;
        let mut key = &entry.key[self.name.len() + 1..];
        let read = K::read(&mut key).filter(|_| key.is_empty());
        let value = || entry.json();
        Some(
            read.ok_or_else(bad_entry)
                .and_then(|key| Ok((key, value()?))),
        )
    }
}

/// A map in the request's partition with an index, which is kept in the same transaction.
#[derive(Debug)]
pub struct Indexed<K, V, I> {
    map: Map<K, V>,
    keys: fn(&K, &V) -> Vec<I>,
}

impl<K: Key, V: Serialize + DeserializeOwned, I: Key> Indexed<K, V, I> {
    /// The value of a key, if there is one.
    ///
    /// # Errors
    /// If the stored bytes are not such a value, as status 500.
    pub fn get(&self, key: impl Into<K>) -> Result<Option<V>> {
        self.map.get(key)
    }

    /// Stores a value under a key, replaces the former one, and brings the index up to date.
    ///
    /// # Errors
    /// As [`Store::set`]. The request must then fail, or the index may lack the entry.
    pub fn set(&self, key: impl Into<K>, value: &V) -> Result<()> {
        let key = key.into();
        let before = self.map.get_ref(&key)?;
        let former = before.map_or_else(Vec::new, |before| self.places(&key, &before));
        let new = self.places(&key, value);
        let gone: Vec<_> = former.iter().filter(|place| !new.contains(place)).collect();
        if !gone.is_empty() {
            Store(()).delete_many(gone)?;
        }
        let added = new.into_iter().filter(|place| !former.contains(place));
        let added: Vec<_> = added.map(|place| (place, Vec::new())).collect();
        if !added.is_empty() {
            Store(()).set_many(added)?;
        }
        Ok(Store(()).set_json(stored(self.map.name, &key), value)?)
    }

    /// Removes a key, also from the index, and returns whether there was one.
    ///
    /// # Errors
    /// As [`Store::delete`], and if the stored bytes are not such a value.
    pub fn remove(&self, key: impl Into<K>) -> Result<bool> {
        let key = key.into();
        let Some(before) = self.map.get_ref(&key)? else {
            return Ok(false);
        };
        Store(()).delete_many(self.places(&key, &before))?;
        self.map.remove(key)
    }

    /// All entries, in the order of their keys.
    pub fn iter(&self) -> Entries<K, V> {
        self.map.iter()
    }

    /// The keys of the index, each with the key of its entry, in order; narrowed by the methods of [`Index`].
    pub fn index(&self) -> Index<K, I> {
        Index {
            prefix: index_prefix(self.map.name),
            scan: Store(()).scan().prefix(index_prefix(self.map.name)),
            types: PhantomData,
        }
    }

    /// Where the index has an entry.
    fn places(&self, key: &K, value: &V) -> Vec<Vec<u8>> {
        let keys = (self.keys)(key, value).into_iter();
        let place = |index: I| {
            let mut place = index_prefix(self.map.name);
            index.write(&mut place);
            key.write(&mut place);
            place
        };
        keys.map(place).collect()
    }
}

impl<K: Key, V: Serialize + DeserializeOwned, I: Key> IntoIterator for &Indexed<K, V, I> {
    type Item = Result<(K, V)>;
    type IntoIter = Entries<K, V>;

    fn into_iter(self) -> Entries<K, V> {
        self.iter()
    }
}

impl<K: Key, V: Serialize + DeserializeOwned> Map<K, V> {
    fn get_ref(&self, key: &K) -> Result<Option<V>> {
        Store(()).get_json(stored(self.name, key))
    }
}

/// What the keys of an index's entries begin with. No entry of a map begins so.
fn index_prefix(name: &str) -> Vec<u8> {
    check(name);
    [name.as_bytes(), b"\x01by\0"].concat()
}

fn check(name: &str) {
    let is_plain = !name.chars().any(char::is_control);
    assert!(is_plain, "a collection's name has no control characters");
}

/// An iterator over the keys of an index, which fetches them from the host page by page.
#[derive(Debug)]
pub struct Index<K, I> {
    /// What the keys of its entries begin with.
    prefix: Vec<u8>,
    scan: Scan,
    types: PhantomData<fn() -> (K, I)>,
}

impl<K: Key, I: Key> Index<K, I> {
    /// Only the keys of the index from this one on.
    #[must_use]
    pub fn from(mut self, key: impl Into<I>) -> Self {
        let place = self.place(&key.into());
        self.scan = self.scan.from(place);
        self
    }

    /// Only the keys of the index before this one.
    #[must_use]
    pub fn until(mut self, key: impl Into<I>) -> Self {
        let place = self.place(&key.into());
        self.scan = self.scan.until(place);
        self
    }

    /// Only this key of the index.
    #[must_use]
    pub fn only(mut self, key: impl Into<I>) -> Self {
        let place = self.place(&key.into());
        self.scan = self.scan.prefix(place);
        self
    }

    /// Goes from the last key to the first.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.scan = self.scan.reverse();
        self
    }

    fn place(&self, key: &I) -> Vec<u8> {
        let mut place = self.prefix.clone();
        key.write(&mut place);
        place
    }
}

impl<K: Key, I: Key> Iterator for Index<K, I> {
    type Item = Result<(I, K)>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.scan.next()?;
        let mut key = &entry.key[self.prefix.len()..];
        let read = <(I, K)>::read(&mut key).filter(|_| key.is_empty());
        Some(read.ok_or_else(bad_entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(key: &impl Key) -> Vec<u8> {
        let mut bytes = Vec::new();
        key.write(&mut bytes);
        bytes
    }

    fn keeps_its_order<K: Key + Ord + std::fmt::Debug>(keys: Vec<K>) {
        for pair in keys.windows(2) {
            assert!(
                pair[0] < pair[1] && written(&pair[0]) < written(&pair[1]),
                "{pair:?}"
            );
        }
        for key in keys {
            let bytes = written(&key);
            let mut rest = bytes.as_slice();
            assert_eq!((K::read(&mut rest), rest), (Some(key), &[][..]));
            for cut in 0..bytes.len() {
                assert!(
                    K::read(&mut &bytes[..cut]).is_none(),
                    "{bytes:?} cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn keys_keep_their_order() {
        keeps_its_order(vec![0, 1, 255, 256, u64::MAX]);
        keeps_its_order(vec![i64::MIN, -256, -1, 0, 1, i64::MAX]);
        keeps_its_order(vec![Duration::ZERO, Duration::from_nanos(1), Duration::MAX]);
        let texts = [
            "", "\0", "\0\0", "\0a", "\u{1}", "a", "a\0", "a\0b", "a\u{1}", "aa", "é",
        ];
        keeps_its_order(texts.map(str::to_owned).to_vec());
        let pairs = texts
            .iter()
            .flat_map(|text| [0, 255_u8].map(|number| ((*text).to_owned(), number)));
        keeps_its_order(pairs.collect());
        keeps_its_order(vec![
            (1_u8, "b".to_owned(), 2_u8),
            (1, "b".to_owned(), 3),
            (2, String::new(), 0),
        ]);
    }
}
