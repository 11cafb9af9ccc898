//! Takes samples of live requests, within bounds.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, TryLockError};
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

/// How old a sample may become: it keeps the data that its request saw.
const MOST_AGE: Duration = Duration::from_secs(1);

/// How often a rehearsal looks for samples while there are none.
const LOOKS_EVERY: Duration = Duration::from_millis(2);

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
    /// The last one of what was live before, on what a generation in its steps writes.
    way_back: ArcSwapOption<Sampling>,
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
    /// How many samples were left out.
    left_out: AtomicU64,
    ended: Condvar,
    /// A std mutex, because it is held only briefly.
    findings: Mutex<Findings>,
}

#[derive(Default)]
struct Waiting {
    samples: VecDeque<Sample>,
    bytes: usize,
    is_over: bool,
}

/// What is to be done with a live request once it was answered.
pub(crate) enum Taken {
    /// It rehearses. Boxed: each request's future has room for it.
    Sample(Box<Sample>),
    /// There was no room for it.
    NoRoom,
}

/// A copy of a request, with the data that the live guest sees.
pub(crate) struct Sample {
    request: Arc<Request>,
    /// The digest of the live generation.
    live: Digest,
    shards: u32,
    data: Data,
    taken: Instant,
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

    /// Whether it has kept data for long enough.
    pub(super) fn is_old(&self) -> bool {
        !matches!(self.data, Data::Again(_)) && self.taken.elapsed() > MOST_AGE
    }

    /// Whether this generation was live.
    pub(super) fn is_of(&self, live: Digest) -> bool {
        self.live == live
    }
}

impl Taken {
    /// The same, of a request that this generation answered.
    #[must_use]
    pub(crate) fn answered_by(mut self, digest: Digest) -> Self {
        if let Self::Sample(sample) = &mut self {
            sample.live = digest;
        }
        self
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
            // Only its own: another may have begun.
            let _before = slot.compare_and_swap(&Some(Arc::clone(&self.sampling)), None);
        }
    }
}

impl Stage {
    /// What came out of the last rehearsal of content that was to go live, or of the one under way.
    pub fn findings(&self) -> Option<Findings> {
        let last = self.0.last.load();
        Some(last.as_ref()?.findings().clone().measured())
    }

    /// What came out of the last rehearsal of a way back, or of the one under way.
    pub fn way_back(&self) -> Option<Findings> {
        let last = self.0.way_back.load();
        Some(last.as_ref()?.findings().clone().measured())
    }

    /// Shows what comes out of the rehearsal of a way back.
    pub(super) fn show_way_back(&self, begun: &Begun<'_>) {
        self.0.way_back.store(Some(Arc::clone(&begun.sampling)));
    }

