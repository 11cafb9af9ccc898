//! Test support that depends on no part of the host.

pub mod api_server;
pub mod bombs;
pub mod certificates;
pub mod files;
pub mod later;
pub mod linearizable;
pub mod net;
pub mod pages;
pub mod random;
pub mod seccomp;
pub mod tools;

use std::time::Duration;

/// How long a test waits for an event before it fails.
pub const PATIENCE: Duration = Duration::from_mins(1);
