//! Reaching a peer by the fastest way.
//!
//! Names lag behind a peer that has moved: caches keep the answer that a name does not exist, or
//! keep its old address, at which nothing answers. So the address that the peer itself announced
//! is tried first. Its name follows a moment later, and is resolved again as long as no attempt
//! has ended; attempts at addresses that the name no longer resolves to are abandoned. The peer's
//! previous addresses come last. All attempts run at the same time, and the first connection whose
//! other side has authenticated wins.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures_util::future::select_all;
use ostrakon_network::tls::Problem;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::addresses::Heard;
use super::connection::Connection;
use super::credentials::Way;
use super::dial::Dial;
use super::endpoint::Endpoint;
use super::handshake_error::HandshakeError;

/// The most addresses of one name that are tried at the same time.
const MAX_OF_A_NAME: usize = 4;
/// The most reasons listed for why a peer cannot be reached.
const MAX_REASONS: usize = 4;

/// The peer to reach, and the means to reach it.
pub(super) struct Race<'a, D> {
    pub ordinal: u32,
    pub address: &'a str,
    pub endpoint: &'a Endpoint,
    pub dial: &'a D,
}

pub(super) struct Opened {
    pub connection: Connection,
    pub at: SocketAddr,
    /// Whether the peer's configured address resolved to this address.
    pub is_at_its_name: AtomicBool,
}

struct Try<'a> {
    at: SocketAddr,
    by_name: bool,
    opening: Pin<Box<dyn Future<Output = Result<Connection, Failed>> + Send + 'a>>,
}

struct Failed {
    why: String,
    /// Whether the process at the address cannot be the peer.
    is_another: bool,
}

type LookUp<'a> = Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// The addresses to try next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Stage {
    Announced,
    Name,
    Remembered,
    Last,
}

