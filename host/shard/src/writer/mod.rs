//! The writer: the shard's single writer.
//!
//! One thread owns the [`Store`]. It takes all the waiting write requests, runs them one after
//! another, each on top of the writes before it, commits them together, publishes the [`View`]
//! with them, and only then releases their replies. Swaps and migrations are messages in the
//! same queue, so they happen between requests.

mod attention;
mod counting;
mod pace;
mod parts;
mod membership;
mod promotion;
mod record;
mod standing;
mod turns;
mod view;
mod worker;

pub use membership::{Change, ChangeError, Changed, Membership, Owners};
pub use pace::Pace;
use pace::Pacing;
pub use promotion::{Live, PromoteError, Promotion};
pub use turns::Turns;
pub use view::{Tried, View, Views};

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwapOption, Guard};
use ostrakon_base::stored::Unreadable;
use ostrakon_contract::contract::{Reply, Request};
use ostrakon_contract::replies::{Counted, Replies};
use ostrakon_engine::{Failure, Guest};
use ostrakon_observe::metrics::Metrics;
use ostrakon_protocol::{Authority, HandOff, Ordinal, Release};
use ostrakon_store::{CommitError, CompactError, Compacting, Damage, Missing, Record, Store};
use tokio::runtime;
use tokio::sync::{oneshot, watch};
use worker::{Guests, Worker};

use crate::rehearsal::Stage;

