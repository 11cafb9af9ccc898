//! Tries a candidate's `migrate` on a copy of the shard's data.

use std::path::Path;
use std::time::{Duration, Instant};

use ostrakon_base::causes::with_causes;
use ostrakon_engine::Failure;
use ostrakon_store::{Snapshot, begin_migration_of_copy};
use serde::Serialize;
use tokio::runtime::Handle;

use super::REST;
use super::runs::Of;
use super::stage::Sampling;

/// What came out of trying `migrate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Migrated {
    /// The schema of the stored data, and the candidate's.
    pub from: u32,
    pub to: u32,
    /// Why it was not tried; then the rest is 0. The candidate is not refused for that.
    pub not_tried: Option<String>,
    /// How long `migrate` took, in milliseconds: about as long writes will wait.
    pub took_ms: u64,
    /// The entries after it, and how many it added, removed or changed.
    pub entries: u64,
    pub changed: u64,
    /// The bytes of the keys and values of the largest partition after it.
    pub largest_partition_bytes: u64,
}

/// Where the copy is made, and of what.
pub(super) struct Data<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) directory: &'a Path,
    pub(super) until: Instant,
}

/// Tries it.
///
/// # Errors
/// If the candidate refuses to migrate, or fails.
pub(super) fn try_to(
    (candidate, _): &Of,
    from: u32,
    data: &Data<'_>,
    sampling: &Sampling,
    runtime: &Handle,
) -> Result<Migrated, String> {
    let mut migrated = Migrated {
        from,
        to: candidate.description().schema,
        not_tried: None,
        took_ms: 0,
        entries: 0,
        changed: 0,
        largest_partition_bytes: 0,
    };
    let mut page = Instant::now();
    let mut go_on = |_| {
        sampling.rest(page.elapsed() * REST, data.until);
        page = Instant::now();
        !sampling.is_over() && page < data.until
    };
    let limits = (&candidate.settings().store).into();
    let begun = begin_migration_of_copy(data.snapshot, data.directory, limits, &mut go_on);
    let migration = match begun {
        Ok(Some(migration)) => migration,
        Ok(None) => {
            migrated.not_tried =
                Some("copying the shard's data takes longer than rehearsal.time".to_owned());
            return Ok(migrated);
        }
        Err(error) => {
            migrated.not_tried = Some(with_causes(&error));
            return Ok(migrated);
        }
    };
    let began = Instant::now();
    let ran = runtime.block_on(async {
        let mut lease = candidate.lease(1).await?;
        Ok::<_, Failure>(lease.migrate(from, migration).await)
    });
    let (migration, said) = ran.map_err(|failure| failure.to_string())?;
    let took = began.elapsed();
    match said {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => return Err(format!("`migrate` refuses: {reason}")),
        Err(Failure::Store(error)) => {
            migrated.not_tried = Some(with_causes(&error));
            return Ok(migrated);
        }
        Err(failure) => return Err(format!("`migrate` fails: {failure}")),
    }
    migrated.took_ms = millis(took);
    match migration.rewritten() {
        Ok(rewritten) => {
            migrated.entries = rewritten.entries;
            migrated.changed = rewritten.changed;
            migrated.largest_partition_bytes = rewritten.largest_partition;
        }
        Err(error) => {
            tracing::warn!(%error, "what a migration that was tried has changed is not known");
        }
    }
    Ok(migrated)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
