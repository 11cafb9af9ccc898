//! Why a shard does not start, or does not end well.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ostrakon_base::stored::Unreadable;
use ostrakon_engine::EngineError;
use ostrakon_protocol::Stopped;
use ostrakon_shard::swap::DefaultGuestError;
use ostrakon_shard::writer::ChangeError;
use ostrakon_store::{OpenError, advice};
use ostrakon_volumes::volume::{ReadError, StartError};

use super::credentials::{ClientsError, OperatorsError, PeersError};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot listen on {address}: stop what uses it, or choose another address")]
    Bind {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Store(#[from] OpenError),
    /// A record beside the data is damaged.
    #[error("cannot use {path}: {source}; restore it from a backup")]
    Record {
        /// The store's file.
        path: PathBuf,
        /// The record and the reason.
        source: Unreadable,
    },
    /// A part of the data directory cannot be created.
    #[error("cannot use the data directory {path}{}", advice(.source))]
    Data {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Guests cannot run on this machine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Volume(#[from] StartError),
    /// The Secret is not mounted where the options say.
    #[error(
        "there is no directory {0} with secrets: mount the Secret there, or leave --secrets-dir out"
    )]
    NoSecrets(PathBuf),
    /// The Secret cannot be read, so it is not known what it demands of clients.
    #[error("the Secret cannot be read")]
    Secrets(#[source] Arc<ReadError>),
    /// The first configuration cannot serve, and there is no earlier one.
    #[error("the configuration in {directory} cannot serve, step {step}: {reason}")]
    Configuration {
        /// The ConfigMap's directory.
        directory: PathBuf,
        step: &'static str,
        reason: String,
    },
    /// The Secret's keys for the public port cannot be used.
    #[error(transparent)]
    Clients(#[from] ClientsError),
    /// The Secret's keys for the admin port cannot be used.
    #[error(transparent)]
    Operators(#[from] OperatorsError),
    #[error(transparent)]
    DefaultGuest(#[from] DefaultGuestError),
    /// The Secret's keys for the peer port cannot be used.
    #[error(transparent)]
    Peers(#[from] PeersError),
    #[error("the shard's place among others cannot be stored")]
    Membership(#[from] ChangeError),
    /// The system refuses a thread, a signal handler or an event queue.
    #[error("the system refuses a resource that the shard needs")]
    System(#[from] io::Error),
    /// Requests were still in flight when the drain's deadline passed.
    #[error("the drain's deadline passed with {in_flight} requests in flight")]
    Undrained { in_flight: usize },
    /// Not all partitions were handed over when the drain's deadline passed.
    #[error(
        "the drain's deadline passed with partitions to hand over: they come back when this shard does"
    )]
    PartitionsLeft,
    /// This process was told that it must not go on, and no peer confirms it any longer.
    #[error(
        "this process was told that it must not go on, and no peer confirms it any longer: start it again ({0})"
    )]
    Stopped(#[source] Stopped),
    #[error("ended at once by a second signal")]
    Forced,
}

impl Error {
    /// A record beside the data, in this file, cannot be read.
    pub(crate) fn record(path: PathBuf, source: Unreadable) -> Self {
        match source {
            Unreadable::Newer { .. } => OpenError::Newer { path, source }.into(),
            Unreadable::Broken { .. } => Self::Record { path, source },
        }
    }
}