impl<D: Dial> Race<'_, D> {
    /// Returns the first connection. It takes as long as any attempt hangs, so the caller must
    /// bound its time.
    ///
    /// # Errors
    /// The reasons why no attempt succeeded.
    pub(super) async fn run(&self) -> Result<Opened, String> {
        let settings = &self.endpoint.settings;
        let mut watch = self.endpoint.addresses.watch(self.ordinal);
        let mut tries: Vec<Try<'_>> = Vec::new();
        let mut look_up: Option<LookUp<'_>> = None;
        let mut asked = Instant::now();
        // The addresses that the name last resolved to.
        let mut named: Vec<SocketAddr> = Vec::new();
        let mut failed: Vec<SocketAddr> = Vec::new();
        let mut reasons = Reasons::default();
        let mut stage = Stage::Announced;
        let mut next = Instant::now();
        loop {
            // The next stage is due, or nothing else is pending.
            if Instant::now() >= next || (tries.is_empty() && look_up.is_none()) {
                let heard = *watch.borrow_and_update();
                match stage {
                    Stage::Announced => self.start(&mut tries, announced(heard), false),
                    Stage::Name => {
                        asked = Instant::now();
                        look_up = Some(Box::pin(self.dial.resolve(self.address)));
                    }
                    Stage::Remembered => {
                        let untried = |at: &SocketAddr| !failed.contains(at);
                        self.start(&mut tries, heard.told.filter(untried), false);
                        self.start(&mut tries, heard.found.filter(untried), false);
                    }
                    Stage::Last if tries.is_empty() && look_up.is_none() => {
                        return Err(reasons.0.join("; "));
                    }
                    Stage::Last => {}
                }
                stage = stage.next();
                next = Instant::now() + settings.stagger;
                if tries.is_empty() && look_up.is_none() {
                    continue;
                }
            }
            let is_asked = stage > Stage::Name;
            tokio::select! {
                biased;
                (at, opened) = first(&mut tries) => match opened {
                    Ok(connection) => {
                        self.endpoint.addresses.find(self.ordinal, at);
                        return Ok(Opened {
                            connection,
                            at,
                            is_at_its_name: named.contains(&at).into(),
                        });
                    }
                    Err(error) => {
                        if error.is_another {
                            self.endpoint.addresses.forget(self.ordinal, at);
                        }
                        failed.push(at);
                        reasons.note(format!("{at}: {}", error.why));
                    }
                },
                found = answer(&mut look_up) => {
                    look_up = None;
                    match found {
                        Ok(found) => {
                            tries.retain(|it| !it.by_name || found.contains(&it.at));
                            for at in found.iter().take(MAX_OF_A_NAME) {
                                self.start(&mut tries, Some(*at), true);
                            }
                            named = found;
                        }
                        Err(error) => reasons.note(format!("{}: {error}", self.address)),
                    }
                }
                heard = changed(&mut watch) => {
                    self.start(&mut tries, announced(heard), false);
                    self.start(&mut tries, heard.told, false);
                }
                () = sleep_until(next), if stage != Stage::Last => {}
                () = sleep_until(asked + settings.look_again), if is_asked && look_up.is_none() => {
                    asked = Instant::now();
                    look_up = Some(Box::pin(self.dial.resolve(self.address)));
                }
            }
        }
    }

    /// Begins an attempt at an address, unless one is under way.
    fn start<'a>(&'a self, tries: &mut Vec<Try<'a>>, at: Option<SocketAddr>, by_name: bool) {
        let Some(at) = at.filter(|at| tries.iter().all(|it| it.at != *at)) else {
            return;
        };
        let opening = Box::pin(self.open(at));
        tries.push(Try {
            at,
            by_name,
            opening,
        });
    }

    /// Opens a connection to an address. The peer there must prove that it has this ordinal and,
    /// in TLS, the configured name.
    async fn open(&self, at: SocketAddr) -> Result<Connection, Failed> {
        let (endpoint, wanted) = (self.endpoint, Some(self.ordinal));
        let credentials = Arc::clone(&endpoint.credentials.borrow());
        let mut refused = None;
        for way in credentials.ways() {
            let stream = self.dial.dial(at).await.map_err(|error| Failed {
                why: error.to_string(),
                is_another: false,
            })?;
            let opened = match way {
                Way::Tls => Connection::open_tls(stream, endpoint, self.host(), wanted).await,
                Way::Plain => Connection::open(stream, endpoint, wanted).await,
            };
            match opened {
                Ok(connection) => return Ok(connection),
                // The peer does not know TLS, so the next way may work.
                Err(error @ HandshakeError::Tls(Problem::Closed)) => refused = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(refused.expect("there is a way to connect").into())
    }

    /// The host name or address in the configured address.
    fn host(&self) -> &str {
        let split = self.address.rsplit_once(':');
        split.map_or(self.address, |(host, _)| host)
    }
}

impl From<HandshakeError> for Failed {
    fn from(error: HandshakeError) -> Self {
        Self {
            is_another: error.is_of_another(),
            why: error.to_string(),
        }
    }
}

impl Stage {
    fn next(self) -> Self {
        match self {
            Self::Announced => Self::Name,
            Self::Name => Self::Remembered,
            Self::Remembered | Self::Last => Self::Last,
        }
    }
}

/// The reasons of failed attempts, each listed once.
#[derive(Default)]
struct Reasons(Vec<String>);

impl Reasons {
    fn note(&mut self, reason: String) {
        if self.0.len() < MAX_REASONS && !self.0.contains(&reason) {
            self.0.push(reason);
        }
    }
}

fn announced(heard: Heard) -> Option<SocketAddr> {
    heard.announced.map(|announced| announced.at)
}

/// Removes and returns the first attempt that ends.
async fn first(tries: &mut Vec<Try<'_>>) -> (SocketAddr, Result<Connection, Failed>) {
    if tries.is_empty() {
        std::future::pending::<()>().await;
    }
    let opening = tries.iter_mut().map(|it| it.opening.as_mut());
    let (opened, ended, _) = select_all(opening).await;
    let ended = tries.remove(ended);
    (ended.at, opened)
}

/// The result of the pending look-up, if there is one.
async fn answer(look_up: &mut Option<LookUp<'_>>) -> std::io::Result<Vec<SocketAddr>> {
    match look_up {
        Some(look_up) => look_up.await,
        None => std::future::pending().await,
    }
}

/// The peer's known addresses, at their next change.
async fn changed(watch: &mut watch::Receiver<Heard>) -> Heard {
    if watch.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    *watch.borrow_and_update()
}
