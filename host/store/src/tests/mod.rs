//! Tests the store against a plain map, a full disk, and disks that fail and lose power.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the tests' own numbers are small"
)]

mod compaction;
mod copies;
mod damage;
mod faults;
mod journal;
mod layout;
mod oracle;
mod transfer;

use std::path::Path;
use std::sync::Arc;

use super::*;

const LIMITS: Limits = Limits {
    max_key_bytes: 16,
    max_value_bytes: 4096,
    max_partition_bytes: 1 << 20,
};

fn open(directory: &Path) -> Store {
    Store::open(Options::new(directory, 1 << 20)).expect("the store opens")
}

fn snapshot(store: &Store) -> Arc<Snapshot> {
    Arc::clone(store.snapshot().expect("the store is open"))
}

/// The space that all entries of the data file need, counted.
#[expect(clippy::used_underscore_binding, reason = "only tests read it")]
fn counted_space(snapshot: &Snapshot) -> u64 {
    space::count(&snapshot.stored._database).expect("it reads")
}

/// Commits one transaction of sets (`Some`) and deletes (`None`).
fn commit(
    store: &mut Store,
    partition: &[u8],
    changes: &[(&[u8], Option<&[u8]>)],
) -> Result<(), CommitError> {
    let base = store.snapshot_or_reopen()?;
    let mut transaction = Group::new(base).begin(partition.to_vec(), LIMITS);
    for (key, value) in changes {
        match value {
            Some(value) => transaction.set(key.to_vec(), value.to_vec()),
            None => transaction
                .delete(key.to_vec())
                .map(drop)
                .map_err(Into::into),
        }
        // A read error here stands for the commit's error.
        .map_err(|_| CommitError::Full)?;
    }
    store.commit(transaction.commit()).map(drop)
}

/// Pseudo-random numbers by xorshift64*, from a seed that a failing test prints.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}
