//! Clients that write and read through any shard, and count what they see.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::bail;
use http::Method;
use ostrakon_dev::Addresses;
use ostrakon_network::http::client::request;
use tokio::task::JoinSet;
use tokio::time::sleep;

const CLIENTS: usize = 8;
/// The pause of each client after it has written and read a word.
const PAUSE: Duration = Duration::from_millis(5);
/// How late clients learn that a shard is no longer ready: much sooner than it stops answering.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long clients wait for a response.
const PATIENCE: Duration = Duration::from_secs(30);

/// A key, and the word that was last written to it.
pub(crate) type Entry = (String, String);

/// The clients' shared state.
#[derive(Debug)]
pub(crate) struct Clients {
    addresses: Addresses,
    /// Whether requests may go to each shard, as a Service would know.
    ready: Vec<AtomicBool>,
    turns: AtomicUsize,
    has_ended: AtomicBool,
    seen: Mutex<Seen>,
    words: AtomicU64,
}

/// The requests so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// The error of the first failed request.
    pub(crate) first_failure: Option<String>,
    pub(crate) longest: Duration,
}

#[derive(Debug)]
pub(crate) struct Working {
    clients: Arc<Clients>,
    tasks: JoinSet<Vec<Entry>>,
    follower: JoinSet<()>,
}

impl Clients {
    /// Clients of at most this many shards, of which the first ones are ready.
    pub(crate) fn new(addresses: Addresses, most: u32, ready: Range<u32>) -> Arc<Self> {
        let ready = (0..most).map(|shard| AtomicBool::new(ready.contains(&shard)));
        Arc::new(Self {
            addresses,
            ready: ready.collect(),
            turns: AtomicUsize::new(0),
            has_ended: AtomicBool::new(false),
            seen: Mutex::default(),
            words: AtomicU64::new(0),
        })
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().expect("no holder panics").clone()
    }

    pub(crate) async fn write_all(self: &Arc<Self>, entries: &[Entry]) {
        self.ask_all(entries, |(key, word)| format!("/save/{key}/{word}"))
            .await;
    }

    /// Reads all entries back, and expects their words.
    pub(crate) async fn read_all(self: &Arc<Self>, entries: &[Entry]) {
        self.ask_all(entries, |(key, _)| format!("/load/{key}"))
            .await;
    }

    /// Sends a request for each entry, and expects its word as the response.
    async fn ask_all(self: &Arc<Self>, entries: &[Entry], path: fn(&Entry) -> String) {
        let mut tasks = JoinSet::new();
        for entries in entries.chunks(entries.len().div_ceil(CLIENTS)) {
            let (clients, entries) = (Arc::clone(self), entries.to_vec());
            tasks.spawn(async move {
                for entry in &entries {
                    clients.ask(&path(entry), &entry.1).await;
                }
            });
        }
        tasks.join_all().await;
    }

    /// Starts to write and read these entries repeatedly.
    pub(crate) fn begin(self: &Arc<Self>, entries: &[Entry]) -> Working {
        let mut tasks = JoinSet::new();
        for entries in entries.chunks(entries.len().div_ceil(CLIENTS)) {
            tasks.spawn(Arc::clone(self).work(entries.to_vec()));
        }
        let mut follower = JoinSet::new();
        follower.spawn(Arc::clone(self).follow());
        Working {
            clients: Arc::clone(self),
            tasks,
            follower,
        }
    }

    /// Runs one client until the end, and returns what it wrote last.
    async fn work(self: Arc<Self>, mut entries: Vec<Entry>) -> Vec<Entry> {
        loop {
            for (key, word) in &mut entries {
                if self.has_ended.load(Ordering::Relaxed) {
                    return entries;
                }
                let number = self.words.fetch_add(1, Ordering::Relaxed);
                *word = format!("word-{number}");
                self.ask(&format!("/save/{key}/{word}"), word).await;
                self.ask(&format!("/load/{key}"), word).await;
                sleep(PAUSE).await;
            }
        }
    }

    /// Keeps the readiness of the shards up to date, without end.
    async fn follow(self: Arc<Self>) {
        loop {
            for (shard, ready) in (0..).zip(&self.ready) {
                let admin = self.addresses.admin(shard);
                let answer = request(admin, Method::GET, "/readyz", PATIENCE).await;
                let is_ready = answer.is_ok_and(|(status, _)| status.is_success());
                ready.store(is_ready, Ordering::Relaxed);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// The next ready shard, in turns.
    async fn any(&self) -> u32 {
        loop {
            for _ in &self.ready {
                let shard = self.turns.fetch_add(1, Ordering::Relaxed) % self.ready.len();
                if self.ready[shard].load(Ordering::Relaxed) {
                    return u32::try_from(shard).expect("the number is small");
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Sends one request through any shard; the response must be this word. It is never retried.
    async fn ask(&self, path: &str, word: &str) {
        let shard = self.any().await;
        let began = Instant::now();
        let answered = self.answered(shard, path, word).await;
        let waited = began.elapsed();
        let mut seen = self.seen.lock().expect("no holder panics");
        seen.requests += 1;
        seen.longest = seen.longest.max(waited);
        if let Err(error) = answered {
            seen.failed += 1;
            let failure = format!("GET {path} through shard {shard}: {error:#}");
            seen.first_failure.get_or_insert(failure);
        }
    }

    async fn answered(&self, shard: u32, path: &str, word: &str) -> anyhow::Result<()> {
        let address = self.addresses.public(shard);
        let (status, body) = request(address, Method::GET, path, PATIENCE).await?;
        if !status.is_success() || body != word.as_bytes() {
            let body = String::from_utf8_lossy(&body);
            bail!("{status}, {:?} instead of {word:?}", body.trim_end());
        }
        Ok(())
    }
}

impl Working {
    /// Ends the clients, and returns what they wrote last.
    pub(crate) async fn end(mut self) -> Vec<Entry> {
        self.clients.has_ended.store(true, Ordering::Relaxed);
        let entries = self.tasks.join_all().await;
        self.follower.shutdown().await;
        entries.into_iter().flatten().collect()
    }
}
