//! Brings the data file up to date with the journal, on a thread of its own.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use redb::Database;

use super::damage::{Contained, Damage};
use super::failure::CommitFailure;
use super::file::{begin, write_memtable, write_record};
use super::journal::{Made, Order, Place};
use super::memtable::{ALL, Memtable};
use super::store::Record;

/// How often it is looked whether somebody still reads what was written.
const RETIRED: Duration = Duration::from_millis(100);

/// A memtable, to be written in one durable transaction.
pub(super) struct Checkpoint {
    pub(super) database: Arc<Contained<Database>>,
    pub(super) damage: Damage,
    pub(super) memtable: Arc<Memtable>,
    /// The record as of the memtable's last commit.
    pub(super) record: Record,
    /// The place after it.
    pub(super) place: Place,
}

/// How a checkpoint ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) result: Result<(), CommitFailure>,
    pub(super) took: Duration,
}

impl Checkpoint {
    pub(super) fn run(&self) -> Ended {
        let began = Instant::now();
        let result = self.damage.contain(|| {
            let transaction = begin(&self.database)?;
            write_memtable(&transaction, &self.memtable, &ALL)?;
            write_record(&transaction, &self.record, &self.place)?;
            transaction.commit()?;
            Ok(())
        });
        Ended {
            result,
            took: began.elapsed(),
        }
    }
}

/// What was done in the background.
#[derive(Debug)]
pub(super) enum Done {
    Checkpoint(Ended),
    Segment(Made),
}

/// Checkpoints and new segments, each on a thread of its own: a segment must not wait for a
/// checkpoint. Without threads, the caller does them at once.
pub(super) struct Background {
    threads: Option<Threads>,
    sender: mpsc::Sender<Done>,
    done: mpsc::Receiver<Done>,
}

struct Threads {
    checkpoints: Option<mpsc::Sender<Checkpoint>>,
    segments: Option<mpsc::Sender<Order>>,
    running: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Background {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Background").finish_non_exhaustive()
    }
}

impl Background {
    /// # Errors
    /// If a thread cannot be started.
    pub(super) fn start(with_threads: bool) -> std::io::Result<Self> {
        let (sender, done) = mpsc::channel();
        let threads = with_threads.then(|| Threads::start(&sender)).transpose()?;
        Ok(Self {
            threads,
            sender,
            done,
        })
    }

    pub(super) fn checkpoint(&self, checkpoint: Checkpoint) {
        let sender = self
            .threads
            .as_ref()
            .and_then(|threads| threads.checkpoints.as_ref());
        match sender {
            // The thread ends only when this is dropped.
            Some(sender) => drop(sender.send(checkpoint)),
            None => drop(self.sender.send(Done::Checkpoint(checkpoint.run()))),
        }
    }

    pub(super) fn segment(&self, order: Order) {
        let sender = self
            .threads
            .as_ref()
            .and_then(|threads| threads.segments.as_ref());
        match sender {
            Some(sender) => drop(sender.send(order)),
            None => drop(self.sender.send(Done::Segment(order.run()))),
        }
    }

    /// What was done, if anything was.
    pub(super) fn done(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }

    /// Waits until something is done, but no longer than this.
    pub(super) fn wait(&self, most: Duration) -> Option<Done> {
        self.done.recv_timeout(most).ok()
    }
}

impl Threads {
    fn start(done: &mpsc::Sender<Done>) -> std::io::Result<Self> {
        let (checkpoints, to_write) = mpsc::channel();
        let (segments, to_make) = mpsc::channel::<Order>();
        let (written, made) = (done.clone(), done.clone());
        let writing = thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || write(&to_write, &written))?;
        let making = thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || {
                for order in to_make {
                    let _ = made.send(Done::Segment(order.run()));
                }
            })?;
        Ok(Self {
            checkpoints: Some(checkpoints),
            segments: Some(segments),
            running: vec![writing, making],
        })
    }
}

/// Writes checkpoints until there will be no more.
fn write(checkpoints: &mpsc::Receiver<Checkpoint>, done: &mpsc::Sender<Done>) {
    let mut retired: Vec<Arc<Memtable>> = Vec::new();
    loop {
        match checkpoints.recv_timeout(if retired.is_empty() {
            Duration::MAX
        } else {
            RETIRED
        }) {
            Ok(checkpoint) => {
                let ended = checkpoint.run();
                let Checkpoint { memtable, .. } = checkpoint;
                let _ = done.send(Done::Checkpoint(ended));
                retired.push(memtable);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // To drop a large memtable takes long, so no reader shall be the one who does.
        retired.retain(|memtable| Arc::strong_count(memtable) > 1);
    }
}

impl Drop for Background {
    /// Waits for the threads: nothing may write to the files after the store was dropped.
    fn drop(&mut self) {
        let Some(threads) = &mut self.threads else {
            return;
        };
        (threads.checkpoints, threads.segments) = (None, None);
        for thread in threads.running.drain(..) {
            // A panic in it was reported.
            let _ = thread.join();
        }
    }
}
