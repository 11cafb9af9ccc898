//! The writer's thread.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use ostrakon_base::digest::Digest;
use ostrakon_base::unix_time::unix_time;
use ostrakon_contract::contract::{Access, Target};
use ostrakon_contract::replies::{self, Replies};
use ostrakon_engine::{Bound, Failure, Guest};
use ostrakon_observe::metrics::Metrics;
use ostrakon_observe::trace::{Operation, Trace};
use ostrakon_protocol::{Authority, Release};
use ostrakon_store::{CommitError, Group, Record, Snapshot, Store};
use tokio::runtime;
use tokio::sync::oneshot;

use super::attention::Attention;
use super::membership::Membership;
use super::promotion::{Live, PromoteError, Promotion};
use super::view::{self, Tried, View, Views};
use super::{ChangeError, Message, State, Write, Writer, Written};
use crate::bake::Counts;
use crate::rehearsal::Stage;

/// How often the writer checks that the data's files are where they were, besides before each
/// commit, and does what is due in the store.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// The memory of a group's writes above which it takes no further request: this bounds the time
/// that the first request waits, and what a commit adds to the memtable.
const GROUP_BYTES: usize = 4 << 20;

/// The shard's single writer.
pub(super) struct Worker {
    pub(super) store: Store,
    /// `None` in a shard that is alone.
    pub(super) membership: Option<Arc<Membership>>,
    guests: Guests,
    views: Views,
    replies: Replies,
    stage: Stage,
    pub(super) state: Arc<State>,
    pub(super) metrics: Arc<Metrics>,
    serves: Option<Arc<Serves>>,
    /// Whether the last group was of one request.
    was_alone: bool,
}

/// What the shard serves.
struct Serves {
    live: Live,
    by: By,
    /// The generation that serves some of the partitions, if its guest is prepared here.
    tried: Option<By>,
}

/// A guest that answers.
#[derive(Clone)]
struct By {
    number: u64,
    digest: Digest,
    guest: Arc<Guest>,
    counts: Arc<Counts>,
}

impl Serves {
    /// What [`Write::decided`] says of it.
    fn now(&self) -> (u64, u32) {
        let turn = self.live.trial.map_or(0, |trial| trial.turn);
        (self.live.number, turn)
    }

    /// Who answers a request; `None` if it is to be routed again.
    fn answers(&self, write: &Write) -> Option<&By> {
        let all = [Some(&self.by), self.tried.as_ref()].into_iter().flatten();
        let mut by = all.filter(|by| by.number == write.generation);
        by.next().filter(|_| write.decided == self.now())
    }
}

/// How the writer calls guests.
pub(super) enum Guests {
    /// On the writer's own thread, with the timers of this runtime.
    On(runtime::Handle),
    /// In a task: its guests are known never to wait.
    AtOnce,
}

/// A request of the current group: its sender, its outcome and its trace.
type Waiting = (oneshot::Sender<Written>, Written, Trace);

impl Worker {
    pub(super) fn new(
        store: Store,
        membership: Option<Membership>,
        guests: Guests,
        writer: &Writer,
    ) -> Self {
        let membership = membership.map(Arc::new);
        writer.state.place.store(membership.clone());
        Self {
            store,
            membership,
            guests,
            views: writer.views.clone(),
            replies: writer.replies.clone(),
            stage: writer.stage.clone(),
            state: Arc::clone(&writer.state),
            metrics: Arc::clone(&writer.metrics),
            serves: None,
            was_alone: false,
        }
    }

