//! Takes samples of live requests, within bounds.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use ostrakon_base::digest::Digest;
use ostrakon_contract::client::Client;
use ostrakon_contract::contract::{Kept, Request};
use ostrakon_observe::trace::Trace;
use ostrakon_store::{Group, Snapshot};

use super::findings::Findings;
use super::last::Last;
use super::{Candidate, Outcome};
use crate::writer::View;

/// How many samples may wait, and their bytes. More are left out.
const MOST_SAMPLES: usize = 64;
const MOST_BYTES: usize = 16 << 20;

/// Where live requests are sampled for a rehearsal. Clones share it.
#[derive(Clone, Default)]
pub struct Stage(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// There only while requests are sampled.
    sampling: ArcSwapOption<Sampling>,
    /// The rehearsal under way, whatever it tries.
    current: ArcSwapOption<Sampling>,
    /// The last one of content that is to go live.
    last: ArcSwapOption<Sampling>,
    /// The last requests, in development.
    last_requests: OnceLock<Last>,
}

impl fmt::Debug for Stage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Stage").finish_non_exhaustive()
    }
}

/// The samples of one rehearsal, and what came out.
pub(super) struct Sampling {
    /// In millionths.
    share: u64,
    /// Whether only the last requests are tried: no others come, and nothing is refused.
    is_trial: bool,
    /// How many requests there were.
    requests: AtomicU64,
    /// A std mutex, because it is held only briefly.
    waiting: Mutex<Waiting>,
    changed: Condvar,
    /// A std mutex, because it is held only briefly.
    findings: Mutex<Findings>,
}

#[derive(Default)]
struct Waiting {
    samples: VecDeque<Sample>,
    bytes: usize,
    left_out: u64,
    is_over: bool,
}

/// A copy of a request, with the data that the live guest sees.
pub(crate) struct Sample {
    request: Arc<Request>,
    /// The digest of the live generation.
    live: Digest,
    shards: u32,
    data: Data,
    taken: Instant,
    number: u64,
    bytes: usize,
}

pub(super) enum Data {
    Read(Arc<Snapshot>),
    Write {
        group: Group,
        partition: Vec<u8>,
    },
    /// It was answered before; now it sees this, and may write on top of it.
    Again(Arc<Snapshot>),
}

impl Sample {
    pub(super) fn request(&self) -> &Arc<Request> {
        &self.request
    }

    pub(super) fn data(&self) -> &Data {
        &self.data
    }

    pub(super) fn shards(&self) -> u32 {
        self.shards
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn age(&self) -> Duration {
        self.taken.elapsed()
    }

    /// Whether this generation was live.
    pub(super) fn is_of(&self, live: Digest) -> bool {
        self.live == live
    }

    /// Whether it keeps data that would otherwise be let go.
    pub(super) fn keeps_data(&self) -> bool {
        !matches!(self.data, Data::Again(_))
    }
}

/// Ends the taking of samples when it is dropped.
pub(super) struct Begun<'a> {
    stage: &'a Stage,
    sampling: Arc<Sampling>,
}

impl Begun<'_> {
    pub(super) fn of(&self) -> &Arc<Sampling> {
        &self.sampling
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.sampling.end(Outcome::Stopped);
        for slot in [&self.stage.0.sampling, &self.stage.0.current] {
            let now = slot.load_full();
            if now.is_some_and(|now| Arc::ptr_eq(&now, &self.sampling)) {
                slot.store(None);
            }
        }
    }
}

impl Stage {
    /// What came out of the last rehearsal of content that was to go live, or of the one under way.
    pub fn findings(&self) -> Option<Findings> {
        let last = self.0.last.load();
        Some(last.as_ref()?.findings().clone().measured())
    }

