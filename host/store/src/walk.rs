//! Reads many partitions at once, in key order.

use std::ops::Bound;

use super::SMALL;
use super::snapshot::{Page, PageBuilder, ReadError, Snapshot, in_order, successor};
use super::transfer::Whole;

/// From this many entries on, seeking to the next wanted partition is quicker than walking to it.
const SKIPPED: usize = 8;

impl Snapshot {
    /// Partition keys from `start` (included), each with the total bytes of its keys and values;
    /// at most `limit` and [`PAGE_BYTES`](super::PAGE_BYTES) of keys.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn measure(
        &self,
        start: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page<(Vec<u8>, u64)>, ReadError> {
        self.damage.contain(|| self.measure_as_it_is(start, limit))
    }

    fn measure_as_it_is(
        &self,
        start: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page<(Vec<u8>, u64)>, ReadError> {
        let mut page = PageBuilder::new(limit);
        let mut from = start.unwrap_or_default().to_vec();
        'seek: loop {
            let mut under_way: Option<(Vec<u8>, u64)> = None;
            let mut walked = 1;
            let all = (Bound::Included((&from[..], &[][..])), Bound::Unbounded);
            for entry in self.merged(all, false)? {
                let entry = entry?;
                let ((partition, key), value) = (entry.position(), entry.value());
                let before = under_way.as_ref().map_or(&from, |(before, _)| before);
                in_order(&before[..], partition)?;
                let bytes = (key.len() + value.len()) as u64;
                match &mut under_way {
                    Some((of, sum)) if of == partition => {
                        *sum += bytes;
                        walked += 1;
                        // The partition's size is recorded: seeking past it is quicker.
                        if walked > SMALL {
                            let bytes = self.partition_bytes(partition)?;
                            from = successor(partition);
                            if !page.push(from.len(), || (partition.to_vec(), bytes)) {
                                return Ok(page.finish());
                            }
                            continue 'seek;
                        }
                    }
                    _ => {
                        if let Some(measured) = under_way.replace((partition.to_vec(), bytes))
                            && !page.push(measured.0.len(), || measured)
                        {
                            return Ok(page.finish());
                        }
                        walked = 1;
                    }
                }
            }
            if let Some(measured) = under_way {
                page.push(measured.0.len(), || measured);
            }
            return Ok(page.finish());
        }
    }

    /// The partitions with these keys that exist, whole. The keys must be in order.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn whole(&self, partitions: &[Vec<u8>]) -> Result<Vec<Whole>, ReadError> {
        self.damage.contain(|| self.whole_as_it_is(partitions))
    }

    fn whole_as_it_is(&self, partitions: &[Vec<u8>]) -> Result<Vec<Whole>, ReadError> {
        debug_assert!(partitions.is_sorted());
        let mut found = Vec::<Whole>::with_capacity(partitions.len());
        let mut wanted = partitions;
        'seek: while let Some(first) = wanted.first() {
            let from = (Bound::Included((&first[..], &[][..])), Bound::Unbounded);
            let mut skipped = 0;
            for entry in self.merged(from, false)? {
                let entry = entry?;
                let (partition, key) = entry.position();
                // This guarantees that each seek goes beyond the one before.
                in_order(&first[..], partition)?;
                while wanted
                    .first()
                    .is_some_and(|first| first.as_slice() < partition)
                {
                    wanted = &wanted[1..];
                }
                let Some(next) = wanted.first() else {
                    return Ok(found);
                };
                if next == partition {
                    skipped = 0;
                    let entry = (key.to_vec(), entry.value().to_vec());
                    match found.last_mut() {
                        Some(last) if last.partition == partition => last.entries.push(entry),
                        _ => found.push(Whole {
                            partition: partition.to_vec(),
                            entries: vec![entry],
                        }),
                    }
                } else {
                    skipped += 1;
                    if skipped == SKIPPED {
                        continue 'seek;
                    }
                }
            }
            return Ok(found);
        }
        Ok(found)
    }
}
