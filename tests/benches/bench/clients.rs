//! Cheap clients. Requests are made beforehand, each kept connection has one request in flight, and
//! a response is only checked to be complete and successful.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long a response may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// Keys that loads and saves choose from.
pub(crate) const KEYS: usize = 1000;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    Http,
    Redis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Load,
    Save,
}

impl Action {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Save => "save",
        }
    }
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
            (Protocol::Redis, Action::Load) => format!("*2\r\n$3\r\nGET\r\n$20\r\n{key}\r\n"),
            (Protocol::Redis, Action::Save) => {
                format!("*3\r\n$3\r\nSET\r\n$20\r\n{key}\r\n$64\r\n{word}\r\n")
            }
        };
        request.into()
    }

    /// Saves this many keys, once each.
    pub(crate) fn fill(self, keys: usize) -> anyhow::Result<()> {
        let connections = keys.min(16);
        let share = keys.div_ceil(connections);
        let answered = self.run(connections, |connection| {
            let keys = connection * share..keys.min((connection + 1) * share);
            keys.map(move |key| self.request(Action::Save, key))
        })?;
        ensure!(answered == keys, "{answered} of {keys} keys were saved");
        Ok(())
    }

    /// The requests per second that are answered on this many connections.
    pub(crate) fn rate(
        self,
        action: Action,
        connections: usize,
        time: Duration,
    ) -> anyhow::Result<f64> {
        let requests: Arc<[Bytes]> = (0..KEYS).map(|key| self.request(action, key)).collect();
        let began = Instant::now();
        let answered = self.run(connections, |connection| {
            let requests = Arc::clone(&requests);
            // Coprime to the number of keys, so each connection visits all keys, from a start of
            // its own.
            let keys = (connection * 37..).step_by(7);
            let requests = keys.map(move |key| requests[key % KEYS].clone());
            requests.take_while(move |_| began.elapsed() < time)
        })?;
        ensure!(answered >= connections, "a connection got no response");
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        Ok(answered as f64 / began.elapsed().as_secs_f64())
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

    /// Opens connections, sends each one's requests, and counts the responses.
    fn run<I: Iterator<Item = Bytes> + Send + 'static>(
        self,
        connections: usize,
        requests: impl Fn(usize) -> I,
    ) -> anyhow::Result<usize> {
        // One thread, which takes the least processor time from the server.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let mut clients = JoinSet::new();
            for connection in 0..connections {
                clients.spawn(client(self, requests(connection)));
            }
            let mut answered = 0;
            while let Some(client) = clients.join_next().await {
                answered += client.context("a client panicked")??;
            }
            Ok(answered)
        })
    }
}

/// Sends each request when the one before is answered, and counts the responses.
async fn client(target: Target, requests: impl Iterator<Item = Bytes>) -> anyhow::Result<usize> {
    let mut stream = connect(target.address).await?;
    let mut answer = Vec::with_capacity(4096);
    let mut answered = 0;
    for request in requests {
        stream.write_all(&request).await?;
        answer.clear();
        while !is_whole(target.protocol, &answer)? {
            let read = timeout(PATIENCE, stream.read_buf(&mut answer)).await;
            let read = read.context("the server does not answer")??;
            ensure!(read > 0, "the server closed the connection");
        }
        answered += 1;
        // A server that keeps no connections needs a new one for each request.
        if matches!(target.protocol, Protocol::Http) && closes(&answer) {
            stream = connect(target.address).await?;
        }
    }
    Ok(answered)
}

/// Measures each request's wait.
async fn waiting_client(
    target: Target,
    connection: usize,
    pause: Duration,
    ended: Arc<AtomicBool>,
) -> anyhow::Result<Vec<f64>> {
    let mut stream = connect(target.address).await?;
    let mut answer = Vec::with_capacity(4096);
    let mut waits = Vec::new();
    for number in (connection * 37..).step_by(7) {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let action = if number.is_multiple_of(10) {
            Action::Save
        } else {
            Action::Load
        };
        let began = Instant::now();
        stream
            .write_all(&target.request(action, number % KEYS))
            .await?;
        answer.clear();
        while !is_whole(target.protocol, &answer)? {
            let read = timeout(PATIENCE, stream.read_buf(&mut answer)).await;
            let read = read.context("the server does not answer")??;
            ensure!(read > 0, "the server closed the connection");
        }
        waits.push(began.elapsed().as_secs_f64() * 1000.0);
        sleep(pause).await;
    }
    Ok(waits)
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
        Protocol::Http => answer.starts_with(b"HTTP/1.1 200 "),
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
