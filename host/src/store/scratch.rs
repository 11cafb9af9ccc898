//! A store in memory, for data that is migrated before it is stored.

use std::sync::Arc;

use redb::backends::InMemoryBackend;
use redb::{Database, StorageError};

use super::file::{initialise, read};
use super::group::Limits;
use super::migration::Migration;
use super::snapshot::{Position, ReadError};
use super::transfer::{Transfer, write};

/// Begins a migration of these entries alone, in order. It touches no disk:
/// nothing is stored until somebody takes what it made of them.
///
/// # Errors
/// Only where redb fails in memory.
pub fn begin_migration_of(
    entries: Vec<(Position, Vec<u8>)>,
    limits: Limits,
) -> Result<Migration, ReadError> {
    begin(entries, limits)
        .map_err(|error| ReadError(StorageError::Corrupted(format!("in memory: {error}"))))
}

fn begin(entries: Vec<(Position, Vec<u8>)>, limits: Limits) -> Result<Migration, redb::Error> {
    let database = Database::builder().create_with_backend(InMemoryBackend::new())?;
    initialise(&database)?;
    let transaction = database.begin_write()?;
    let transfer = Transfer {
        arrived: entries,
        ..Transfer::default()
    };
    write(&transaction, &transfer).map_err(|error| error.0)?;
    transaction.commit()?;
    let base = Arc::new(read(&database, 0).map_err(|error| error.0)?);
    Ok(Migration::new(database.begin_write()?, base, limits))
}

impl Migration {
    /// All entries as the migration left them, in order.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn into_entries(self) -> Result<Vec<(Position, Vec<u8>)>, ReadError> {
        let mut entries: Vec<(Position, Vec<u8>)> = Vec::new();
        loop {
            let last = entries
                .last()
                .map(|((partition, key), _)| (&partition[..], &key[..]));
            let page = self.scan(last, usize::MAX)?;
            let more = page.more;
            entries.extend(page.entries);
            if !more {
                return Ok(entries);
            }
        }
    }
}
