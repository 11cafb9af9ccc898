//! The contract's imports, as a guest's calls find them.

use tracing::Level;
use wasmtime::component::Resource;

use super::bindings::ostrakon::shard::{log, request, secrets, settings, shard, store, types};
use super::context::{Context, Data};
use super::copies::Copies;
use crate::secrets::Secret;
use crate::store::{ReadError, Snapshot, WriteError};

/// A secret that a guest holds. It is not revealed by being held.
#[expect(unreachable_pub, reason = "the bindings re-export it")]
pub struct SecretHandle(Secret);

type Result<T> = wasmtime::Result<T>;

/// Sorts a write's failure: what the guest is told, or the end of the call.
fn told(error: WriteError) -> Result<store::Error> {
    Ok(match error {
        WriteError::KeySize(limit) => store::Error::KeySize(limit),
        WriteError::ValueSize(limit) => store::Error::ValueSize(limit),
        WriteError::PartitionFull(limit) => store::Error::PartitionFull(limit),
        // Only a migration can meet it, and `shard` tells it apart.
        WriteError::NoSuchPartition => return Err(wasmtime::Error::new(error)),
        WriteError::Read(error) => return Err(failed(error)),
    })
}

/// A copy of a value, as far as the call may copy as much: the call ends otherwise.
fn copied(
    snapshot: &Snapshot,
    (partition, key): (&[u8], &[u8]),
    copies: &mut Copies,
) -> std::result::Result<Option<Vec<u8>>, ReadError> {
    let value = snapshot.value(partition, key)?;
    let value = value.filter(|value| copies.may(value.bytes().len()));
    Ok(value.map(|value| value.bytes().to_vec()))
}

fn failed(error: ReadError) -> wasmtime::Error {
    wasmtime::Error::new(error)
}

impl types::Host for Context {}

impl store::Host for Context {
    fn get(&mut self, key: Vec<u8>) -> Result<Option<Vec<u8>>> {
        let copies = &mut self.call.copies;
        let value = match &self.call.data {
            Data::Partition(partition, snapshot) => copied(snapshot, (partition, &key), copies),
            Data::Transaction(transaction) => transaction.get(&key),
            _ => return self.misused("store.get"),
        };
        self.within_copies()?;
        value.map_err(failed)
    }

    fn get_many(&mut self, keys: Vec<Vec<u8>>) -> Result<Vec<Option<Vec<u8>>>> {
        let copies = &mut self.call.copies;
        let values = match &self.call.data {
            Data::Partition(partition, snapshot) => keys
                .iter()
                .map(|key| copied(snapshot, (partition, key), copies))
                .collect::<std::result::Result<_, _>>(),
            Data::Transaction(transaction) => keys.iter().map(|key| transaction.get(key)).collect(),
            _ => return self.misused("store.get-many"),
        };
        self.within_copies()?;
        values.map_err(failed)
    }

    fn set(
        &mut self,
        key: Vec<u8>,
        value: Vec<u8>,
    ) -> Result<std::result::Result<(), store::Error>> {
        match &mut self.call.data {
            Data::Transaction(transaction) => match transaction.set(key, value) {
                Ok(()) => Ok(Ok(())),
                Err(error) => told(error).map(Err),
            },
            Data::Partition(..) => Ok(Err(store::Error::ReadOnly)),
            _ => self.misused("store.set"),
        }
    }

    fn set_many(
        &mut self,
        entries: Vec<store::Entry>,
    ) -> Result<std::result::Result<(), store::Error>> {
        match &mut self.call.data {
            Data::Transaction(transaction) => {
                let entries = entries.into_iter().map(|entry| (entry.key, entry.value));
                match transaction.set_many(entries.collect()) {
                    Ok(()) => Ok(Ok(())),
                    Err(error) => told(error).map(Err),
                }
            }
            Data::Partition(..) => Ok(Err(store::Error::ReadOnly)),
            _ => self.misused("store.set-many"),
        }
    }

