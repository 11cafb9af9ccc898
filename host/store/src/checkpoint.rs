//! Brings the data file up to date with the journal, on a thread of its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use redb::Database;

use super::damage::{Contained, Damage};
use super::failure::CommitFailure;
use super::file::{begin, write_memtable, write_record};
use super::journal::{Made, Order, Place};
use super::memtable::Memtable;
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
            write_memtable(&transaction, &self.memtable, None)?;
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
/// checkpoint.
pub(super) enum Background {
    Threads(Threads),
    /// The caller does them when it asks what was done.
    Here(VecDeque<Waiting>),
}

/// What is to be done without a thread.
pub(super) enum Waiting {
    /// How often the caller asks before it is done: commits come in between, as they do while a
    /// thread works.
    Checkpoint(Checkpoint, u32),
    Segment(Order),
}

/// How often a caller without threads asks before a checkpoint is done.
const PATIENCE: u32 = 5;

pub(super) struct Threads {
    checkpoints: Option<mpsc::Sender<Checkpoint>>,
    segments: Option<mpsc::Sender<Order>>,
    done: mpsc::Receiver<Done>,
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
        Ok(if with_threads {
            Self::Threads(Threads::start()?)
        } else {
            Self::Here(VecDeque::new())
        })
    }

    pub(super) fn checkpoint(&mut self, checkpoint: Checkpoint) {
        match self {
            // The thread ends only when this is dropped.
            Self::Threads(threads) => send(threads.checkpoints.as_ref(), checkpoint),
            Self::Here(waiting) => waiting.push_back(Waiting::Checkpoint(checkpoint, PATIENCE)),
        }
    }

    pub(super) fn segment(&mut self, order: Order) {
        match self {
            Self::Threads(threads) => send(threads.segments.as_ref(), order),
            Self::Here(waiting) => waiting.push_front(Waiting::Segment(order)),
        }
    }

    /// What was done, if anything was.
    pub(super) fn done(&mut self) -> Option<Done> {
        match self {
            Self::Threads(threads) => threads.done.try_recv().ok(),
            Self::Here(waiting) => match waiting.front_mut() {
                Some(Waiting::Checkpoint(_, patience)) if *patience > 0 => {
                    *patience -= 1;
                    None
                }
                _ => waiting.pop_front().map(Waiting::run),
            },
        }
    }

    /// Waits until something is done, but no longer than this.
    pub(super) fn wait(&mut self, most: Duration) -> Option<Done> {
        match self {
            Self::Threads(threads) => threads.done.recv_timeout(most).ok(),
            Self::Here(waiting) => waiting.pop_front().map(Waiting::run),
        }
    }
}

fn send<T>(to: Option<&mpsc::Sender<T>>, what: T) {
    let sent = to.map(|to| to.send(what));
    debug_assert!(matches!(sent, Some(Ok(()))), "the thread runs");
}

impl Waiting {
    fn run(self) -> Done {
        match self {
            Self::Checkpoint(checkpoint, _) => Done::Checkpoint(checkpoint.run()),
            Self::Segment(order) => Done::Segment(order.run()),
        }
    }
}

impl Threads {
    fn start() -> std::io::Result<Self> {
        let (sender, done) = mpsc::channel();
        let (checkpoints, to_write) = mpsc::channel();
        let (segments, to_make) = mpsc::channel::<Order>();
        let (written, made) = (sender.clone(), sender);
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
            done,
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
        // To drop a large memtable takes long, so readers should rarely be those who do.
        retired.retain(|memtable| Arc::strong_count(memtable) > 1);
    }
}

impl Drop for Threads {
    /// Waits for the threads: nothing may write to the files after the store was dropped.
    fn drop(&mut self) {
        (self.checkpoints, self.segments) = (None, None);
        for thread in self.running.drain(..) {
            // A panic in it was reported.
            let _ = thread.join();
        }
    }
}
