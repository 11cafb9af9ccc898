//! A store in memory, for data that is migrated before it is stored.

use std::sync::Arc;

use redb::backends::InMemoryBackend;
use redb::{Database, StorageError};

use super::damage::{Contained, Damage};
use super::effort::unbounded;
use super::file::{initialise, read};
use super::group::Limits;
use super::journal::Place;
use super::migration::Migration;
use super::snapshot::{ReadError, Snapshot};
use super::transfer::{Transfer, Whole, write};

/// Begins a migration of only these partitions, which must be in order. It uses no disk: the
/// caller stores the result.
///
/// # Errors
/// Only if redb fails in memory.
pub fn begin_migration_of(partitions: Vec<Whole>, limits: Limits) -> Result<Migration, ReadError> {
    begin(partitions, limits)
        .map_err(|error| ReadError(StorageError::Corrupted(format!("in memory: {error}"))))
}

fn begin(partitions: Vec<Whole>, limits: Limits) -> Result<Migration, redb::Error> {
    let database = Database::builder().create_with_backend(InMemoryBackend::new())?;
    let database = Arc::new(Contained::new(database));
    initialise(&database, Some(&Place::none()))?;
    let transaction = database.begin_write()?;
    let transfer = Transfer {
        arrived: partitions,
        ..Transfer::default()
    };
    write(&transaction, &transfer).map_err(|error| error.0)?;
    transaction.commit()?;
    let stored = Arc::new(read(&database, 0).map_err(|error| error.0)?);
    let base = Snapshot::of(stored, Damage::default());
    Ok(Migration::new(
        database.begin_write()?,
        Arc::new(base),
        limits,
    ))
}

impl Migration {
    /// All partitions as the migration left them, in order.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn into_partitions(self) -> Result<Vec<Whole>, ReadError> {
        let mut partitions = Vec::<Whole>::new();
        loop {
            let last = partitions.last().and_then(|last| {
                let (key, _) = last.entries.last()?;
                Some((&last.partition[..], &key[..]))
            });
            let page = self.scan(last, usize::MAX, &mut unbounded)?;
            for ((partition, key), value) in page.entries {
                match partitions.last_mut() {
                    Some(last) if last.partition == partition => last.entries.push((key, value)),
                    _ => partitions.push(Whole {
                        partition,
                        entries: vec![(key, value)],
                    }),
                }
            }
            if !page.more {
                return Ok(partitions);
            }
        }
    }
}