    fn delete(&mut self, key: Vec<u8>) -> Result<std::result::Result<bool, store::Error>> {
        match &mut self.call.data {
            Data::Transaction(transaction) => transaction.delete(key).map(Ok).map_err(failed),
            Data::Partition(..) => Ok(Err(store::Error::ReadOnly)),
            _ => self.misused("store.delete"),
        }
    }

    fn delete_many(
        &mut self,
        keys: Vec<Vec<u8>>,
    ) -> Result<std::result::Result<u32, store::Error>> {
        match &mut self.call.data {
            Data::Transaction(transaction) => {
                let mut count = 0;
                for key in keys {
                    count += u32::from(transaction.delete(key).map_err(failed)?);
                }
                Ok(Ok(count))
            }
            Data::Partition(..) => Ok(Err(store::Error::ReadOnly)),
            _ => self.misused("store.delete-many"),
        }
    }

    fn scan(&mut self, range: store::Range, limit: u32) -> Result<store::Page> {
        let (start, end) = (range.start.as_deref(), range.end.as_deref());
        let (limit, copies) = (limit as usize, &mut self.call.copies);
        let page = match &self.call.data {
            Data::Partition(partition, snapshot) => {
                let may_copy = |bytes| copies.may(bytes);
                snapshot.scan_partition(partition, start, end, range.reverse, limit, may_copy)
            }
            Data::Transaction(transaction) => transaction.scan(start, end, range.reverse, limit),
            _ => return self.misused("store.scan"),
        };
        self.within_copies()?;
        let page = page.map_err(failed)?;
        let entries = page.entries.into_iter();
        Ok(store::Page {
            entries: entries
                .map(|(key, value)| store::Entry { key, value })
                .collect(),
            more: page.more,
        })
    }
}

impl shard::Host for Context {
    fn partitions(
        &mut self,
        start: Option<Vec<u8>>,
        end: Option<Vec<u8>>,
        limit: u32,
    ) -> Result<shard::PartitionPage> {
        let (start, end, limit) = (start.as_deref(), end.as_deref(), limit as usize);
        let page = match &self.call.data {
            Data::Shard(snapshot) => snapshot.partitions(start, end, limit),
            Data::Migration(migration) => migration.partitions(start, end, limit),
            _ => return self.misused("shard.partitions"),
        }
        .map_err(failed)?;
        let bytes = page.entries.iter().map(Vec::len).sum();
        self.call.copies.may(bytes);
        self.within_copies()?;
        Ok(shard::PartitionPage {
            partitions: page.entries,
            more: page.more,
        })
    }

    fn scan(&mut self, after: Option<shard::Position>, limit: u32) -> Result<shard::Page> {
        let (limit, copies) = (limit as usize, &mut self.call.copies);
        let after = after
            .as_ref()
            .map(|at| (at.partition.as_slice(), at.key.as_slice()));
        let page = match &self.call.data {
            Data::Shard(snapshot) => snapshot.scan(after, limit, |bytes| copies.may(bytes)),
            Data::Migration(migration) => migration.scan(after, limit),
            _ => return self.misused("shard.scan"),
        };
        self.within_copies()?;
        let page = page.map_err(failed)?;
        let entries = page.entries.into_iter();
        Ok(shard::Page {
            entries: entries
                .map(|((partition, key), value)| shard::Entry {
                    partition,
                    key,
                    value,
                })
                .collect(),
            more: page.more,
        })
    }

    fn get(&mut self, partition: Vec<u8>, key: Vec<u8>) -> Result<Option<Vec<u8>>> {
        let copies = &mut self.call.copies;
        let value = match &self.call.data {
            Data::Shard(snapshot) => copied(snapshot, (&partition, &key), copies),
            Data::Migration(migration) => migration.get(&partition, &key),
            _ => return self.misused("shard.get"),
        };
        self.within_copies()?;
        value.map_err(failed)
    }

