//! This side of every connection.

use std::fmt;
use std::sync::Arc;

use ostrakon_network::handshake_backlog::HandshakeBacklog;
use tokio::sync::watch;

use super::addresses::Addresses;
use super::credentials::Credentials;
use super::settings::Settings;

/// What this process brings to each of its connections.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Who we are.
    pub identity: Identity,
    /// What we share with the cluster, as it is now.
    pub credentials: watch::Receiver<Arc<Credentials>>,
    /// Our bounds and times.
    pub settings: Settings,
    /// Where peers are, by what was heard of them.
    pub addresses: Addresses,
    pub(super) backlog: Arc<HandshakeBacklog>,
}

impl Endpoint {
    /// An endpoint with the default settings. Connections follow what becomes
    /// of the credentials.
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

/// The identity of one shard process, as told in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The place of the shard in the cluster.
    pub ordinal: u32,
    /// The number of this life of the shard; a restart has another one.
    pub incarnation: u64,
    /// The identity of the store that the shard keeps.
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
