//! The whole shard.

use std::{ops::Deref, vec::IntoIter};

pub use crate::bindings::ostrakon::shard::shard::Entry as ShardEntry;
use crate::{
    bindings::ostrakon::shard::shard::{Error, Position},
    imports,
    store::{prefix_end, successor},
};

/// The whole shard, as of the last durable commit: read-only.
#[derive(Clone, Copy, Debug)]
pub struct Shard(pub(crate) ());

impl Shard {
    /// The keys of all partitions, in order; narrowed by the methods of [`Partitions`].
    pub fn partitions(&self) -> Partitions {
        Partitions {
            start: None,
            end: None,
            page_size: 1024,
            page: Vec::new().into_iter(),
            more: true,
        }
    }

    /// All entries, in the order of partitions and then keys.
    pub fn scan(&self) -> Entries {
        Entries {
            after: None,
            page_size: 256,
            page: Vec::new().into_iter(),
            more: true,
        }
    }

    /// One value; `None` if there is no such entry.
    pub fn get(&self, partition: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        imports::shard_get(partition.as_ref(), key.as_ref())
    }
}

/// The whole shard in a migration, which can also write, in one transaction.
#[derive(Clone, Copy, Debug)]
pub struct Migration(pub(crate) Shard);

impl Migration {
    /// Stores several entries in existing partitions, in one call to the host: all of them, or none on an error.
    ///
    /// # Errors
    /// A text for people, if a limit is exceeded, or a partition did not exist when the migration began.
    pub fn set_many(&self, entries: &[ShardEntry]) -> Result<(), String> {
        imports::shard_set_many(entries).map_err(text)
    }

    /// Removes several entries (partition and key), in one call to the host, and returns how many existed.
    ///
    /// # Errors
    /// A text for people.
    pub fn delete_many(
        &self,
        entries: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<u32, String> {
        let positions = entries
            .into_iter()
            .map(|(partition, key)| Position { partition, key });
        imports::shard_delete_many(&positions.collect::<Vec<_>>()).map_err(text)
    }
}

/// A migration can read everything that a request can, including its own writes.
impl Deref for Migration {
    type Target = Shard;

    fn deref(&self) -> &Shard {
        &self.0
    }
}

fn text(error: Error) -> String {
    match error {
        Error::Store(error) => crate::Error::from(error).to_string(),
        Error::NoSuchPartition => "a migration cannot create a partition".to_owned(),
    }
}

/// An iterator over keys of partitions, which fetches them from the host page by page.
#[derive(Debug)]
pub struct Partitions {
    start: Option<Vec<u8>>,
    end: Option<Vec<u8>>,
    page_size: u32,
    page: IntoIter<Vec<u8>>,
    more: bool,
}

impl Partitions {
    /// Only keys that begin with a prefix.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<Vec<u8>>) -> Self {
        let prefix = prefix.into();
        self.end = prefix_end(&prefix);
        self.start = self.start.max(Some(prefix));
        self
    }

    /// Only the keys after this one, which need not exist.
    #[must_use]
    pub fn after(mut self, partition: impl AsRef<[u8]>) -> Self {
        self.start = self.start.max(Some(successor(partition.as_ref())));
        self
    }

    /// The number of keys to fetch at once (at least 1, by default 1,024). The host returns at most 1 MiB at once.
    #[must_use]
    pub fn page_size(mut self, partitions: u32) -> Self {
        self.page_size = partitions.max(1);
        self
    }
}

impl Iterator for Partitions {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if let Some(partition) = self.page.next() {
            return Some(partition);
        }
        if !self.more {
            return None;
        }
        let page =
            imports::shard_partitions(self.start.as_deref(), self.end.as_deref(), self.page_size);
        self.more = page.more;
        if let Some(last) = page.partitions.last() {
            self.start = Some(successor(last));
        }
        self.page = page.partitions.into_iter();
        self.page.next()
    }
}

/// An iterator over entries of the shard, which fetches them from the host page by page.
///
/// It continues after the last fetched entry, so a migration may write entries that it has passed.
#[derive(Debug)]
pub struct Entries {
    after: Option<Position>,
    page_size: u32,
    page: IntoIter<ShardEntry>,
    more: bool,
}

impl Entries {
    /// Only the entries after this one, which need not exist.
    #[must_use]
    pub fn after(mut self, partition: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.after = Some(Position {
            partition: partition.into(),
            key: key.into(),
        });
        self
    }

    /// The number of entries to fetch at once (at least 1, by default 256). The host returns at most 1 MiB at once.
    #[must_use]
    pub fn page_size(mut self, entries: u32) -> Self {
        self.page_size = entries.max(1);
        self
    }
}

impl Iterator for Entries {
    type Item = ShardEntry;

    fn next(&mut self) -> Option<ShardEntry> {
        if let Some(entry) = self.page.next() {
            return Some(entry);
        }
        if !self.more {
            return None;
        }
        let page = imports::shard_scan(self.after.as_ref(), self.page_size);
        self.more = page.more;
        if let Some(ShardEntry { partition, key, .. }) = page.entries.last() {
            self.after = Some(Position {
                partition: partition.clone(),
                key: key.clone(),
            });
        }
        self.page = page.entries.into_iter();
        self.page.next()
    }
}
