//! Brings the data file up to date with the journal, on a thread of its own.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ostrakon_base::priority::lower_priority;
use ostrakon_observe::telemetry;
use redb::{Database, StorageError};

use super::compaction::{CompactError, Compaction, Notes, Stage, Stopped, Switched};
use super::damage::{Contained, Damage};
use super::disk::sync_directory;
use super::failure::CommitFailure;
use super::file::{begin, write_memtable, write_record};
use super::held::Identity;
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
    /// The data directory, if it is not known whether the data file's name is on the disk.
    pub(super) unsynced: Option<PathBuf>,
    /// Where a compaction learns what changes.
    pub(super) notes: Option<Arc<Notes>>,
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
            if let Some(directory) = &self.unsynced {
                sync_directory(directory).map_err(StorageError::Io)?;
            }
            let transaction = begin(&self.database)?;
            write_memtable(&transaction, &self.memtable, None)?;
            write_record(&transaction, &self.record, &self.place)?;
            match &self.notes {
                Some(notes) => notes.commit(&self.memtable, || transaction.commit())?,
                None => transaction.commit()?,
            }
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
    /// Everything was copied to a second data file, or it could not be.
    Copied(Result<Box<Compaction>, CompactError>),
    /// The second data file is in the place of the first, or it could not be put there.
    Switched(Result<Switched, CompactError>),
}

/// What the compactions' thread does.
pub(super) enum Compact {
    Copy(Box<Compaction>),
    /// To remove what was copied.
    Discard(Box<Compaction>),
}

/// Checkpoints, new segments and compactions, each on a thread of its own: a segment must not wait
/// for a checkpoint, nor that for a compaction.
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
    Compact(Compact),
    Finish(Finish),
}

/// The end of a compaction. Writes may wait for it, so it runs at the priority of checkpoints.
pub(super) struct Finish {
    pub(super) compaction: Box<Compaction>,
    /// The number of the file's next opening.
    pub(super) opening: u64,
    /// The file whose place it takes.
    pub(super) first: Identity,
}

impl Finish {
    fn run(self) -> Done {
        Done::Switched(self.compaction.finish(self.opening, self.first))
    }
}

/// How often a caller without threads asks before a checkpoint is done.
const PATIENCE: u32 = 5;

pub(super) struct Threads {
    checkpoints: Option<mpsc::Sender<ToDo>>,
    segments: Option<mpsc::Sender<Order>>,
    /// Starts with the first compaction.
    compactions: Option<mpsc::Sender<Compact>>,
    /// Those of the last compaction.
    notes: Option<Arc<Notes>>,
    done: mpsc::Receiver<Done>,
    reports: mpsc::Sender<Done>,
    running: Vec<JoinHandle<()>>,
}

/// What the checkpoints' thread does.
enum ToDo {
    Write(Checkpoint),
    Finish(Finish),
    /// To close a data file that another one has replaced, once nobody reads it.
    Close(Replaced),
}

/// A data file that another one has replaced.
pub(super) struct Replaced {
    pub(super) database: Arc<Contained<Database>>,
    pub(super) shut: Arc<AtomicBool>,
}

impl Replaced {
    /// Whether somebody reads it. If nobody does, it is not written to any more either: redb would
    /// do so when it is closed.
    fn is_read(&self) -> bool {
        let is_read = Arc::strong_count(&self.database) > 1;
        if !is_read {
            self.shut.store(true, Ordering::Release);
        }
        is_read
    }
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
            Self::Threads(threads) => send(threads.checkpoints.as_ref(), ToDo::Write(checkpoint)),
            Self::Here(waiting) => waiting.push_back(Waiting::Checkpoint(checkpoint, PATIENCE)),
        }
    }

    /// Closes a data file that another one has replaced, once nobody reads it.
    pub(super) fn close(&mut self, replaced: Replaced) {
        match self {
            Self::Threads(threads) => send(threads.checkpoints.as_ref(), ToDo::Close(replaced)),
            Self::Here(_) => _ = replaced.is_read(),
        }
    }

    /// Removes what a compaction has copied.
    pub(super) fn discard(&mut self, compaction: Box<Compaction>) {
        // If there is no thread, it is dropped here.
        let _ = self.compact(Compact::Discard(compaction));
    }

    pub(super) fn finish(&mut self, finish: Finish) {
        match self {
            Self::Threads(threads) => send(threads.checkpoints.as_ref(), ToDo::Finish(finish)),
            Self::Here(waiting) => waiting.push_back(Waiting::Finish(finish)),
        }
    }

    /// # Errors
    /// If a thread cannot be started.
    pub(super) fn compact(&mut self, compact: Compact) -> std::io::Result<()> {
        match self {
            Self::Threads(threads) => threads.compact(compact),
            Self::Here(waiting) => {
                waiting.push_back(Waiting::Compact(compact));
                Ok(())
            }
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
                _ => self.run_next(),
            },
        }
    }

    /// Does what waits, where there are no threads.
    fn run_next(&mut self) -> Option<Done> {
        let Self::Here(waiting) = self else {
            return None;
        };
        match waiting.pop_front()? {
            Waiting::Checkpoint(checkpoint, _) => Some(Done::Checkpoint(checkpoint.run())),
            Waiting::Segment(order) => Some(Done::Segment(order.run())),
            Waiting::Compact(Compact::Copy(mut compaction)) => match compaction.step() {
                Ok(Stage::More) => {
                    waiting.push_back(Waiting::Compact(Compact::Copy(compaction)));
                    None
                }
                Ok(Stage::CaughtUp) => Some(Done::Copied(Ok(compaction))),
                Err(error) => Some(Done::Copied(Err(error))),
            },
            Waiting::Finish(finish) => Some(finish.run()),
            Waiting::Compact(Compact::Discard(compaction)) => {
                drop(compaction);
                None
            }
        }
    }

    /// Waits until something is done, but no longer than this.
    ///
    /// # Panics
    /// If a thread has panicked: what is waited for would never be done.
    pub(super) fn wait(&mut self, most: Duration) -> Option<Done> {
        match self {
            Self::Threads(threads) => {
                let done = threads.done.recv_timeout(most).ok();
                let is_dead = threads.running.iter().any(JoinHandle::is_finished);
                assert!(
                    done.is_some() || !is_dead,
                    "a thread of the store has ended"
                );
                done
            }
            Self::Here(_) => self.run_next(),
        }
    }
}

