//! A running controller: its thread, and what it is started with.

use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::unbounded_channel;

use super::addresses::Addresses;
use super::backoff::Backoff;
use super::handle::Handle;
use super::projection::Propagation;
use super::set::{Numbers, Set};
use super::state_directory::StateDirectory;
use super::work::Work;

/// How many shards there are at first.
const SHARDS: u32 = 3;

/// What a controller is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `ostrakon` binary.
    pub binary: PathBuf,
    /// How many shards are wanted; none: as many as the data is spread over, at first three.
    pub shards: Option<u32>,
    /// Where they listen.
    pub addresses: Addresses,
    /// How long a shard may take to end after SIGTERM.
    pub grace: Duration,
    /// How the shards learn how many they are to be.
    pub numbers: Numbers,
    /// When changed content shows in the shards' volumes.
    pub propagation: Propagation,
    /// How long a shard that ends waits to be started again.
    pub backoff: Backoff,
    /// What the shards log.
    pub log: String,
    /// More arguments for `ostrakon serve`.
    pub arguments: Vec<OsString>,
    /// More of its environment.
    pub environment: Vec<(String, String)>,
}

/// Why there is no controller.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken.
    #[error("cannot listen on {address}: stop what uses it, or give another --address or port")]
    Taken {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system denies a thread or an event queue.
    #[error("the system does not give what a controller needs")]
    System(#[from] io::Error),
}

/// A running controller, with its thread. Dropping it kills its shards.
///
/// Its processes are started by that thread, which lives as long as they do: the system ends a
/// process with the *thread* that started it, where it was asked to.
#[derive(Debug)]
pub struct Controller {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Controller {
    /// Starts a controller of the shards in a state directory. They start with the first
    /// [`Handle::publish`].
    ///
    /// # Errors
    /// When a port is taken.
    pub fn start(place: StateDirectory, options: Options) -> Result<Self, StartError> {
        let spread = place.spread();
        let wanted = options.shards.or(spread).unwrap_or(SHARDS);
        let all = match options.numbers {
            Numbers::Published => wanted.max(spread.unwrap_or(0)),
            Numbers::Heard => wanted,
        };
        for ordinal in 0..all {
            let addresses = &options.addresses;
            for address in [
                addresses.public(ordinal),
                addresses.admin(ordinal),
                addresses.peer(ordinal),
            ] {
                // The shard binds it in a moment; this is for one clear line, at once.
                let bound = TcpListener::bind(address);
                bound.map_err(|source| StartError::Taken { address, source })?;
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (events, received) = unbounded_channel();
        let set = Set::new(options.numbers, wanted, spread);
        let work = Work::new(set, options, place, events.clone());
        let thread = std::thread::Builder::new()
            .name("controller".to_owned())
            .spawn(move || runtime.block_on(work.run(received)))?;
        Ok(Self {
            handle: Handle(events),
            thread: Some(thread),
        })
    }

    /// What can be asked of it.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.handle.abort();
        if let Some(thread) = self.thread.take() {
            // Its panic was told when it happened.
            let _ = thread.join();
        }
    }
}
