//! Why a shard ends other than well.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ostrakon_base::stored::Unreadable;
use ostrakon_engine::EngineError;
use ostrakon_protocol::Stopped;
use ostrakon_shard::swap::DefaultGuestError;
use ostrakon_shard::writer::ChangeError;
use ostrakon_store::OpenError;
use ostrakon_volumes::volume::{ReadError, StartError};

use super::credentials::{ClientsError, OperatorsError, PeersError};

/// Why a shard does not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A port cannot be bound.
    #[error("cannot listen on {address}: stop what uses it, or choose another address")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// What is stored beside the data is damaged.
    #[error("cannot use {path}: {source}; restore it from a backup")]
    Record {
        /// The store's file.
        path: PathBuf,
        /// What of it, and why.
        source: Unreadable,
    },
    /// A part of the data directory cannot be made.
    #[error(
        "cannot use the data directory {path}: see that it is on a writable volume that has space"
    )]
    Data {
        /// The part.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Guests cannot run here.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A volume cannot be watched.
    #[error(transparent)]
    Volume(#[from] StartError),
    /// There is no Secret where it is said to be mounted.
    #[error(
        "there is no directory {0} with secrets: mount the Secret there, or leave --secrets-dir out"
    )]
    NoSecrets(PathBuf),
    /// The Secret cannot be read, and what it would have demanded is not known.
    #[error("the Secret cannot be read")]
    Secrets(#[source] Arc<ReadError>),
    /// The first configuration cannot serve, and there is none from before.
    #[error("the configuration in {directory} cannot serve, step {step}: {reason}")]
    Configuration {
        /// The ConfigMap's directory.
        directory: PathBuf,
        /// Where it failed.
        step: &'static str,
        /// Why.
        reason: String,
    },
    /// What the Secret has for the public port cannot be used.
    #[error(transparent)]
    Clients(#[from] ClientsError),
    /// What the Secret has for the admin port cannot be used.
    #[error(transparent)]
    Operators(#[from] OperatorsError),
    /// The default guest cannot be read.
    #[error(transparent)]
    DefaultGuest(#[from] DefaultGuestError),
    /// What the Secret has for the peer port cannot be used.
    #[error(transparent)]
    Peers(#[from] PeersError),
    /// The shard's place among others cannot be taken.
    #[error("the shard's place among others cannot be stored")]
    Membership(#[from] ChangeError),
    /// The system denies a thread, a signal or an event queue.
    #[error("the system does not give what a shard needs")]
    System(#[from] io::Error),
    /// Requests were still in flight when the drain's deadline passed.
    #[error("the drain's deadline passed with {in_flight} requests in flight")]
    Undrained {
        /// How many.
        in_flight: usize,
    },
    /// Not all partitions were handed over when the drain's deadline passed.
    #[error(
        "the drain's deadline passed with partitions to hand over: they come back when this shard does"
    )]
    PartitionsLeft,
    /// It was told that it must not go on, and nobody says so any longer.
    #[error("told that this process must not go on, which nobody confirms: start it again ({0})")]
    Stopped(#[source] Stopped),
    /// A second signal ended it at once.
    #[error("ended at once by a second signal")]
    Forced,
}

impl Error {
    /// What is stored beside the data, in this file, cannot be read.
    pub(crate) fn record(path: PathBuf, source: Unreadable) -> Self {
        match source {
            Unreadable::Newer { .. } => OpenError::Newer { path, source }.into(),
            Unreadable::Broken { .. } => Self::Record { path, source },
        }
    }
}