fn send<T>(to: Option<&mpsc::Sender<T>>, what: T) {
    let sent = to.map(|to| to.send(what));
    debug_assert!(matches!(sent, Some(Ok(()))), "the thread runs");
}

impl Threads {
    fn start() -> std::io::Result<Self> {
        let (sender, done) = mpsc::channel();
        let (checkpoints, to_write) = mpsc::channel();
        let (segments, to_make) = mpsc::channel::<Order>();
        let (written, made) = (sender.clone(), sender.clone());
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
            compactions: None,
            notes: None,
            done,
            reports: sender,
            running: vec![writing, making],
        })
    }

    fn compact(&mut self, compact: Compact) -> std::io::Result<()> {
        if self.compactions.is_none() {
            let (compactions, to_do) = mpsc::channel();
            let done = self.reports.clone();
            let running = thread::Builder::new()
                .name("compaction".to_owned())
                .spawn(move || run_compactions(&to_do, &done))?;
            self.running.push(running);
            self.compactions = Some(compactions);
        }
        if let Compact::Copy(compaction) = &compact {
            self.notes = Some(Arc::clone(compaction.notes()));
        }
        send(self.compactions.as_ref(), compact);
        Ok(())
    }
}

/// Copies data files until there will be no more to copy.
fn run_compactions(compactions: &mpsc::Receiver<Compact>, done: &mpsc::Sender<Done>) {
    lower_priority();
    for compact in compactions {
        // Whatever happens, the store hears of it.
        let worked = telemetry::contain(|| match compact {
            Compact::Copy(mut compaction) => {
                Some(Done::Copied(compaction.run().map(|()| compaction)))
            }
            Compact::Discard(_) => None,
        });
        let worked = worked.unwrap_or_else(|panic| {
            let error = Arc::new(StorageError::Corrupted(panic));
            Some(Done::Copied(Err(CompactError::Failed(error))))
        });
        if let Some(report) = worked {
            let _ = done.send(report);
        }
    }
}

/// Writes checkpoints until there will be no more.
fn write(checkpoints: &mpsc::Receiver<ToDo>, done: &mpsc::Sender<Done>) {
    let mut retired: Vec<Arc<Memtable>> = Vec::new();
    let mut replaced: Vec<Replaced> = Vec::new();
    loop {
        match checkpoints.recv_timeout(if retired.is_empty() && replaced.is_empty() {
            Duration::MAX
        } else {
            RETIRED
        }) {
            Ok(ToDo::Close(file)) => replaced.push(file),
            Ok(ToDo::Finish(finish)) => {
                let _ = done.send(finish.run());
            }
            Ok(ToDo::Write(checkpoint)) => {
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
        replaced.retain(Replaced::is_read);
    }
}

impl Drop for Threads {
    /// Waits for the threads: nothing may write to the files after the store was dropped.
    fn drop(&mut self) {
        if let Some(notes) = &self.notes {
            notes.stop(Stopped::End);
        }
        (self.checkpoints, self.segments, self.compactions) = (None, None, None);
        for thread in self.running.drain(..) {
            // A panic in it was reported.
            let _ = thread.join();
        }
    }
}