    /// Begins to take samples, unless a rehearsal is under way. What comes out is shown to nobody else:
    /// it may have data in it that its caller may see.
    pub(super) fn begin_if_free(&self, candidate: &Candidate, live: &View) -> Option<Begun<'_>> {
        let sampling = sampling(candidate, live, false, VecDeque::new());
        let none: Option<Arc<Sampling>> = None;
        let current = &self.0.current;
        let before = current.compare_and_swap(&none, Some(Arc::clone(&sampling)));
        before
            .is_none()
            .then(|| self.take_samples(candidate, sampling))
    }

    /// Whether a rehearsal is under way.
    pub fn is_busy(&self) -> bool {
        self.0.current.load().is_some()
    }

    /// Begins to take samples for content that is to go live. A rehearsal that is under way ends.
    pub(super) fn begin_and_show(&self, candidate: &Candidate, live: &View) -> Begun<'_> {
        let begun = self.begin(candidate, live);
        self.0.last.store(Some(Arc::clone(&begun.sampling)));
        begun
    }

    fn begin(&self, candidate: &Candidate, live: &View) -> Begun<'_> {
        let sampling = sampling(candidate, live, false, VecDeque::new());
        self.replace(&sampling);
        self.take_samples(candidate, sampling)
    }

    fn take_samples(&self, candidate: &Candidate, sampling: Arc<Sampling>) -> Begun<'_> {
        let samples = candidate.migrate_from.is_none();
        let samples = samples.then(|| Arc::clone(&sampling));
        self.0.sampling.store(samples);
        Begun {
            stage: self,
            sampling,
        }
    }

    /// Ends the rehearsal under way, if there is one.
    fn replace(&self, sampling: &Arc<Sampling>) {
        if let Some(before) = self.0.current.swap(Some(Arc::clone(sampling))) {
            before.end(Outcome::Stopped);
        }
    }

    /// Begins to try the last requests on what is live. What comes out has data in it, and is shown in
    /// the log only.
    pub(super) fn begin_again(&self, candidate: &Candidate, live: &View) -> Begun<'_> {
        let last = self.0.last_requests.get().map_or_else(Vec::new, Last::all);
        let samples = last.into_iter().map(|request| Sample {
            request,
            live: live.digest,
            shards: live.shards(),
            data: Data::Again(Arc::clone(&live.snapshot)),
            taken: Instant::now(),
            bytes: 0,
        });
        let sampling = sampling(candidate, live, true, samples.collect());
        self.replace(&sampling);
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
    pub(crate) fn read(&self, view: &View, request: &Request) -> Option<Taken> {
        let sampling = self.0.sampling.load();
        let sampling = sampling.as_ref().filter(|sampling| sampling.wants())?;
        if sampling.is_full() {
            return Some(Taken::NoRoom);
        }
        let data = Data::Read(Arc::clone(&view.snapshot));
        Some(sample(request, view.digest, view.shards(), data, 0))
    }

    /// A sample of a request that is to write on top of this group, if one is to be taken.
    pub(crate) fn write(
        &self,
        (live, shards): (Digest, u32),
        group: &Group,
        partition: &[u8],
        request: &Request,
    ) -> Option<Taken> {
        let sampling = self.0.sampling.load();
        let sampling = sampling.as_ref().filter(|sampling| sampling.wants())?;
        if sampling.is_full() {
            return Some(Taken::NoRoom);
        }
        let (group, partition) = (group.fork(partition), partition.to_vec());
        let bytes = group.bytes();
        let data = Data::Write { group, partition };
        Some(sample(request, live, shards, data, bytes))
    }

    /// Has a sample rehearsed whose request was answered here.
    pub(crate) fn offer(&self, taken: Taken) {
        if let Some(sampling) = &*self.0.sampling.load() {
            match taken {
                Taken::Sample(sample) => sampling.put(*sample),
                Taken::NoRoom => sampling.leave_out(),
            }
        }
    }
}

