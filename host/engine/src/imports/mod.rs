//! Implements the contract's imports for guests' calls.

use std::sync::Arc;

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng as _, SeedableRng as _};
use ostrakon_observe::metrics::Export;
use ostrakon_store::{ReadError, WriteError};
use ostrakon_volumes::secrets::Secret;
use tracing::Level;
use wasmtime::component::Resource;

use super::bindings::ostrakon::shard::{log, request, secrets, settings, shard, store, types};
use super::clock;
use super::context::{Call, Context, Data, MAX_RANDOM};
use super::meter::{self, Meter};

/// A secret that a guest holds. Holding it does not reveal it.
#[expect(unreachable_pub, reason = "the bindings re-export it")]
pub struct SecretHandle(Secret);

type Result<T> = wasmtime::Result<T>;

/// The streams of random bytes of `route` and `gather`. `handle` has that of its shard's ordinal.
const ROUTE: u64 = u64::MAX;
const GATHER: u64 = u64::MAX - 1;

/// Converts a failed write into the guest's error, or into the end of the call.
fn told(error: WriteError) -> Result<store::Error> {
    Ok(match error {
        WriteError::KeySize(limit) => store::Error::KeySize(limit),
        WriteError::ValueSize(limit) => store::Error::ValueSize(limit),
        WriteError::PartitionFull(limit) => store::Error::PartitionFull(limit),
        // Only a migration can cause this; the import `shard` handles it.
        WriteError::NoSuchPartition => return Err(wasmtime::Error::new(error)),
        WriteError::Read(error) => return Err(failed(error)),
    })
}

fn failed(error: ReadError) -> wasmtime::Error {
    wasmtime::Error::new(error)
}

impl types::Host for Context {}

impl Context {
    /// The call's data, and a meter for an import that processes much of it.
    fn metered(&mut self) -> (&mut Data, Meter<'_>) {
        let most = meter::most(&self.environment.settings);
        let Call {
            data, time, copies, ..
        } = &mut self.call;
        (data, Meter::new(time, copies, most))
    }

    /// Ends the call if its changes take too much memory.
    fn check_held(&self) -> Result<()> {
        match &self.call.data {
            Data::Transaction(transaction) => {
                meter::check_held(transaction.held(), &self.environment.settings)
            }
            _ => Ok(()),
        }
    }
}

impl store::Host for Context {
    fn get(&mut self, key: Vec<u8>) -> Result<Option<Vec<u8>>> {
        let (data, mut meter) = self.metered();
        let mut copy = |bytes| meter.copy(bytes);
        let value = match data {
            Data::Partition(read, snapshot) => snapshot.get_if(read.stored(), &key, &mut copy),
            Data::Transaction(transaction) => transaction.get_if(&key, &mut copy),
            _ => return self.misused("store.get"),
        };
        meter.finish("store.get")?;
        value.map_err(failed)
    }

    fn get_many(&mut self, keys: Vec<Vec<u8>>) -> Result<Vec<Option<Vec<u8>>>> {
        let most = meter::most_elements(&self.environment.settings);
        let (data, mut meter) = self.metered();
        // Allocate the whole capacity at once: growing would need several times as much.
        let mut values = Vec::with_capacity(keys.len().min(most));
        for key in &keys {
            let mut collect = |bytes| meter.collect(bytes);
            let value = match data {
                Data::Partition(read, snapshot) => {
                    snapshot.get_if(read.stored(), key, &mut collect)
                }
                Data::Transaction(transaction) => transaction.get_if(key, &mut collect),
                _ => break,
            };
            values.push(value.map_err(failed)?);
            if !meter.goes_on() {
                break;
            }
        }
        meter.finish("store.get-many")?;
        match data {
            Data::Partition(..) | Data::Transaction(_) => Ok(values),
            _ => self.misused("store.get-many"),
        }
    }

    fn set(
        &mut self,
        key: Vec<u8>,
        value: Vec<u8>,
    ) -> Result<std::result::Result<(), store::Error>> {
        let (data, mut meter) = self.metered();
        match data {
            Data::Transaction(transaction) => {
                let set = transaction.set_if(key, value, &mut |bytes| meter.go_on(bytes));
                meter.finish("store.set")?;
                match set {
                    Ok(()) => self.check_held().map(Ok),
                    Err(error) => told(error).map(Err),
                }
            }
            Data::Partition(..) => Ok(Err(store::Error::ReadOnly)),
            _ => self.misused("store.set"),
        }
    }

