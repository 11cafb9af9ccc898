//! A connection's client, and whether the connection may continue.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ostrakon_contract::client::Client;
use tokio::sync::watch;
use tokio::time::sleep;

use super::{Refusal, refusals};
use crate::tls::{self, Chain};

/// How often a client's credentials are checked again: a certificate can expire without any
/// configuration change.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// Whether connections must use TLS, and how. It can change while the server runs.
pub type Door = watch::Receiver<Option<tls::Server>>;

/// A door that always accepts plain connections.
pub fn plain() -> Door {
    watch::channel(None).1
}

/// The client of one connection.
#[derive(Debug)]
pub struct Caller {
    address: SocketAddr,
    is_here: bool,
    /// State shared by the connection's requests.
    client: Client,
    shown: Shown,
    /// Relaxed: no other data is published through this flag.
    welcome: AtomicBool,
}

/// The credentials that a client has shown.
#[derive(Debug)]
enum Shown {
    Plain,
    Tls(Option<Chain>),
}

impl Caller {
    /// The client of a plain connection from `address` to `to`, a local address.
    pub fn plain(address: SocketAddr, to: SocketAddr) -> Self {
        let is_loopback = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        Self {
            // A proxy beside this process can connect from a loopback address on behalf of
            // anybody, but it connects to the address that its own client used.
            is_here: is_loopback(address) && is_loopback(to),
            ..Self::new(address, Shown::Plain)
        }
    }

    /// The client of a TLS connection, with the certificate chain it has shown.
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

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The state that the connection's requests share.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the client is on this machine and connected to a loopback address.
    pub fn is_here(&self) -> bool {
        self.is_here
    }

    /// Whether the client has shown a certificate that was accepted.
    pub fn has_certificate(&self) -> bool {
        matches!(self.shown, Shown::Tls(Some(_)))
    }

    /// The refusal for all further requests, once the client may not continue.
    pub(super) fn unwelcome(&self) -> Option<Refusal> {
        if self.welcome.load(Ordering::Relaxed) {
            return None;
        }
        Some(match self.shown {
            Shown::Plain => refusals::HTTPS_ONLY,
            Shown::Tls(_) => refusals::CLIENT_CERTIFICATE,
        })
    }

    /// Returns when the client's credentials are no longer accepted. `door` must be the one with
    /// which the client was let in, so that no change is missed.
    pub(super) async fn until_unwelcome(&self, mut door: Door) {
        loop {
            let changed = async {
                if door.changed().await.is_err() {
                    // The sender is gone, so the door no longer changes.
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
