//! This side of every connection.

use std::fmt;
use std::sync::Arc;

use ostrakon_network::handshake_backlog::HandshakeBacklog;
use tokio::sync::watch;

use super::addresses::Addresses;
use super::credentials::Credentials;
use super::settings::Settings;

/// The state that this process's connections have in common.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub identity: Identity,
    /// The current credentials of the cluster.
    pub credentials: watch::Receiver<Arc<Credentials>>,
    /// The bounds and times of this side.
    pub settings: Settings,
    pub addresses: Addresses,
    pub(super) backlog: Arc<HandshakeBacklog>,
}

impl Endpoint {
    /// An endpoint with the default settings. Its connections follow changes of the credentials.
    pub fn new(identity: Identity, credentials: watch::Receiver<Arc<Credentials>>) -> Self {
        Self {
            identity,
            credentials,
            settings: Settings::default(),
            addresses: Addresses::default(),
            backlog: Arc::default(),
        }
    }
}

/// The identity of one shard process, as announced in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The shard's index in the StatefulSet.
    pub ordinal: u32,
    /// The number of this process; each restart has a higher one.
    pub incarnation: u64,
    /// The identity of the shard's store.
    pub store: u128,
}

impl fmt::Display for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{}/{}@{:032x}",
            self.ordinal, self.incarnation, self.store
        )
    }
}