    fn set_many(
        &mut self,
        entries: Vec<store::Entry>,
    ) -> Result<std::result::Result<(), store::Error>> {
        let most = meter::most_held(&self.environment.settings);
        let (data, mut meter) = self.metered();
        match data {
            Data::Transaction(transaction) => {
                let entries = entries.into_iter().map(|entry| (entry.key, entry.value));
                let mut go_on = |bytes| meter.go_on(bytes);
                let set = transaction.set_many(entries.collect(), most, &mut go_on);
                meter.finish("store.set-many")?;
                match set {
                    Ok(()) => self.check_held().map(Ok),
                    Err(error) => told(error).map(Err),
                }
            }
            Data::Partition(..) => Ok(Err(store::Error::ReadOnly)),
            _ => self.misused("store.set-many"),
        }
    }

    fn delete(&mut self, key: Vec<u8>) -> Result<std::result::Result<bool, store::Error>> {
        let (data, mut meter) = self.metered();
        match data {
            Data::Transaction(transaction) => {
                let deleted = transaction.delete_if(key, &mut |bytes| meter.go_on(bytes));
                meter.finish("store.delete")?;
                let deleted = deleted.map_err(failed)?;
                self.check_held()?;
                Ok(Ok(deleted))
            }
            Data::Partition(..) => Ok(Err(store::Error::ReadOnly)),
            _ => self.misused("store.delete"),
        }
    }

    fn delete_many(
        &mut self,
        keys: Vec<Vec<u8>>,
    ) -> Result<std::result::Result<u32, store::Error>> {
        let most = meter::most_held(&self.environment.settings);
        let (data, mut meter) = self.metered();
        match data {
            Data::Transaction(transaction) => {
                let mut count = 0;
                for key in keys {
                    if !meter.goes_on() || transaction.held() > most {
                        break;
                    }
                    let deleted = transaction.delete_if(key, &mut |bytes| meter.go_on(bytes));
                    count += u32::from(deleted.map_err(failed)?);
                }
                meter.finish("store.delete-many")?;
                self.check_held()?;
                Ok(Ok(count))
            }
            Data::Partition(..) => Ok(Err(store::Error::ReadOnly)),
            _ => self.misused("store.delete-many"),
        }
    }

    fn scan(&mut self, range: store::Range, limit: u32) -> Result<store::Page> {
        let (start, end) = (range.start.as_deref(), range.end.as_deref());
        let (reverse, limit) = (range.reverse, limit as usize);
        let (data, mut meter) = self.metered();
        let mut copy = |bytes| meter.copy(bytes);
        let page = match data {
            Data::Partition(read, snapshot) => {
                snapshot.scan_partition(read.stored(), start, end, reverse, limit, &mut copy)
            }
            Data::Transaction(transaction) => {
                transaction.scan(start, end, reverse, limit, &mut copy)
            }
            _ => return self.misused("store.scan"),
        }
        .map_err(failed)?;
        meter.finish("store.scan")?;
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
        let (data, mut meter) = self.metered();
        let mut go_on = |bytes| meter.go_on(bytes);
        let page = match data {
            Data::Shard(snapshot) => snapshot.partitions(start, end, limit, &mut go_on),
            Data::Migration(migration) => migration.partitions(start, end, limit, &mut go_on),
            _ => return self.misused("shard.partitions"),
        }
        .map_err(failed)?;
        let bytes = page.entries.iter().map(Vec::len).sum();
        meter.copy(bytes);
        meter.finish("shard.partitions")?;
        Ok(shard::PartitionPage {
            partitions: page.entries,
            more: page.more,
        })
    }

