//! Tries a candidate's `migrate` on a copy of the shard's data.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ostrakon_base::causes::with_causes;
use ostrakon_engine::Failure;
use ostrakon_store::{Snapshot, begin_migration_of_copy};
use serde::Serialize;
use tokio::runtime::Handle;

use super::REST;
use super::runs::Of;
use super::stage::Sampling;

const LONG: &str = "copying and migrating the shard's data takes longer than rehearsal.time";

/// Held for one copy at a time: a rehearsal that was ended may still migrate its own.
static COPYING: Mutex<()> = Mutex::new(());

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
    /// The entries after it, and how many it added, removed or changed; 0 if there was no time to count
    /// them.
    pub entries: u64,
    pub changed: u64,
    /// The bytes of the keys and values of the largest partition after it.
    pub largest_partition_bytes: u64,
}

/// What `migrate` is tried on.
pub(super) struct Migrates {
    /// The schema of the data.
    pub(super) from: u32,
    pub(super) shards: u32,
    pub(super) snapshot: Arc<Snapshot>,
    /// Where the copy is made.
    pub(super) directory: PathBuf,
}

/// Tries it.
///
/// # Errors
/// If the candidate refuses to migrate, or fails.
pub(super) fn try_to(
    (candidate, _): &Of,
    migrates: Migrates,
    until: Instant,
    sampling: &Sampling,
    runtime: &Handle,
) -> Result<Migrated, String> {
    let Migrates {
        from,
        shards,
        snapshot,
        directory,
    } = migrates;
    let mut migrated = Migrated {
        from,
        to: candidate.description().schema,
        not_tried: None,
        took_ms: 0,
        entries: 0,
        changed: 0,
        largest_partition_bytes: 0,
    };
    let Ok(_copying) = COPYING.try_lock() else {
        migrated.not_tried = Some("another migration is still being tried".to_owned());
        return Ok(migrated);
    };
    let mut page = Instant::now();
    let mut go_on = |_| {
        sampling.rest(page.elapsed() * REST, until);
        page = Instant::now();
        !sampling.is_over() && page < until
    };
    let limits = (&candidate.settings().store).into();
    let begun = begin_migration_of_copy(&snapshot, &directory, limits, &mut go_on);
    // Nothing of the data is kept while it migrates.
    drop(snapshot);
    let migration = match begun {
        Ok(Some(migration)) => migration,
        Ok(None) => {
            migrated.not_tried = Some(LONG.to_owned());
            return Ok(migrated);
        }
        Err(error) => {
            migrated.not_tried = Some(with_causes(&error));
            return Ok(migrated);
        }
    };
    let began = Instant::now();
    let most = candidate.settings().guest.migrate_deadline;
    let deadline = most.min(until.saturating_duration_since(began));
    let ran = runtime.block_on(async {
        let mut lease = candidate.lease(shards).await?;
        Ok::<_, Failure>(lease.migrate_within(from, migration, deadline).await)
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
        Err(Failure::Deadline) if deadline < most => {
            migrated.not_tried = Some(LONG.to_owned());
            return Ok(migrated);
        }
        Err(failure) => return Err(format!("`migrate` fails: {failure}")),
    }
    migrated.took_ms = millis(took);
    let mut go_on = |_| !sampling.is_over() && Instant::now() < until;
    match migration.rewritten(&mut go_on) {
        Ok(None) => {}
        Ok(Some(rewritten)) => {
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