    /// Begins to take samples, unless a rehearsal is under way. What comes out is shown to nobody else:
    /// it may have data in it that its caller may see.
    pub(super) fn begin_if_free(&self, candidate: &Candidate, live: &View) -> Option<Begun<'_>> {
        let is_free = self.0.current.load().is_none();
        is_free.then(|| self.begin(candidate, live))
    }

    /// Begins to take samples for content that is to go live. A rehearsal that is under way ends.
    pub(super) fn begin_and_show(&self, candidate: &Candidate, live: &View) -> Begun<'_> {
        let begun = self.begin(candidate, live);
        self.0.last.store(Some(Arc::clone(&begun.sampling)));
        begun
    }

    fn begin(&self, candidate: &Candidate, live: &View) -> Begun<'_> {
        let begun = self.begin_with(candidate, live, false, VecDeque::new());
        let samples = candidate.migrate_from.is_none();
        let samples = samples.then(|| Arc::clone(&begun.sampling));
        self.0.sampling.store(samples);
        begun
    }

    /// Begins to try the last requests on what is live.
    pub(super) fn begin_again(&self, candidate: &Candidate, live: &View) -> Begun<'_> {
        let last = self.0.last_requests.get().map_or_else(Vec::new, Last::all);
        let samples = (0..).zip(last).map(|(number, request)| Sample {
            request,
            live: live.digest,
            shards: live.shards(),
            data: Data::Again(Arc::clone(&live.snapshot)),
            taken: Instant::now(),
            number,
            bytes: 0,
        });
        let begun = self.begin_with(candidate, live, true, samples.collect());
        self.0.last.store(Some(Arc::clone(&begun.sampling)));
        begun
    }

    fn begin_with(
        &self,
        candidate: &Candidate,
        live: &View,
        is_trial: bool,
        samples: VecDeque<Sample>,
    ) -> Begun<'_> {
        let sampling = Arc::new(Sampling {
            share: candidate.settings.share.millionths().into(),
            is_trial,
            requests: AtomicU64::new(0),
            waiting: Mutex::new(Waiting {
                samples,
                ..Waiting::default()
            }),
            changed: Condvar::new(),
            findings: Mutex::new(Findings::new(candidate.digest, live.digest)),
        });
        if let Some(before) = self.0.current.swap(Some(Arc::clone(&sampling))) {
            before.end(Outcome::Stopped);
        }
        Begun {
            stage: self,
            sampling,
        }
    }

    /// Keeps so many of the last requests from now on, to try new generations with them.
    pub fn keep_last(&self, most: usize) {
        // It is set once, at the start.
        let _set = self.0.last_requests.set(Last::new(most));
    }

    /// Whether the last requests are kept.
    pub fn keeps_last(&self) -> bool {
        self.0.last_requests.get().is_some()
    }

    /// Notes a request that was answered here.
    pub(crate) fn answered(&self, request: &Request) {
        if let Some(last) = self.0.last_requests.get() {
            last.keep(request);
        }
    }

    /// A sample of a request that is to be read on this view, if one is to be taken.
    pub(crate) fn read(&self, view: &View, request: &Request) -> Option<Box<Sample>> {
        let sampling = self.0.sampling.load();
        let number = sampling.as_ref()?.wants()?;
        let snapshot = Arc::clone(&view.snapshot);
        let data = Data::Read(snapshot);
        // Boxed: each request's future has room for it.
        Some(Box::new(sample(
            request,
            view.digest,
            view.shards(),
            data,
            0,
            number,
        )))
    }

    /// A sample of a request that is to write on top of this group, if one is to be taken.
    pub(crate) fn write(
        &self,
        (live, shards): (Digest, u32),
        group: &Group,
        partition: &[u8],
        request: &Request,
    ) -> Option<Sample> {
        let sampling = self.0.sampling.load();
        let number = sampling.as_ref()?.wants()?;
        let (group, partition) = (group.fork(partition), partition.to_vec());
        let bytes = group.bytes();
        let data = Data::Write { group, partition };
        Some(sample(request, live, shards, data, bytes, number))
    }

    /// Has a sample rehearsed whose request was answered here.
    pub(crate) fn offer(&self, sample: Sample) {
        if let Some(sampling) = &*self.0.sampling.load() {
            sampling.put(sample);
        }
    }
}

