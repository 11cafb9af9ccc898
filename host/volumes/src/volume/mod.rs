//! Watches a mounted ConfigMap or Secret directory, without knowing what its files mean.

mod files;
mod watch;

pub use files::{Files, MAX_BYTES, ReadError};
pub use watch::{Observation, Options, StartError, Watcher};
