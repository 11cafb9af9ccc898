//! Cheap clients. Requests are made beforehand, each kept connection has one request in flight, and
//! a response is only checked to be complete and successful. They take more processor time than wrk,
//! and show each wait and each pause.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::figures::{Measured, as_f64, percentile};

/// How long a response may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// Keys that loads and saves choose from, unless a part needs more.
pub(crate) const KEYS: usize = 1000;

/// The distance of the keys of successive requests. Coprime to the numbers of keys, so that each
/// connection visits all of them, and large, so that successive keys are not neighbours.
const STRIDE: usize = 61_803;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    Http,
    Redis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Load,
    /// A save by the course's API, which the native handler has, too.
    Save,
    /// A save by the conventional API.
    Put,
}

impl Action {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Save => "save",
            Self::Put => "put",
        }
    }
}

/// What clients do in a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) action: Action,
    pub(crate) connections: usize,
    /// The number of keys that requests choose from.
    pub(crate) keys: usize,
}

impl Work {
    pub(crate) fn new(action: Action, connections: usize) -> Self {
        Self {
            action,
            connections,
            keys: KEYS,
        }
    }

    pub(crate) fn among(self, keys: usize) -> Self {
        Self { keys, ..self }
    }
}

/// The responses in a turn.
#[derive(Debug)]
pub(crate) struct Answers {
    /// How long each response took, in milliseconds, sorted.
    pub(crate) waits: Vec<f64>,
    /// The longest time in which none arrived.
    pub(crate) pause: Duration,
    took: Duration,
}

impl Answers {
    pub(crate) fn figures(&self) -> Measured {
        Measured {
            rate: as_f64(self.waits.len()) / self.took.as_secs_f64(),
            p50: percentile(&self.waits, 500),
            p99: percentile(&self.waits, 990),
        }
    }
}

/// The longest time between two responses on any connection.
#[derive(Debug)]
struct Pause {
    last: Instant,
    longest: Duration,
}

/// A server to be measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) protocol: Protocol,
}

impl Target {
    pub(crate) fn http(address: SocketAddr) -> Self {
        let protocol = Protocol::Http;
        Self { address, protocol }
    }

    /// A request with a 20-byte key and, for a save, a word of 64 bytes.
    fn request(self, action: Action, key: usize) -> Bytes {
        let (key, word) = (format!("key-{key:016}"), "w".repeat(64));
        let request = match (self.protocol, action) {
            (Protocol::Http, Action::Load) => {
                format!("GET /load/{key} HTTP/1.1\r\nhost: bench\r\n\r\n")
            }
            (Protocol::Http, Action::Save) => {
                format!("GET /save/{key}/{word} HTTP/1.1\r\nhost: bench\r\n\r\n")
            }
            (Protocol::Http, Action::Put) => {
                format!("PUT /kv/{key} HTTP/1.1\r\nhost: bench\r\ncontent-length: 64\r\n\r\n{word}")
            }
            (Protocol::Redis, Action::Load) => format!("*2\r\n$3\r\nGET\r\n$20\r\n{key}\r\n"),
            (Protocol::Redis, Action::Save | Action::Put) => {
                format!("*3\r\n$3\r\nSET\r\n$20\r\n{key}\r\n$64\r\n{word}\r\n")
            }
        };
        request.into()
    }

    /// Saves this many keys, once each.
    pub(crate) fn fill(self, keys: usize) -> anyhow::Result<()> {
        let connections = keys.min(64);
        let share = keys.div_ceil(connections);
        let answers = self.run(connections, |connection| {
            let keys = connection * share..keys.min((connection + 1) * share);
            keys.map(move |key| self.request(Action::Save, key))
        })?;
        let saved = answers.waits.len();
        ensure!(saved == keys, "{saved} of {keys} keys were saved");
        Ok(())
    }

    /// Does some work for some time.
    pub(crate) fn work(self, work: Work, time: Duration) -> anyhow::Result<Answers> {
        let requests: Arc<[Bytes]> = (0..work.keys)
            .map(|key| self.request(work.action, key))
            .collect();
        let began = Instant::now();
        self.run(work.connections, |connection| {
            let requests = Arc::clone(&requests);
            // Each connection has a start of its own, and sends one request even if the others
            // take all the time.
            let keys = (connection * 37..).step_by(STRIDE).enumerate();
            let keys = keys.take_while(move |(sent, _)| *sent == 0 || began.elapsed() < time);
            keys.map(move |(_, key)| requests[key % requests.len()].clone())
        })
    }

    /// How long each request waits for its response, in milliseconds. The clients pause between
    /// requests: nine loads, then a save, until `ended`.
    pub(crate) fn waits(
        self,
        connections: usize,
        pause: Duration,
        ended: &Arc<AtomicBool>,
    ) -> anyhow::Result<Vec<f64>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let mut clients = JoinSet::new();
            for connection in 0..connections {
                clients.spawn(waiting_client(self, connection, pause, Arc::clone(ended)));
            }
            let mut waits = Vec::new();
            while let Some(client) = clients.join_next().await {
                waits.extend(client.context("a client panicked")??);
            }
            Ok(waits)
        })
    }

    /// Opens connections, and sends each one's requests.
    fn run<I: Iterator<Item = Bytes> + Send + 'static>(
        self,
        connections: usize,
        requests: impl Fn(usize) -> I,
    ) -> anyhow::Result<Answers> {
        // One thread, which takes the least processor time from the server.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let began = Instant::now();
            let pause = Arc::new(Mutex::new(Pause {
                last: began,
                longest: Duration::ZERO,
            }));
            let mut clients = JoinSet::new();
            for connection in 0..connections {
                clients.spawn(client(self, requests(connection), Arc::clone(&pause)));
            }
            let mut waits = Vec::new();
            while let Some(client) = clients.join_next().await {
                waits.extend(client.context("a client panicked")??);
            }
            let took = began.elapsed();
            waits.sort_by(f64::total_cmp);
            let pause = pause.lock().expect("no holder panics").longest;
            Ok(Answers { waits, pause, took })
        })
    }
}

