//! A running controller: its thread and its options.

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

/// The initial number of shards.
const SHARDS: u32 = 3;

#[derive(Clone, Debug)]
pub struct Options {
    pub binary: PathBuf,
    /// The wanted number of shards. `None` means as many as the data is distributed over, or three
    /// if there is no data.
    pub shards: Option<u32>,
    pub addresses: Addresses,
    /// How long a shard may take to end after SIGTERM.
    pub grace: Duration,
    pub numbers: Numbers,
    /// When changed content appears in the shards' volumes.
    pub propagation: Propagation,
    /// The pause before an ended shard is restarted.
    pub backoff: Backoff,
    /// The shards' log filter.
    pub log: String,
    /// Additional arguments for `ostrakon serve`.
    pub arguments: Vec<OsString>,
    /// Additional environment variables for it.
    pub environment: Vec<(String, String)>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "cannot listen on {address}: stop the process that uses it, or give another --address or port"
    )]
    Taken {
        /// The address that could not be bound.
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    /// The system denied a thread or an event queue.
    #[error("the system denied a thread or an event queue")]
    System(#[from] io::Error),
}

/// A running controller, with its thread. Dropping it kills its shards.
///
/// That thread starts the shards' processes and lives as long as they do. The parent-death signal
/// kills a process when the *thread* that started it ends.
#[derive(Debug)]
pub struct Controller {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Controller {
    /// Starts a controller of the shards in a state directory. The shards start with the first
    /// [`Handle::publish`].
    ///
    /// # Errors
    /// When a port is in use.
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
                // The shard itself binds the port later; this test bind gives one clear error
                // message at once.
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

    /// The handle for commands to the controller.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.handle.abort();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}