/// A request of its own: it is no part of the client's connection, nor of its trace.
pub(super) fn copied(request: &Request) -> Request {
    Request {
        method: request.method.clone(),
        path: request.path.clone(),
        headers: request.headers.clone(),
        body: request.body.clone(),
        trace: Trace::default(),
        client: Client::default(),
        kept: Kept::of(request.kept.chosen_seed()),
    }
}

fn sample(
    request: &Request,
    live: Digest,
    shards: u32,
    data: Data,
    bytes: usize,
    number: u64,
) -> Sample {
    let copy = copied(request);
    let bytes = bytes + copy.body.len() + copy.path.len();
    Sample {
        request: Arc::new(copy),
        live,
        shards,
        data,
        taken: Instant::now(),
        number,
        bytes,
    }
}

impl Sampling {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no holder of this lock panics")
    }

    /// The request's number, if a sample of it is to be taken and there is room for one.
    fn wants(&self) -> Option<u64> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        // Spreads evenly, whatever pattern the requests have.
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        if (spread * 1_000_000) >> 32 >= self.share {
            return None;
        }
        let mut waiting = self.waiting();
        if waiting.samples.len() >= MOST_SAMPLES || waiting.bytes >= MOST_BYTES {
            waiting.left_out += 1;
            return None;
        }
        Some(number)
    }

    fn put(&self, sample: Sample) {
        let mut waiting = self.waiting();
        if waiting.is_over || waiting.samples.len() >= MOST_SAMPLES {
            waiting.left_out += 1;
            return;
        }
        waiting.bytes += sample.bytes;
        waiting.samples.push_back(sample);
        self.changed.notify_one();
    }

    /// The next sample; `None` when the rehearsal is over.
    pub(super) fn next(&self, until: Instant) -> Option<Sample> {
        let mut waiting = self.waiting();
        loop {
            if waiting.is_over {
                return None;
            }
            if let Some(sample) = waiting.samples.pop_front() {
                waiting.bytes -= sample.bytes;
                return Some(sample);
            }
            if self.is_trial {
                return None;
            }
            waiting = self.wait(waiting, until)?;
        }
    }

    /// Waits for so long, unless the rehearsal ends before.
    pub(super) fn rest(&self, time: Duration, until: Instant) {
        let until = until.min(Instant::now() + time);
        let mut waiting = self.waiting();
        while !waiting.is_over {
            match self.wait(waiting, until) {
                Some(again) => waiting = again,
                None => return,
            }
        }
    }

    /// Waits for a change; `None` when it is time.
    fn wait<'a>(
        &'a self,
        waiting: MutexGuard<'a, Waiting>,
        until: Instant,
    ) -> Option<MutexGuard<'a, Waiting>> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let waited = self.changed.wait_timeout(waiting, left);
        Some(waited.expect("no holder of this lock panics").0)
    }

    pub(super) fn is_trial(&self) -> bool {
        self.is_trial
    }

    pub(super) fn leave_out(&self) {
        self.waiting().left_out += 1;
    }

    pub(super) fn is_over(&self) -> bool {
        self.waiting().is_over
    }

    /// Takes no more samples, and notes how the rehearsal ended, unless it has ended. Returns how many
    /// were left out.
    pub(super) fn end(&self, outcome: Outcome) -> u64 {
        let mut waiting = self.waiting();
        waiting.is_over = true;
        waiting.left_out += waiting.samples.len() as u64;
        waiting.samples.clear();
        self.changed.notify_one();
        let left_out = waiting.left_out;
        drop(waiting);
        self.findings().end(left_out, outcome);
        left_out
    }

    pub(super) fn findings(&self) -> MutexGuard<'_, Findings> {
        self.findings.lock().expect("no holder of this lock panics")
    }
}
