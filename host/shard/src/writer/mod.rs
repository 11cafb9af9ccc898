//! The writer: the shard's single writer.
//!
//! One thread owns the [`Store`]. It takes all write requests that wait, runs
//! them one after another, each on top of the writes before it, commits them
//! together, publishes the [`View`] with them, and only then lets their replies
//! go. Swaps and migrations are messages in the same queue, so they happen
//! between requests.

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
pub use promotion::{Live, PromoteError, Promotion};
pub use turns::Turns;
pub use view::{View, Views};

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ostrakon_base::stored::Unreadable;
use ostrakon_contract::contract::{Reply, Request};
use ostrakon_contract::replies::{Counted, Replies};
use ostrakon_engine::Failure;
use ostrakon_observe::metrics::Metrics;
use ostrakon_protocol::{Authority, HandOff, Ordinal};
use ostrakon_store::{CommitError, Damage, Missing, Record, Store};
use tokio::runtime;
use tokio::sync::{oneshot, watch};
use worker::{Guests, Worker};

/// Reads what is stored of the live generation, if there is anything, and makes sure that all that is
/// stored beside the data can be read.
///
/// Nothing is guessed: a shard that began anew would number its generations from 1 again, and take
/// a new place among the others.
///
/// # Errors
/// What cannot be read, and why.
pub fn read_record(record: &Record) -> Result<Option<Live>, Unreadable> {
    record
        .topology
        .as_deref()
        .map(Membership::decode)
        .transpose()?;
    record.generation.as_deref().map(Live::decode).transpose()
}

/// Why a writer cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What is stored of the shard's place cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The system gives no thread, or no random number.
    #[error("a thread cannot be started, or a random number made")]
    System(#[from] std::io::Error),
}

/// A write request for the writer.
#[derive(Debug)]
pub struct Write {
    /// The request.
    pub request: Arc<Request>,
    /// The partition that its guest routed it to.
    pub partition: Vec<u8>,
    /// The generation that did so.
    pub generation: u64,
    /// What a source has told of how far it has come, if anything.
    pub hand_off: Option<HandOff>,
}

/// How a write request ended.
#[derive(Debug)]
pub enum Written {
    /// The guest answered; what it wrote is durable, unless it asked to discard.
    Replied {
        /// The generation that answered.
        generation: u64,
        /// Its reply.
        reply: Reply,
        /// What the reply holds of memory, until whoever passes it on counts it there.
        held: Counted,
    },
    /// The guest failed; nothing is stored.
    Failed {
        /// The generation that failed.
        generation: u64,
        /// How.
        failure: Failure,
    },
    /// A newer generation takes the request for something else than a write to
    /// a partition: it is to be routed anew. Nothing was run.
    Rerouted,
    /// Nothing was run: the partition is not this shard's to write now.
    Elsewhere(Authority),
    /// Nothing was run: the writer is full.
    Full,
    /// Nothing was run: the request waited longer than it may.
    Waited,
    /// Nothing was run: replies that are not taken yet hold too much.
    RepliesFull,
    /// What was written could not be made durable, and must not be acknowledged.
    NotStored(CommitError),
    /// Nothing is stored, and no more is taken: the writer has ended.
    Ended,
}

enum Message {
    Write(Write, Instant, oneshot::Sender<Written>),
    Promote(Box<Promotion>, oneshot::Sender<Result<Live, PromoteError>>),
    Change(Box<Change>, oneshot::Sender<Result<Changed, ChangeError>>),
    Recover(u64, oneshot::Sender<()>),
    Flush(oneshot::Sender<()>),
    End,
}

/// A handle to the writer. Clones are of the same writer, which ends when told to,
/// or with the last of them.
#[derive(Clone, Debug)]
pub struct Writer {
    sender: mpsc::Sender<Message>,
    state: Arc<State>,
    views: Views,
    replies: Replies,
    metrics: Arc<Metrics>,
    damage: Damage,
}

/// What can be seen of the writer from outside.
#[derive(Debug, Default)]
struct State {
    /// Write requests that wait.
    depth: AtomicUsize,
    ended: AtomicBool,
    /// Milliseconds since the epoch; 0: none yet.
    last_commit: AtomicU64,
    /// The data's schema, once there is one. A std mutex: held for a copy.
    schema: Mutex<Option<u32>>,
    /// Requests that were answered here, or tried to be.
    asked: AtomicU64,
    /// The partitions that came or went last kept requests waiting for too long.
    was_long: AtomicBool,
    /// The next step is to be a smaller one.
    is_pressed: AtomicBool,
    /// Why the data file is not where it was opened, if it is not.
    missing: watch::Sender<Option<Missing>>,
    /// The last write found no space.
    full: AtomicBool,
    /// Something was sent: for a writer that has no thread to wait for it.
    sent: tokio::sync::Notify,
}

