//! A mounted ConfigMap or Secret directory, watched; nothing here knows what the
//! files mean.

mod files;
mod watch;

pub use files::{Files, MAX_BYTES, MAX_FILES, ReadError};
pub use watch::{Observation, Options, StartError, Watcher};