fn sampling(
    candidate: &Candidate,
    live: &View,
    is_trial: bool,
    samples: VecDeque<Sample>,
) -> Arc<Sampling> {
    Arc::new(Sampling {
        share: candidate.settings.share.millionths().into(),
        is_trial,
        requests: AtomicU64::new(0),
        waiting: Mutex::new(Waiting {
            samples,
            ..Waiting::default()
        }),
        left_out: AtomicU64::new(0),
        ended: Condvar::new(),
        findings: Mutex::new(Findings::new(candidate.digest, live.digest)),
    })
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

fn sample(request: &Request, live: Digest, shards: u32, data: Data, bytes: usize) -> Taken {
    let copy = copied(request);
    let headers = copy.headers.iter();
    let headers: usize = headers
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    Taken::Sample(Box::new(Sample {
        bytes: bytes + copy.body.len() + copy.path.len() + headers,
        request: Arc::new(copy),
        live,
        shards,
        data,
        taken: Instant::now(),
    }))
}

impl Waiting {
    fn is_full(&self) -> bool {
        self.samples.len() >= MOST_SAMPLES || self.bytes >= MOST_BYTES
    }

    fn take(&mut self) -> Option<Sample> {
        let sample = self.samples.pop_front()?;
        self.bytes -= sample.bytes;
        Some(sample)
    }
}

impl Sampling {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no holder of this lock panics")
    }

    /// Whether a sample of the next request is to be taken.
    fn wants(&self) -> bool {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        // Spreads evenly, whatever pattern the requests have.
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        (spread * 1_000_000) >> 32 < self.share
    }

    /// The samples, unless another thread has them: a live request never waits for a thread of lower
    /// priority, which may be without a processor while it holds them.
    fn waiting_if_free(&self) -> Option<MutexGuard<'_, Waiting>> {
        match self.waiting.try_lock() {
            Ok(waiting) => Some(waiting),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => panic!("no holder of this lock panics"),
        }
    }

    /// Whether there is no room, so that nothing need be copied.
    fn is_full(&self) -> bool {
        self.waiting_if_free()
            .is_none_or(|waiting| waiting.is_full())
    }

    /// Adds a sample. Nobody is woken for it, as that would take a live request's time.
    fn put(&self, mut sample: Sample) {
        let Some(mut waiting) = self.waiting_if_free() else {
            self.leave_out();
            return;
        };
        // They keep data.
        while waiting.samples.front().is_some_and(Sample::is_old) {
            waiting.take();
            self.leave_out();
        }
        if waiting.is_over || waiting.is_full() || waiting.bytes + sample.bytes > MOST_BYTES {
            self.leave_out();
            return;
        }
        sample.taken = Instant::now();
        waiting.bytes += sample.bytes;
        waiting.samples.push_back(sample);
    }

    /// The next sample; `None` when the rehearsal is over.
    pub(super) fn next(&self, until: Instant) -> Option<Sample> {
        let mut waiting = self.waiting();
        loop {
            if waiting.is_over || Instant::now() >= until {
                return None;
            }
            if let Some(sample) = waiting.take() {
                return Some(sample);
            }
            if self.is_trial {
                return None;
            }
            let soon = until.min(Instant::now() + LOOKS_EVERY);
            waiting = match self.wait(waiting, soon) {
                Some(again) => again,
                None => self.waiting(),
            };
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

    /// Waits for the end; `None` when it is time.
    fn wait<'a>(
        &'a self,
        waiting: MutexGuard<'a, Waiting>,
        until: Instant,
    ) -> Option<MutexGuard<'a, Waiting>> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let waited = self.ended.wait_timeout(waiting, left);
        Some(waited.expect("no holder of this lock panics").0)
    }

    pub(super) fn is_trial(&self) -> bool {
        self.is_trial
    }

    pub(super) fn leave_out(&self) {
        self.left_out.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.waiting().is_over
    }

    /// Takes no more samples, and notes how the rehearsal ended, unless it has ended. Returns how many
    /// were left out.
    pub(super) fn end(&self, outcome: Outcome) -> u64 {
        let mut waiting = self.waiting();
        waiting.is_over = true;
        let left_out = waiting.samples.len() as u64;
        waiting.samples.clear();
        self.ended.notify_one();
        drop(waiting);
        let left_out = left_out + self.left_out.fetch_add(left_out, Ordering::Relaxed);
        self.findings().end(left_out, outcome);
        left_out
    }

    pub(super) fn findings(&self) -> MutexGuard<'_, Findings> {
        self.findings.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;
    use std::thread;

    use ostrakon_store::{Options, Store};

    use super::*;

    const LATER: Duration = Duration::from_mins(1);

    fn snapshot(directory: &Path) -> Arc<Snapshot> {
        let store = Store::open(Options::new(directory, 1 << 20)).unwrap();
        Arc::clone(store.snapshot().unwrap())
    }

    fn request() -> Request {
        Request {
            method: http::Method::GET,
            path: "/".to_owned(),
            headers: http::HeaderMap::new(),
            body: bytes::Bytes::new(),
            trace: Trace::default(),
            client: Client::default(),
            kept: Kept::default(),
        }
    }

    fn sample_of(snapshot: &Arc<Snapshot>, bytes: usize) -> Sample {
        let data = Data::Read(Arc::clone(snapshot));
        let live = Digest::of(b"live");
        match sample(&request(), live, 1, data, bytes) {
            Taken::Sample(sample) => *sample,
            Taken::NoRoom => panic!("it is made whether there is room or not"),
        }
    }

    fn sampling(share: u64) -> Sampling {
        Sampling {
            share,
            is_trial: false,
            requests: AtomicU64::new(0),
            waiting: Mutex::default(),
            left_out: AtomicU64::new(0),
            ended: Condvar::new(),
            findings: Mutex::new(Findings::new(Digest::of(b"new"), Digest::of(b"live"))),
        }
    }

    #[test]
    fn no_more_samples_wait_than_there_is_room_for() {
        let directory = tempfile::tempdir().unwrap();
        let snapshot = snapshot(directory.path());
        let few = sampling(1);
        few.put(sample_of(&snapshot, MOST_BYTES - 100));
        assert!(!few.is_full());
        few.put(sample_of(&snapshot, 200));
        few.put(sample_of(&snapshot, 10));
        assert_eq!(few.left_out.load(Ordering::Relaxed), 1, "by its bytes");
        // And those that waited at the end.
        assert_eq!(few.end(Outcome::Passed), 3);
        few.put(sample_of(&snapshot, 10));
        assert_eq!(few.end(Outcome::Passed), 4, "it is over");

        let many = sampling(1);
        for _ in 0..MOST_SAMPLES + 5 {
            many.put(sample_of(&snapshot, 1));
        }
        assert!(many.is_full());
        assert_eq!(many.left_out.load(Ordering::Relaxed), 5);
        let until = Instant::now() + LATER;
        assert!(many.next(until).is_some() && !many.is_full());
        // They keep data, and give way.
        for sample in &mut many.waiting().samples {
            sample.taken -= 2 * MOST_AGE;
        }
        many.put(sample_of(&snapshot, 1));
        let waiting = many.waiting();
        assert_eq!(waiting.samples.len(), 1);
        drop(waiting);
        let left_out = many.left_out.load(Ordering::Relaxed);
        assert_eq!(left_out, 5 + MOST_SAMPLES as u64 - 1);
    }

    #[test]
    fn a_live_request_does_not_wait_for_the_thread_that_rehearses() {
        let directory = tempfile::tempdir().unwrap();
        let sample = sample_of(&snapshot(directory.path()), 1);
        let sampling = Arc::new(sampling(1));
        let (done, is_done) = mpsc::channel();
        let of_the_rehearsal = sampling.waiting();
        let live = Arc::clone(&sampling);
        let _runs_on = thread::spawn(move || {
            let is_full = live.is_full();
            live.put(sample);
            done.send(is_full).unwrap();
        });
        assert!(is_done.recv_timeout(LATER).expect("it does not wait"));
        drop(of_the_rehearsal);
        assert_eq!(sampling.end(Outcome::Passed), 1, "it was left out");
    }

    #[test]
    fn its_time_ends_it_though_samples_wait() {
        let directory = tempfile::tempdir().unwrap();
        let snapshot = snapshot(directory.path());
        let sampling = sampling(1);
        sampling.put(sample_of(&snapshot, 1));
        assert!(sampling.next(Instant::now()).is_none());
        assert!(sampling.next(Instant::now() + LATER).is_some());
        sampling.end(Outcome::Stopped);
        assert!(sampling.next(Instant::now() + LATER).is_none());
        // It does not rest either.
        let began = Instant::now();
        sampling.rest(LATER, began + LATER);
        assert!(began.elapsed() < LATER);
    }

    #[test]
    fn the_share_of_requests_is_what_the_settings_say() {
        for share in [1, 1000, 100_000, 500_000, 1_000_000] {
            let sampling = sampling(share);
            let wanted = (0..1_000_000).filter(|_| sampling.wants()).count() as u64;
            assert!(
                wanted.abs_diff(share) <= 1 + share / 100,
                "{wanted} of {share}"
            );
        }
    }
}
