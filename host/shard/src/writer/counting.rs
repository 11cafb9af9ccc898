//! Counting the partitions that a shard still has to move in a change.

use ostrakon_protocol::Cursor;
use ostrakon_store::{ReadError, Snapshot};

use super::membership::{ChangeError, Membership};
use super::parts::first_after;

impl Membership {
    /// Counts the partitions after the cursor by reading them. Do not call it on the writer's
    /// thread or on a runtime's.
    ///
    /// # Errors
    /// When the data cannot be read.
    pub fn count_ahead(&self, snapshot: &Snapshot) -> Result<u64, ReadError> {
        if *self.shard.cursor() == Cursor::End {
            return Ok(0);
        }
        let start = first_after(self.shard.cursor());
        snapshot.count_partitions(start.as_deref())
    }

    /// Counts the partitions in batches that are not acknowledged.
    ///
    /// # Errors
    /// When the data cannot be read or a guest fails.
    pub async fn count_under_way(&self, snapshot: &Snapshot) -> Result<u64, ChangeError> {
        let mut count = 0;
        for (to, kept) in self.shard.outboxes() {
            for range in kept {
                count += self.part(snapshot, to, range).await?.len() as u64;
            }
        }
        Ok(count)
    }
}
