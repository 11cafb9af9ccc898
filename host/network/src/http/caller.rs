//! Who is at the other end of a connection, and whether it may go on.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ostrakon_contract::client::Client;
use tokio::sync::watch;
use tokio::time::sleep;

use super::Refusal;
use crate::tls::{self, Chain};

/// How often what a client has shown is looked at again: a certificate expires without anything
/// having changed.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// What streams have to be in, as it is now: TLS, or none. It can change while the server runs.
pub type Door = watch::Receiver<Option<tls::Server>>;

/// A door to which nothing belongs: streams are plain, for good.
pub fn plain() -> Door {
    watch::channel(None).1
}

/// A connection's client.
#[derive(Debug)]
pub struct Caller {
    address: SocketAddr,
    is_here: bool,
    /// What its requests share.
    client: Client,
    shown: Shown,
    /// Relaxed: whoever reads it reads nothing else by it.
    welcome: AtomicBool,
}

/// What a client has shown of itself.
#[derive(Debug)]
enum Shown {
    Plain,
    Tls(Option<Chain>),
}

impl Caller {
    /// One whose stream is plain, from its address to one of this machine's.
    pub fn plain(address: SocketAddr, to: SocketAddr) -> Self {
        let is_loopback = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        Self {
            // A proxy beside this process can call from a loopback address for anybody; it calls
            // the address that it was called at.
            is_here: is_loopback(address) && is_loopback(to),
            ..Self::new(address, Shown::Plain)
        }
    }

    /// One in TLS, and what it has shown there.
    pub fn in_tls(address: SocketAddr, chain: Option<Chain>) -> Self {
        Self::new(address, Shown::Tls(chain))
    }

    fn new(address: SocketAddr, shown: Shown) -> Self {
        Self {
            address,
            is_here: false,
            client: Client::default(),
            shown,
            welcome: AtomicBool::new(true),
        }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its requests share with each other.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether it is on this machine, and called it at a loopback address.
    pub fn is_here(&self) -> bool {
        self.is_here
    }

    /// Whether it has shown a certificate that was believed.
    pub fn has_certificate(&self) -> bool {
        matches!(self.shown, Shown::Tls(Some(_)))
    }

    /// Why nothing more that it asks is answered, if so.
    pub(super) fn unwelcome(&self) -> Option<Refusal> {
        if self.welcome.load(Ordering::Relaxed) {
            return None;
        }
        Some(match self.shown {
            Shown::Plain => Refusal::HttpsOnly,
            Shown::Tls(_) => Refusal::ClientCertificate,
        })
    }

    /// Returns when it may not go on, for what it has shown does not do any more; `door` is as it
    /// was when it came in.
    pub(super) async fn until_unwelcome(&self, mut door: Door) {
        loop {
            let changed = async {
                if door.changed().await.is_err() {
                    // It is as it is for good.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = changed => {}
                () = sleep(LOOK_EVERY), if self.has_certificate() => {}
            }
            if !self.may_pass(door.borrow_and_update().as_ref()) {
                self.welcome.store(false, Ordering::Relaxed);
                return;
            }
        }
    }

    fn may_pass(&self, door: Option<&tls::Server>) -> bool {
        match (&self.shown, door) {
            (Shown::Plain, door) => door.is_none(),
            (Shown::Tls(_), None) => true,
            (Shown::Tls(chain), Some(server)) => server.admits(chain.as_ref()),
        }
    }
}
