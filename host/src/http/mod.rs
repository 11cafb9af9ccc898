//! HTTP/1.1 and h2 on one port, in TLS or not, and a small client. The only place that knows hyper.
//!
//! Tasks, what ends each, and what its failure means:
//!
//! | task | ends | its failure |
//! | --- | --- | --- |
//! | `Server::run`, in its caller's task | when shut down and its last connection is closed | none: accept errors are logged and waited out |
//! | one for each connection | with its connection, or with `run` | the peer's fault: logged at debug |
//! | one for each h2 stream | with its stream or connection | a handler's panic is answered with 500 |
//! | one for the rest of each body of a refused h2 request | with its stream or connection, or in 2 s | none |

mod bodies;
mod caller;
mod connection;
mod date;
mod entrance;
mod head;
mod lent;
mod linger;
mod refusal;
mod server;
mod service;
mod stream;
mod unwanted;
mod wire;

pub mod client;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

pub use caller::{Caller, Door, plain};
pub use refusal::Refusal;
pub use server::{Handler, Server};

/// What a client may ask of a server. All sizes are in bytes and inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections; those beyond are answered 503 and closed. A connection that only waits
    /// for its client to stop sending makes room.
    pub max_connections: usize,
    /// A request's line and headers together: 431.
    pub max_header_bytes: usize,
    /// A request's body: 413.
    pub max_body_bytes: usize,
    /// All requests' bodies in memory at once: 503.
    pub max_bodies_bytes: usize,
    /// From a request's first byte to the end of its headers: 408.
    pub header_timeout: Duration,
    /// From the end of the headers to the end of the body: 408.
    pub body_timeout: Duration,
    /// How long a connection stays open without a request, or without progress in what it is
    /// sent.
    pub idle_timeout: Duration,
}

#[cfg(test)]
impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_header_bytes: 32 * 1024,
            max_body_bytes: 8 * 1024 * 1024,
            max_bodies_bytes: 256 * 1024 * 1024,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_mins(1),
        }
    }
}

/// Limits that can be replaced while the server runs: those of sizes and times count from the
/// next connection or request on.
pub type LiveLimits = Arc<ArcSwap<Limits>>;