/// Reads the stored record of the live generation, if there is one, and checks that all the
/// records beside the data can be read.
///
/// Nothing is guessed: a shard that began anew would number its generations from 1 again, and
/// take a new place among the others.
///
/// # Errors
/// Which record cannot be read, and why.
pub fn read_record(record: &Record) -> Result<Option<Live>, Unreadable> {
    record
        .topology
        .as_deref()
        .map(Membership::decode)
        .transpose()?;
    record.generation.as_deref().map(Live::decode).transpose()
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The record of the shard's place cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The system refuses a thread or a random number.
    #[error("a thread cannot be started, or a random number made")]
    System(#[from] std::io::Error),
}

#[derive(Debug)]
pub struct Write {
    pub request: Arc<Request>,
    /// The partition that the guest routed the request to.
    pub partition: Vec<u8>,
    /// The generation that routed the request, and is to answer it.
    pub generation: u64,
    /// The view by which that was decided: the live generation, and which change of a trial it showed.
    pub decided: (u64, u32),
    /// How far the source has come, if a source has said so.
    pub hand_off: Option<HandOff>,
    /// Whether the reply may leave before the write is durable.
    pub relaxed: bool,
}

/// How a write request ended.
#[derive(Debug)]
pub enum Written {
    /// The guest answered. Its writes are durable, unless it asked to discard them, or for a
    /// reply before that.
    Replied {
        generation: u64,
        reply: Reply,
        /// The memory that the reply holds, until the code that passes the reply on counts it
        /// there.
        held: Counted,
    },
    /// The guest failed; nothing is stored.
    Failed { generation: u64, failure: Failure },
    /// A newer generation does not route the request as a write to a partition, so it must be
    /// routed again. Nothing was run.
    Rerouted,
    /// Nothing was run: this shard may not write the partition now.
    NotOwner(Authority),
    /// Nothing was run: the writer is full.
    Full,
    /// Nothing was run: the request waited longer than it may.
    Waited,
    /// Nothing was run: replies that clients have not taken yet hold too much memory.
    RepliesFull,
    /// The writes could not be made durable, and must not be acknowledged.
    NotStored(CommitError),
    /// Nothing is stored, and no more requests are accepted: the writer has ended.
    Ended,
}

enum Message {
    Write(Write, Instant, oneshot::Sender<Written>),
    Promote(Box<Promotion>, oneshot::Sender<Result<Live, PromoteError>>),
    Adopt(
        Release,
        Option<Arc<Guest>>,
        oneshot::Sender<Result<Option<Live>, PromoteError>>,
    ),
    Stored(oneshot::Sender<Result<Option<Live>, PromoteError>>),
    Change(Box<Change>, oneshot::Sender<Result<Changed, ChangeError>>),
    Recover(u64, oneshot::Sender<()>),
    Compact(oneshot::Sender<Result<(), CompactError>>),
    StopCompacting(oneshot::Sender<()>),
    Flush(oneshot::Sender<()>),
    End,
}

/// A handle to the writer. Clones share the writer, which ends when told to, or when the last
/// handle is dropped.
#[derive(Clone, Debug)]
pub struct Writer {
    sender: mpsc::Sender<Message>,
    state: Arc<State>,
    views: Views,
    replies: Replies,
    metrics: Arc<Metrics>,
    damage: Damage,
    compacting: Compacting,
    stage: Stage,
}

/// The writer's state that other threads can see.
#[derive(Debug)]
struct State {
    /// The number of waiting write requests.
    depth: AtomicUsize,
    ended: AtomicBool,
    /// Milliseconds since the epoch; 0 if there was no commit yet.
    last_commit: AtomicU64,
    /// The data's schema, once there is one. A std mutex, because it is held only for a copy.
    schema: Mutex<Option<u32>>,
    pacing: Pacing,
    /// The shard's place among others.
    place: ArcSwapOption<Membership>,
    /// Why the data file is not where it was opened, if it is not.
    missing: watch::Sender<Option<Missing>>,
    /// The last write found no space.
    full: AtomicBool,
    /// Notified of each message, for a writer that has no thread to wait for it.
    sent: tokio::sync::Notify,
}

impl Writer {
    /// Starts the writer's thread, which then owns the store. With an `ordinal` the shard is
    /// one of several: its stored place is taken up, and [`Change::Start`] must be the first
    /// change. Guests are called with the timers of `runtime`. The thread ends by
    /// [`Writer::end`] or with the last handle; joining it returns the store, closed.
    ///
    /// # Errors
    /// When the stored place cannot be read, or no thread can be started.
    pub fn start(
        store: Store,
        ordinal: Option<Ordinal>,
        runtime: runtime::Handle,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, thread::JoinHandle<()>), StartError> {
        let stored = store.record().topology.as_deref();
        let stored = stored.map(Membership::decode).transpose()?;
        let membership = match (ordinal, stored) {
            (None, _) => None,
            (Some(_), Some(stored)) => Some(stored),
            (Some(ordinal), None) => Some(Membership::new(ordinal)?),
        };
        let guests = Guests::On(runtime);
        let (writer, worker, receiver) =
            Self::new(store, membership, guests, Pace::default(), metrics);
        let thread = thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || worker.run(&receiver))?;
        Ok((writer, thread))
    }

    /// A writer handle, its worker, and the queue that the worker reads.
    fn new(
        store: Store,
        membership: Option<Membership>,
        guests: Guests,
        pace: Pace,
        metrics: Arc<Metrics>,
    ) -> (Self, Worker, mpsc::Receiver<Message>) {
        let (sender, receiver) = mpsc::channel();
        let state = Arc::new(State {
            depth: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            last_commit: AtomicU64::new(0),
            schema: Mutex::new(store.record().schema),
            pacing: Pacing::new(pace),
            place: ArcSwapOption::empty(),
            missing: watch::Sender::default(),
            full: AtomicBool::new(false),
            sent: tokio::sync::Notify::new(),
        });
        let writer = Self {
            sender,
            state,
            views: Views::default(),
            replies: Replies::default(),
            metrics,
            damage: store.damage().clone(),
            compacting: store.compacting().clone(),
            stage: Stage::default(),
        };
        let worker = Worker::new(store, membership, guests, &writer);
        (writer, worker, receiver)
    }

    /// Sends a message, and says whether the writer is there to receive it.
    fn send(&self, message: Message) -> bool {
        let sent = self.sender.send(message).is_ok();
        self.state.sent.notify_one();
        sent
    }

    pub fn views(&self) -> &Views {
        &self.views
    }

    /// Where live requests are sampled for a rehearsal.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// The memory that the shard's replies hold until they are taken.
    pub fn replies(&self) -> &Replies {
        &self.replies
    }

    /// Runs a write request and waits until its writes are durable. Dropping the future does
    /// not take the request back once the writer has begun it.
    pub async fn write(&self, write: Write, max_waiting: usize) -> Written {
        let depth = self.state.depth.fetch_add(1, Ordering::Relaxed);
        if depth >= max_waiting {
            self.state.depth.fetch_sub(1, Ordering::Relaxed);
            return Written::Full;
        }
        self.metrics.writer_depth(depth + 1);
        let (sender, receiver) = oneshot::channel();
        if !self.send(Message::Write(write, Instant::now(), sender)) {
            return Written::Ended;
        }
        receiver.await.unwrap_or(Written::Ended)
    }

    /// Makes a generation live, and migrates the data first if its schema is newer.
    ///
    /// # Errors
    /// When the generation may not go live; the live generation and the data are unchanged.
    pub async fn promote(&self, promotion: Promotion) -> Result<Live, PromoteError> {
        let (sender, receiver) = oneshot::channel();
        if !self.send(Message::Promote(Box::new(promotion), sender)) {
            return Err(PromoteError::Ended);
        }
        receiver.await.unwrap_or(Err(PromoteError::Ended))
    }

    /// Notes that the live generation is live by this release, which names its content. `None` if
    /// another one is live; nothing is changed then. If the release has a trial, `candidate` serves its
    /// part of the partitions from then on; without it, their requests wait until it is given.
    ///
    /// # Errors
    /// When that could not be stored; everything is as before.
    pub async fn adopt(
        &self,
        release: Release,
        candidate: Option<Arc<Guest>>,
    ) -> Result<Option<Live>, PromoteError> {
        let (sender, receiver) = oneshot::channel();
        if !self.send(Message::Adopt(release, candidate, sender)) {
            return Err(PromoteError::Ended);
        }
        receiver.await.unwrap_or(Err(PromoteError::Ended))
    }

    /// What is stored of the live generation, after a promotion whose outcome is not certain.
    ///
    /// # Errors
    /// When the data cannot be opened.
    pub async fn stored(&self) -> Result<Option<Live>, PromoteError> {
        let (sender, receiver) = oneshot::channel();
        if !self.send(Message::Stored(sender)) {
            return Err(PromoteError::Ended);
        }
        receiver.await.unwrap_or(Err(PromoteError::Ended))
    }

    /// The shard's place among others, also before a generation is live; `None` where it is alone.
    pub fn place(&self) -> Guard<Option<Arc<Membership>>> {
        self.state.place.load()
    }

    /// Changes the shard's place among others, between two groups of requests.
    ///
    /// # Errors
    /// When the change was not made; everything is as before.
    pub async fn change(&self, change: Change) -> Result<Changed, ChangeError> {
        let (sender, receiver) = oneshot::channel();
        if !self.send(Message::Change(Box::new(change), sender)) {
            return Err(ChangeError::Ended);
        }
        receiver.await.unwrap_or(Err(ChangeError::Ended))
    }

    /// Has the store reopened, unless that has happened since `opening`, where a read failed,
    /// and waits for it.
    pub(crate) async fn recover(&self, opening: u64) {
        let (sender, receiver) = oneshot::channel();
        if self.send(Message::Recover(opening, sender)) {
            let _ = receiver.await;
        }
    }

    /// Begins to make the data file smaller, in the background; if that is under way, it goes on.
    /// `None` if the writer has ended.
    ///
    /// # Errors
    /// If it cannot begin; nothing is changed.
    pub async fn compact(&self) -> Option<Result<(), CompactError>> {
        let (sender, receiver) = oneshot::channel();
        if !self.send(Message::Compact(sender)) {
            return None;
        }
        receiver.await.ok()
    }

    /// Has a compaction stopped that is under way.
    pub async fn stop_compacting(&self) {
        let (sender, receiver) = oneshot::channel();
        if self.send(Message::StopCompacting(sender)) {
            let _ = receiver.await;
        }
    }

    /// The last compaction.
    pub fn compacting(&self) -> &Compacting {
        &self.compacting
    }

    /// Waits until everything sent before is durable.
    pub async fn flush(&self) {
        let (sender, receiver) = oneshot::channel();
        if self.send(Message::Flush(sender)) {
            let _ = receiver.await;
        }
    }

    /// Ends the writer after all earlier messages, which closes the store. Later messages of
    /// other handles are answered with the fact that it has ended.
    pub fn end(&self) {
        // Fails only if the writer has already ended.
        self.send(Message::End);
    }

    /// Counts a request that is answered here: while there are requests, partitions come and go
    /// in smaller steps, with rests between them.
    pub fn asked(&self) {
        self.state.pacing.asked();
    }

    /// Notes that something was done for partitions that come or go, besides the writer's own
    /// work, and that it took so long.
    pub fn moved_in(&self, took: Duration) {
        self.state.pacing.moved_in(took);
    }

    /// Whether what was last done for partitions that came or went took longer than it should.
    pub fn was_long(&self) -> bool {
        self.state.pacing.was_long()
    }

    /// Makes the next step smaller: it has too many partitions for their receiver.
    pub fn press(&self) {
        self.state.pacing.press();
    }

    /// For how long this shard does not move partitions, because requests come.
    pub fn rest(&self) -> Option<Duration> {
        self.state.pacing.rest()
    }

    /// Has this shard move no partitions for so long, because requests come to their receiver.
    pub fn rest_for(&self, time: Duration) {
        self.state.pacing.rest_for(time);
    }

    /// The number of waiting write requests.
    pub fn depth(&self) -> usize {
        self.state.depth.load(Ordering::Relaxed)
    }

    /// The schema of the stored data; `None` where no generation has been live yet.
    ///
    /// # Panics
    /// When the writer has panicked while changing it.
    pub fn schema(&self) -> Option<u32> {
        *self
            .state
            .schema
            .lock()
            .expect("no holder of this lock panics")
    }

    /// Whether the writer's thread runs. If it does not, only a restart helps.
    pub fn is_alive(&self) -> bool {
        !self.state.ended.load(Ordering::Relaxed)
    }

    /// The time of the last commit; `None` if there was none yet.
    pub fn last_commit(&self) -> Option<SystemTime> {
        let millis = self.state.last_commit.load(Ordering::Relaxed);
        (millis > 0).then(|| UNIX_EPOCH + Duration::from_millis(millis))
    }
}