/// Sends each request when the one before is answered. Returns the waits, in milliseconds.
async fn client(
    target: Target,
    requests: impl Iterator<Item = Bytes>,
    pause: Arc<Mutex<Pause>>,
) -> anyhow::Result<Vec<f64>> {
    let mut connection = Connection::open(target).await?;
    let mut waits = Vec::new();
    for request in requests {
        let began = Instant::now();
        connection.ask(&request).await?;
        let now = Instant::now();
        waits.push((now - began).as_secs_f64() * 1000.0);
        let mut pause = pause.lock().expect("no holder panics");
        pause.longest = pause.longest.max(now - pause.last);
        pause.last = now;
    }
    Ok(waits)
}

/// Measures each request's wait.
async fn waiting_client(
    target: Target,
    connection: usize,
    pause: Duration,
    ended: Arc<AtomicBool>,
) -> anyhow::Result<Vec<f64>> {
    let first = connection * 37;
    let mut connection = Connection::open(target).await?;
    let mut waits = Vec::new();
    for number in (first..).step_by(7) {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let action = if number.is_multiple_of(10) {
            Action::Save
        } else {
            Action::Load
        };
        let began = Instant::now();
        let request = target.request(action, number % KEYS);
        connection.ask(&request).await?;
        waits.push(began.elapsed().as_secs_f64() * 1000.0);
        sleep(pause).await;
    }
    Ok(waits)
}

/// A connection with at most one request in flight.
struct Connection {
    target: Target,
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    async fn open(target: Target) -> anyhow::Result<Self> {
        Ok(Self {
            target,
            stream: connect(target.address).await?,
            answer: Vec::with_capacity(4096),
        })
    }

    /// Sends a request and reads its response.
    async fn ask(&mut self, request: &[u8]) -> anyhow::Result<()> {
        let protocol = self.target.protocol;
        self.stream.write_all(request).await?;
        self.answer.clear();
        while !is_whole(protocol, &self.answer)? {
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.answer)).await;
            let read = read.context("the server does not answer")??;
            ensure!(read > 0, "the server closed the connection");
        }
        // A server that keeps no connections needs a new one for each request.
        if matches!(protocol, Protocol::Http) && closes(&self.answer) {
            self.stream = connect(self.target.address).await?;
        }
        Ok(())
    }
}

async fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = timeout(PATIENCE, TcpStream::connect(address)).await;
    let stream = stream.context("the server does not accept")??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn closes(answer: &[u8]) -> bool {
    const CLOSE: &[u8] = b"\r\nConnection: close\r\n";
    answer.windows(CLOSE.len()).any(|line| line == CLOSE)
}

/// Whether a response is complete; fails if it is not successful.
fn is_whole(protocol: Protocol, answer: &[u8]) -> anyhow::Result<bool> {
    let whole = match protocol {
        Protocol::Http => whole_http(answer),
        Protocol::Redis => whole_redis(answer),
    };
    match whole {
        Some(length) if answer.len() > length => bail!("the server sent more than one response"),
        Some(length) => Ok(answer.len() == length && is_good(protocol, answer)?),
        None => Ok(false),
    }
}

fn is_good(protocol: Protocol, answer: &[u8]) -> anyhow::Result<bool> {
    let good = match protocol {
        Protocol::Http => answer.starts_with(b"HTTP/1.1 20"),
        Protocol::Redis => !answer.starts_with(b"-"),
    };
    ensure!(
        good,
        "the server rejected a request: {}",
        String::from_utf8_lossy(answer)
    );
    Ok(true)
}

/// The length of an HTTP response, once its headers are complete.
fn whole_http(answer: &[u8]) -> Option<usize> {
    const LENGTH: &[u8] = b"content-length:";
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    if answer.starts_with(b"HTTP/1.1 204 ") {
        return Some(head);
    }
    let mut lines = answer[..head].split(|byte| *byte == b'\n');
    let length = lines.find_map(|line| {
        let (name, value) = line.split_at_checked(LENGTH.len())?;
        name.eq_ignore_ascii_case(LENGTH).then_some(value)
    })?;
    number(length).map(|length| head + length)
}

/// The length of a Redis reply: a line, or a line with a length and a value.
fn whole_redis(answer: &[u8]) -> Option<usize> {
    let line = answer.windows(2).position(|end| end == b"\r\n")? + 2;
    match answer[0] {
        b'$' if answer[1] != b'-' => number(&answer[1..line]).map(|length| line + length + 2),
        _ => Some(line),
    }
}

fn number(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}