    fn set_many(
        &mut self,
        entries: Vec<shard::Entry>,
    ) -> Result<std::result::Result<(), shard::Error>> {
        match &mut self.call.data {
            Data::Migration(migration) => {
                let entries: Vec<_> = entries
                    .into_iter()
                    .map(|entry| ((entry.partition, entry.key), entry.value))
                    .collect();
                match migration.set_many(&entries) {
                    Ok(()) => Ok(Ok(())),
                    Err(WriteError::NoSuchPartition) => Ok(Err(shard::Error::NoSuchPartition)),
                    Err(error) => told(error).map(|error| Err(shard::Error::Store(error))),
                }
            }
            Data::Shard(_) => Ok(Err(shard::Error::Store(store::Error::ReadOnly))),
            _ => self.misused("shard.set-many"),
        }
    }

    fn delete_many(
        &mut self,
        positions: Vec<shard::Position>,
    ) -> Result<std::result::Result<u32, shard::Error>> {
        match &mut self.call.data {
            Data::Migration(migration) => {
                let positions: Vec<_> = positions
                    .into_iter()
                    .map(|position| (position.partition, position.key))
                    .collect();
                match migration.delete_many(&positions) {
                    Ok(count) => Ok(Ok(count)),
                    Err(error) => told(error).map(|error| Err(shard::Error::Store(error))),
                }
            }
            Data::Shard(_) => Ok(Err(shard::Error::Store(store::Error::ReadOnly))),
            _ => self.misused("shard.delete-many"),
        }
    }
}

impl request::Host for Context {
    fn header_values(&mut self, name: String) -> Result<Vec<Vec<u8>>> {
        let request = self.request("request.header-values")?;
        let values = request.headers.get_all(name).into_iter();
        Ok(values.map(|value| value.as_bytes().to_vec()).collect())
    }

    fn headers(&mut self) -> Result<Vec<types::HeaderResult>> {
        let request = self.request("request.headers")?;
        let headers = request.headers.iter();
        Ok(headers
            .map(|(name, value)| types::HeaderResult {
                name: name.as_str().to_owned(),
                value: value.as_bytes().to_vec(),
            })
            .collect())
    }

    fn ordinal(&mut self) -> Result<u32> {
        Ok(self.environment.identity.ordinal)
    }

    fn shards(&mut self) -> Result<u32> {
        Ok(self.call.shards)
    }
}

impl settings::Host for Context {
    fn get(&mut self, name: String) -> Result<Option<Vec<u8>>> {
        Ok(self
            .environment
            .files
            .get(&name)
            .map(|content| content.to_vec()))
    }

    fn names(&mut self) -> Result<Vec<String>> {
        Ok(self.environment.files.keys().cloned().collect())
    }
}

impl secrets::Host for Context {
    fn get(&mut self, name: String) -> Result<Option<Resource<SecretHandle>>> {
        if !self.may_see_secrets() {
            return self.misused("secrets.get");
        }
        let Some(secret) = self.environment.secrets.for_guest(&name) else {
            return Ok(None);
        };
        Ok(Some(self.table.push(SecretHandle(secret))?))
    }
}

impl secrets::HostSecret for Context {
    fn reveal(&mut self, secret: Resource<SecretHandle>) -> Result<Vec<u8>> {
        if !self.may_see_secrets() {
            return self.misused("secret.reveal");
        }
        Ok(self.table.get(&secret)?.0.reveal().to_vec())
    }

    fn drop(&mut self, secret: Resource<SecretHandle>) -> Result<()> {
        self.table.delete(secret)?;
        Ok(())
    }
}

impl log::Host for Context {
    fn write(&mut self, level: log::Level, message: String) -> Result<()> {
        let level = match level {
            log::Level::Debug => Level::DEBUG,
            log::Level::Info => Level::INFO,
            log::Level::Warn => Level::WARN,
            log::Level::Error => Level::ERROR,
        };
        self.lines.write(level, &message);
        Ok(())
    }
}