    /// Runs until told to end, or until the last handle is dropped.
    pub(super) fn run(mut self, receiver: &mpsc::Receiver<Message>) {
        let _ended = Ended(Arc::clone(&self.state));
        let mut after = None;
        let mut looked = Instant::now();
        let mut attention = Attention::default();
        loop {
            if looked.elapsed() >= LOOK {
                self.look();
                self.tend();
                if let Some(serves) = &self.serves {
                    serves.by.counts.mark();
                }
                looked = Instant::now();
            }
            let next = after
                .take()
                .map_or_else(|| attention.next(receiver, self.was_alone), Ok);
            let message = match next {
                Ok(message) => message,
                Err(mpsc::RecvTimeoutError::Timeout) => continue,
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            };
            match self.take_up(message, receiver) {
                ControlFlow::Continue(next) => after = next,
                ControlFlow::Break(()) => break,
            }
            if self.store.is_overtaken() {
                tracing::error!(
                    "the disk failed while data was migrated, and the migration was stored all the same: the shard must be started again"
                );
                break;
            }
        }
        self.store.close();
    }

    /// Does what is due in the store, and shows readers the view after it.
    fn tend(&mut self) {
        if self.store.tend() {
            self.publish();
        }
    }

    /// Handles a message. Returns the next message if it took one too many; breaks where the
    /// writer is to end.
    pub(super) fn take_up(
        &mut self,
        message: Message,
        receiver: &mpsc::Receiver<Message>,
    ) -> ControlFlow<(), Option<Message>> {
        match message {
            Message::Write(write, sent, sender) => {
                return ControlFlow::Continue(self.run_group((write, sent, sender), receiver));
            }
            Message::Promote(promotion, sender) => {
                // The caller may be gone; the generation is live all the same.
                let _ = sender.send(self.promote(*promotion, None));
            }
            Message::Adopt(release, candidate, sender) => {
                let _ = sender.send(self.adopt(release, candidate));
            }
            Message::Stored(sender) => {
                let stored = self.snapshot().map_err(PromoteError::from);
                let stored = stored.and_then(|_| self.stored_generation());
                let _ = sender.send(stored);
            }
            Message::Recover(opening, sender) => {
                self.store.recover(opening);
                self.publish();
                let _ = sender.send(());
            }
            Message::Change(change, sender) => {
                // The caller may be gone; the change is made all the same.
                let changed = self.change(*change);
                if let Err(ChangeError::NotStored(error)) = &changed {
                    self.tell(error);
                }
                let _ = sender.send(changed);
            }
            Message::Compact(sender) => {
                let _ = sender.send(self.store.compact());
                self.publish();
            }
            Message::StopCompacting(sender) => {
                self.store.stop_compacting();
                self.publish();
                let _ = sender.send(());
            }
            Message::Flush(sender) => {
                let _ = sender.send(());
            }
            Message::End => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(None)
    }

    /// Runs the waiting write requests, the given one first, and commits them. Returns the
    /// message that ended the group early, if one did.
    fn run_group(
        &mut self,
        first: (Write, Instant, oneshot::Sender<Written>),
        receiver: &mpsc::Receiver<Message>,
    ) -> Option<Message> {
        let began = Instant::now();
        let Some(serves) = self.serves.clone() else {
            self.take((first.1, &first.2));
            let _ = first.2.send(Written::Rerouted);
            return None;
        };
        let snapshot = match self.snapshot() {
            Ok(snapshot) => snapshot,
            Err(error) => {
                self.tell(&error);
                self.take((first.1, &first.2));
                let _ = first.2.send(self.not_stored(&error));
                return None;
            }
        };
        let settings = serves.by.guest.settings();
        let writer = &settings.writer;
        let max_replies = settings.http.max_replies_bytes;
        let mut group = Group::new(snapshot);
        let mut waiting: Vec<Waiting> = Vec::new();
        // How many relaxed writes of the group were answered.
        let mut answered = 0;
        let mut next = Some(first);
        let mut after = None;
        while let Some((write, sent, sender)) = next.take() {
            let taken = self.take((sent, &sender));
            if taken == Taken::Gone {
                // The client is gone, and nothing was promised to it.
                self.metrics.request_gone();
            } else if sent.elapsed() > writer.max_wait {
                let _ = sender.send(Written::Waited);
            } else if (self.replies).are_full(write.request.client.replies(), max_replies) {
                // There is no room for the reply that it would give.
                let _ = sender.send(Written::RepliesFull);
            } else {
                let trace = write.request.trace.clone();
                trace.record(Operation::WaitForTheWriter, sent);
                let (grown, written, relaxed) = self.write(group, &serves, write);
                group = grown;
                if relaxed && matches!(written, Written::Replied { .. }) {
                    // A client that is gone does not get the reply.
                    let _ = sender.send(written);
                    answered += 1;
                } else {
                    waiting.push((sender, written, trace));
                }
            }
            if waiting.len() + answered >= writer.max_group
                || group.bytes() >= GROUP_BYTES
                || began.elapsed() > self.state.pacing.pace.collect
            {
                break;
            }
            match receiver.try_recv() {
                Ok(Message::Write(write, sent, sender)) => next = Some((write, sent, sender)),
                Ok(other) => after = Some(other),
                Err(_) => {}
            }
        }
        self.was_alone = waiting.len() + answered == 1;
        self.commit(group, waiting, answered);
        after
    }

    /// Runs one request on top of the group. Also returns whether its reply may leave before the
    /// group is durable.
    fn write(&self, group: Group, serves: &Serves, write: Write) -> (Group, Written, bool) {
        let answers = serves.answers(&write);
        if answers.is_none() && serves.live.trial.is_some() {
            // Which generation answers is decided anew.
            return (group, Written::Rerouted, false);
        }
        let By {
            number: generation,
            digest,
            guest,
            counts,
        } = answers.unwrap_or(&serves.by);
        let generation = *generation;
        let failed = |failure| Written::Failed {
            generation,
            failure,
        };
        let is_routed = answers.is_some();
        let Write {
            request,
            mut partition,
            hand_off,
            mut relaxed,
            ..
        } = write;
        let (group, written) = self.block_on(async {
            let mut lease = match guest.lease(self.shards()).await {
                Ok(lease) => lease,
                Err(failure) => return (group, failed(failure)),
            };
            if !is_routed {
                // The generation that routed the request is no longer live.
                let deadline = guest.settings().guest.write_deadline;
                match lease.route(&request, Bound::Deadline(deadline)).await {
                    Ok(route) => match (route.target, route.access) {
                        (Target::Partition(key), Access::Write) => {
                            partition = key;
                            relaxed = route.relaxed;
                        }
                        _ => return (group, Written::Rerouted),
                    },
                    Err(failure) => return (group, failed(failure)),
                }
            }
            if let Some(membership) = &self.membership {
                match membership.authority(&partition, hand_off.as_ref()).await {
                    Ok(Authority::Mine) => {}
                    Ok(other) => return (group, Written::NotOwner(other)),
                    Err(failure) => return (group, failed(failure)),
                }
            }
            if let Some(error) = self.store.stuck(&partition) {
                return (group, self.not_stored(error));
            }
            let from = (*digest, self.shards());
            let taken = self.stage.write(from, &group, &partition, &request);
            let limits = (&guest.settings().store).into();
            let transaction = group.begin(partition, limits);
            let began = counts.begins(Access::Write);
            let (group, replied) = lease.write(&request, transaction).await;
            if replied.is_ok() {
                counts.took(Access::Write, began);
            }
            if let Some(taken) = taken {
                self.stage.offer(taken);
            }
            let written = match replied {
                Ok(reply) => {
                    let bytes = replies::held_by(&reply.headers, &reply.body);
                    Written::Replied {
                        generation,
                        held: (self.replies).count(request.client.replies(), bytes),
                        reply,
                    }
                }
                Err(failure) => failed(failure),
            };
            (group, written)
        });
        (group, written, relaxed)
    }

    /// Commits a group and releases its replies. So many requests of it were answered before.
    fn commit(&mut self, group: Group, waiting: Vec<Waiting>, answered: usize) {
        if !group.is_empty() {
            let began = Instant::now();
            match self.store.commit(group) {
                Ok(_) => {
                    self.metrics
                        .commit(began.elapsed(), waiting.len() + answered);
                    self.stored();
                    for (_, _, trace) in &waiting {
                        trace.record(Operation::Commit, began);
                    }
                    self.committed();
                }
                Err(error) => {
                    self.metrics.commit_failed();
                    self.tell(&error);
                    let requests = waiting.len();
                    tracing::warn!(%error, requests, answered, "a group was not stored");
                    for _ in 0..answered {
                        // They were lost without a word to their clients.
                        let _ = self.not_stored(&error);
                    }
                    // The store may have been reopened.
                    self.publish();
                    for (sender, written, ..) in waiting {
                        let _ = sender.send(self.instead(written, &error));
                    }
                    return;
                }
            }
        }
        for (sender, written, _) in waiting {
            if let Written::Failed {
                failure: Failure::Store(error),
                ..
            } = &written
                && !error.is_damage()
            {
                self.recover();
            }
            // A client that is gone does not get the reply.
            let _ = sender.send(written);
        }
    }

    /// Goes live with a generation. `candidate` is the guest of the release's trial, if it is prepared.
    fn promote(
        &mut self,
        promotion: Promotion,
        candidate: Option<Arc<Guest>>,
    ) -> Result<Live, PromoteError> {
        let record = self.store.record().clone();
        let stored = self.stored_generation()?;
        let schema = promotion.guest.description().schema;
        let live = Live::after(stored, &promotion);
        let after = Record {
            schema: Some(schema),
            generation: Some(live.encode()),
            topology: record.topology.clone(),
        };
        match record.schema {
            Some(data) if schema < data => {
                return Err(PromoteError::Schema {
                    guest: schema,
                    data,
                });
            }
            Some(data) if schema > data => self.migrate(&promotion.guest, data, after)?,
            // A restart on the same generation has nothing to store.
            _ if record == after => {}
            _ => {
                self.store
                    .set_record(after)
                    .inspect_err(|error| self.tell(error))?;
                self.stored();
            }
        }
        *self
            .state
            .schema
            .lock()
            .expect("no holder of this lock panics") = Some(schema);
        self.now_serves(&live, promotion.guest, candidate);
        self.committed();
        Ok(live)
    }

    fn now_serves(&mut self, live: &Live, guest: Arc<Guest>, candidate: Option<Arc<Guest>>) {
        let before = self.serves.take();
        let known = |number, digest, guest: Option<Arc<Guest>>| {
            let before = before
                .iter()
                .flat_map(|it| [Some(&it.by), it.tried.as_ref()]);
            let by = before.flatten().find(|by| by.digest == digest);
            let guest = guest.or_else(|| Some(Arc::clone(&by?.guest)))?;
            let counts = by.map(|by| Arc::clone(&by.counts)).unwrap_or_default();
            self.views.counts_in(number, &counts);
            Some(By {
                number,
                digest,
                guest,
                counts,
            })
        };
        let by = known(live.number, live.digest, Some(guest));
        let tried = live.trial.map(|trial| trial.candidate);
        let tried = tried.and_then(|it| known(it.number, it.digest, candidate));
        self.serves = by.map(|by| {
            Arc::new(Serves {
                live: live.clone(),
                by,
                tried,
            })
        });
    }

    fn stored_generation(&self) -> Result<Option<Live>, PromoteError> {
        let stored = self.store.record().generation.as_deref();
        Ok(stored.map(Live::decode).transpose()?)
    }

    /// Has the live generation live by this release, if it is its content.
    fn adopt(
        &mut self,
        release: Release,
        candidate: Option<Arc<Guest>>,
    ) -> Result<Option<Live>, PromoteError> {
        let serves = self.serves.as_ref();
        let Some(serves) = serves.filter(|it| it.live.digest == release.live.digest) else {
            return Ok(None);
        };
        let promotion = Promotion {
            guest: Arc::clone(&serves.by.guest),
            digest: serves.live.digest,
            component: serves.live.component,
            release: Some(release),
            held: None,
        };
        self.promote(promotion, candidate).map(Some)
    }

    /// Migrates the shard's data, and stores the swap's record in the same transaction.
    fn migrate(
        &mut self,
        guest: &Arc<Guest>,
        from: u32,
        record: Record,
    ) -> Result<(), PromoteError> {
        let failed = |failure| PromoteError::Failed { from, failure };
        let migration = self
            .store
            .begin_migration((&guest.settings().store).into())?;
        // What was under way in the background was waited for.
        self.publish();
        let (migration, migrated) = self.block_on(async {
            let mut lease = guest.lease(self.shards()).await.map_err(failed)?;
            Ok::<_, PromoteError>(lease.migrate(from, migration).await)
        })?;
        match migrated {
            Ok(Ok(())) => {
                self.store
                    .commit_migration(migration, record)
                    .inspect_err(|error| self.tell(error))?;
                self.stored();
                Ok(())
            }
            Ok(Err(reason)) => Err(PromoteError::Refused { from, reason }),
            Err(failure) => {
                drop(migration);
                if matches!(failure, Failure::Store(_)) {
                    self.recover();
                }
                Err(failed(failure))
            }
        }
    }

    /// Reopens the store after a read of the current opening failed: redb answers nothing more
    /// from that opening.
    fn recover(&mut self) {
        let opening = self
            .store
            .snapshot()
            .map_or(0, |snapshot| snapshot.opening());
        self.store.recover(opening);
        self.publish();
    }

    /// Takes a request out of the queue's count, and says whether its client is still there.
    fn take(&self, (sent, sender): (Instant, &oneshot::Sender<Written>)) -> Taken {
        let depth = self.state.depth.fetch_sub(1, Ordering::Relaxed) - 1;
        self.metrics.writer_depth(depth);
        self.metrics.writer_wait(sent.elapsed());
        if sender.is_closed() {
            Taken::Gone
        } else {
            Taken::Waits
        }
    }

    /// The data to build the next group on. Reopens the store if needed.
    pub(super) fn snapshot(&mut self) -> Result<Arc<Snapshot>, CommitError> {
        let was_closed = self.store.snapshot().is_none();
        let snapshot = self.store.snapshot_or_reopen()?;
        if was_closed {
            self.publish();
        }
        Ok(snapshot)
    }

    /// Notes a commit and publishes it to readers.
    pub(super) fn committed(&self) {
        let now = unix_time(SystemTime::now());
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.state.last_commit.store(millis, Ordering::Relaxed);
        self.publish();
    }

    /// The schema of the stored data; `None` where no generation has been live yet.
    pub(super) fn stored_schema(&self) -> Option<u32> {
        self.store.record().schema
    }

    pub(super) fn live_guest(&self) -> Option<&Arc<Guest>> {
        self.serves.as_ref().map(|serves| &serves.by.guest)
    }

    /// Runs a guest's future on the writer's thread.
    pub(super) fn block_on<F: Future>(&self, future: F) -> F::Output {
        match &self.guests {
            Guests::On(runtime) => runtime.block_on(future),
            Guests::AtOnce => {
                let called = futures_util::FutureExt::now_or_never(future);
                called.expect("these guests never wait")
            }
        }
    }

    /// The number of shards, as far as this shard knows it.
    pub(super) fn shards(&self) -> u32 {
        view::shards(self.membership.as_deref())
    }

    pub(super) fn publish(&self) {
        let (Some(serves), Some(snapshot)) = (&self.serves, self.store.snapshot()) else {
            return;
        };
        let view = |by: &By, tried| View {
            generation: by.number,
            digest: by.digest,
            guest: Arc::clone(&by.guest),
            snapshot: Arc::clone(snapshot),
            membership: self.membership.clone(),
            counts: Arc::clone(&by.counts),
            tried,
        };
        let tried = serves.live.trial.map(|trial| Tried {
            trial,
            view: serves.tried.as_ref().map(|by| Arc::new(view(by, None))),
        });
        self.views.publish(view(&serves.by, tried));
    }
}

#[derive(PartialEq, Eq)]
enum Taken {
    Waits,
    Gone,
}

/// Marks the writer as ended on drop, also when it panics.
pub(super) struct Ended(pub(super) Arc<State>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}
