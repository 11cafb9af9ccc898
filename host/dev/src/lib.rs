//! A StatefulSet on one machine. Its shards are processes, and are started, ended, scaled,
//! restarted and given their volumes as Kubernetes does it. `ostrakon dev` and the tests of
//! running hosts use it.
//!
//! [`Controller`] runs the set. `set` decides the next step, and knows no clock, process or file.
//! A `session` is a person's use of it: the screen, the prompt, the socket for `ostrakon dev ctl`,
//! and the loop that builds a guest on each save.

mod addresses;
mod backoff;
mod config;
mod volume;
mod projection;
mod state_directory;
mod observation;
mod set;
mod news;
mod line;
mod process;
mod shard;
mod handle;
mod work;
mod controller;
mod order;
mod screen;
mod ctl;
mod sources;
mod workshop;
mod session;

pub use addresses::{Addresses, MAX_SHARDS};
pub use backoff::Backoff;
pub use controller::{Controller, Options, StartError};
pub use ctl::{CallError, call};
pub use handle::{Handle, Refusal};
pub use news::{News, ShardStanding, Standing, What};
pub use observation::{Candidate, Generation, Observation, Refused, Store, Topology};
pub use order::{NoOrder, Order};
pub use projection::{Files, NoPropagation, Propagation};
pub use session::{Error, Session, Source};
pub use set::Numbers;
pub use state_directory::{StateDirectory, StateDirectoryError};
pub use volume::Volume;
