//! Durable groups without a store: a thread takes all entries that wait, makes one durable write of
//! them, and lets their requests go.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::mpsc::{self, Receiver, Sender};
use std::{iter, thread};

use anyhow::Context as _;
use bytes::Bytes;
use hyper::Uri;
use tempfile::NamedTempFile;
use tokio::sync::oneshot;

/// The length of the file, whose zeros are overwritten again and again.
const LENGTH: usize = 64 << 20;
/// A write starts and ends at such a boundary, so that it never touches what is durable already.
const BLOCK: usize = 4096;

/// The flag on all common architectures. rustix 1.1's `OFlags::DSYNC` is `O_SYNC`, which also makes the
/// file's times durable.
const O_DSYNC: i32 = 0o10000;

/// A handle to the thread that writes.
#[derive(Clone, Debug)]
pub(crate) struct Groups(Sender<Entry>);

#[derive(Debug)]
struct Entry {
    key: Uri,
    value: Bytes,
    done: oneshot::Sender<()>,
}

impl Groups {
    /// Makes the file, in the directory for temporary files, and starts the thread.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let mut named = NamedTempFile::new()?;
        named.write_all(&vec![0; LENGTH])?;
        named.as_file().sync_all()?;
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(O_DSYNC)
            .open(named.path())?;
        let (sender, entries) = mpsc::channel();
        // The file's name is gone now, so that it goes with the process.
        thread::spawn(move || write_groups(&file, &entries));
        Ok(Self(sender))
    }

    /// Returns once the entry is durable.
    pub(crate) async fn save(&self, key: Uri, value: Bytes) -> anyhow::Result<()> {
        let (done, durable) = oneshot::channel();
        self.0.send(Entry { key, value, done })?;
        durable.await.context("the entry was not written")
    }
}

/// Writes until there are no more senders, or the disk fails.
fn write_groups(file: &File, entries: &Receiver<Entry>) -> io::Result<()> {
    let mut start = 0;
    while let Ok(first) = entries.recv() {
        let group: Vec<_> = iter::once(first).chain(entries.try_iter()).collect();
        let mut block = Vec::with_capacity(BLOCK);
        for entry in &group {
            block.extend_from_slice(entry.key.path().as_bytes());
            block.extend_from_slice(&entry.value);
        }
        block.resize(block.len().next_multiple_of(BLOCK), 0);
        if start + block.len() > LENGTH {
            start = 0;
        }
        file.write_all_at(&block, u64::try_from(start).unwrap_or(u64::MAX))?;
        start += block.len();
        for entry in group {
            let _client_is_gone = entry.done.send(());
        }
    }
    Ok(())
}