impl Writer {
    /// Starts the writer's thread, which then owns the store. With an `ordinal` it
    /// is one of several shards: what was stored of its place is taken up, and
    /// [`Change::Start`] is the first thing to tell it. Guests are called with
    /// the timers of `runtime`. The thread ends by [`Writer::end`] or with
    /// the last handle; joining gives the store back closed.
    ///
    /// # Errors
    /// When what is stored of its place cannot be read, or there can be no more threads.
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

    /// A writer, what is to work for it, and where that gets its messages.
    fn new(
        store: Store,
        membership: Option<Membership>,
        guests: Guests,
        pace: Pace,
        metrics: Arc<Metrics>,
    ) -> (Self, Worker, mpsc::Receiver<Message>) {
        let (sender, receiver) = mpsc::channel();
        let state = Arc::new(State {
            schema: Mutex::new(store.record().schema),
            ..State::default()
        });
        let writer = Self {
            sender,
            state,
            views: Views::default(),
            replies: Replies::default(),
            metrics,
            damage: store.damage().clone(),
        };
        let worker = Worker::new(store, membership, guests, pace, &writer);
        (writer, worker, receiver)
    }

    /// Sends a message; says whether the writer is there to take it.
    fn send(&self, message: Message) -> bool {
        let sent = self.sender.send(message).is_ok();
        self.state.sent.notify_one();
        sent
    }

    /// What is live.
    pub fn views(&self) -> &Views {
        &self.views
    }

    /// What the shard's replies hold until they are taken.
    pub fn replies(&self) -> &Replies {
        &self.replies
    }

    /// Runs a write request and waits until what it wrote is durable. Dropping
    /// the future does not take the request back once the writer has begun it.
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

    /// Makes a generation live, migrating the data first if its schema is
    /// newer.
    ///
    /// # Errors
    /// When it may not be; the live generation and the data are as before.
    pub async fn promote(&self, promotion: Promotion) -> Result<Live, PromoteError> {
        let (sender, receiver) = oneshot::channel();
        if !self.send(Message::Promote(Box::new(promotion), sender)) {
            return Err(PromoteError::Ended);
        }
        receiver.await.unwrap_or(Err(PromoteError::Ended))
    }

    /// Makes a change of the shard's place among others, between two groups of
    /// requests.
    ///
    /// # Errors
    /// When it was not made; all is as before.
    pub async fn change(&self, change: Change) -> Result<Changed, ChangeError> {
        let (sender, receiver) = oneshot::channel();
        if !self.send(Message::Change(Box::new(change), sender)) {
            return Err(ChangeError::Ended);
        }
        receiver.await.unwrap_or(Err(ChangeError::Ended))
    }

    /// Opens the store anew if it has not been since `opening`, where a read
    /// failed, and waits for it.
    pub async fn recover(&self, opening: u64) {
        let (sender, receiver) = oneshot::channel();
        if self.send(Message::Recover(opening, sender)) {
            let _ = receiver.await;
        }
    }

    /// Waits until all that was sent before is durable.
    pub async fn flush(&self) {
        let (sender, receiver) = oneshot::channel();
        if self.send(Message::Flush(sender)) {
            let _ = receiver.await;
        }
    }

    /// Ends the writer after all that was sent before, and so closes the store.
    /// What other handles send from then on is told that it has ended.
    pub fn end(&self) {
        // If it has ended already, so much the better.
        self.send(Message::End);
    }

    /// A request is answered here: partitions come and go in smaller steps while
    /// there are any.
    pub fn asked(&self) {
        self.state.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the partitions that came or went last kept requests waiting for
    /// longer than they should.
    pub fn was_long(&self) -> bool {
        self.state.was_long.load(Ordering::Relaxed)
    }

    /// The next step is to be smaller: for where its partitions go, they are too
    /// many.
    pub fn press(&self) {
        self.state.is_pressed.store(true, Ordering::Relaxed);
    }

    /// The number of write requests that wait.
    pub fn depth(&self) -> usize {
        self.state.depth.load(Ordering::Relaxed)
    }

    /// The schema of the stored data; none where no generation was live yet.
    ///
    /// # Panics
    /// When the writer has panicked while it changed it.
    pub fn schema(&self) -> Option<u32> {
        *self
            .state
            .schema
            .lock()
            .expect("no holder of this lock panics")
    }

    /// Whether the writer's thread runs: if it does not, only a restart helps.
    pub fn is_alive(&self) -> bool {
        !self.state.ended.load(Ordering::Relaxed)
    }

    /// When the last group was committed.
    pub fn last_commit(&self) -> Option<SystemTime> {
        let millis = self.state.last_commit.load(Ordering::Relaxed);
        (millis > 0).then(|| UNIX_EPOCH + Duration::from_millis(millis))
    }
}