    fn scan(&mut self, after: Option<shard::Position>, limit: u32) -> Result<shard::Page> {
        let limit = limit as usize;
        let after = after
            .as_ref()
            .map(|at| (at.partition.as_slice(), at.key.as_slice()));
        let (data, mut meter) = self.metered();
        let mut copy = |bytes| meter.copy(bytes);
        let page = match data {
            Data::Shard(snapshot) => snapshot.scan(after, limit, &mut copy),
            Data::Migration(migration) => migration.scan(after, limit, &mut copy),
            _ => return self.misused("shard.scan"),
        }
        .map_err(failed)?;
        meter.finish("shard.scan")?;
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
        let (data, mut meter) = self.metered();
        let mut copy = |bytes| meter.copy(bytes);
        let value = match data {
            Data::Shard(snapshot) => snapshot.get_if(&partition, &key, &mut copy),
            Data::Migration(migration) => migration.get_if(&partition, &key, &mut copy),
            _ => return self.misused("shard.get"),
        };
        meter.finish("shard.get")?;
        value.map_err(failed)
    }

    fn set_many(
        &mut self,
        entries: Vec<shard::Entry>,
    ) -> Result<std::result::Result<(), shard::Error>> {
        let (data, mut meter) = self.metered();
        match data {
            Data::Migration(migration) => {
                let entries: Vec<_> = entries
                    .into_iter()
                    .map(|entry| ((entry.partition, entry.key), entry.value))
                    .collect();
                let set = migration.set_many(&entries, &mut |bytes| meter.go_on(bytes));
                meter.finish("shard.set-many")?;
                match set {
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
        let (data, mut meter) = self.metered();
        match data {
            Data::Migration(migration) => {
                let positions: Vec<_> = positions
                    .into_iter()
                    .map(|position| (position.partition, position.key))
                    .collect();
                let deleted = migration.delete_many(&positions, &mut |bytes| meter.go_on(bytes));
                meter.finish("shard.delete-many")?;
                deleted.map(Ok).map_err(failed)
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

    fn partition(&mut self) -> Result<Option<Vec<u8>>> {
        if self.call.export != Some(Export::Handle) {
            return self.misused("request.partition");
        }
        Ok(match &self.call.data {
            Data::Partition(read, _) => Some(read.partition.clone()),
            Data::Transaction(transaction) => Some(transaction.partition().to_vec()),
            _ => None,
        })
    }

    fn now(&mut self) -> Result<u64> {
        if let Some(now) = self.call.now {
            return Ok(now);
        }
        let now = match (&self.call.export, &self.call.data, &self.call.request) {
            // A write runs once, and after all writes before it.
            (Some(Export::Handle), Data::Transaction(_), _) | (Some(Export::Migrate), ..) => {
                clock::now()
            }
            (Some(Export::Handle | Export::Gather), _, Some(request)) => {
                request.kept.instant(clock::now)
            }
            _ => return self.misused("request.now"),
        };
        self.call.now = Some(now);
        Ok(now)
    }

    fn random(&mut self, length: u32) -> Result<Vec<u8>> {
        let stream = match self.call.export {
            Some(Export::Route) => ROUTE,
            Some(Export::Gather) => GATHER,
            _ => u64::from(self.environment.identity.ordinal),
        };
        let request = self.request("request.random")?;
        if length > MAX_RANDOM {
            wasmtime::bail!(
                "`request.random` has more than {MAX_RANDOM} bytes in one call: ask for less at once"
            );
        }
        let request = Arc::clone(request);
        let random = self.call.random.get_or_insert_with(|| {
            let mut random = ChaCha20Rng::from_seed(request.kept.seed());
            random.set_stream(stream);
            Box::new(random)
        });
        let mut bytes = vec![0; length as usize];
        random.fill_bytes(&mut bytes);
        Ok(bytes)
    }

    fn relax(&mut self) -> Result<()> {
        if self.call.export != Some(Export::Route) {
            return self.misused("request.relax");
        }
        self.relaxed = true;
        Ok(())
    }

    fn part_generation(&mut self, shard: u32) -> Result<Option<request::Generation>> {
        let Data::Parts(origins) = &self.call.data else {
            return self.misused("request.part-generation");
        };
        Ok(origins
            .get(&shard)
            .map(|(origin, same)| request::Generation {
                same: *same,
                description: types::Description {
                    name: origin.description.name.clone(),
                    version: origin.description.version.clone(),
                    sharding: origin.description.sharding,
                    schema: origin.description.schema,
                },
            }))
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

#[cfg(test)]
mod tests;
