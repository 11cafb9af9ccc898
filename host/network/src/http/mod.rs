//! HTTP/1.1 and h2 on one port, with or without TLS, and a small client. Only this module knows
//! hyper.
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
mod buffered;
mod caller;
mod connection;
mod date;
mod entrance;
mod frames;
mod head;
mod heads;
mod lent;
mod linger;
mod places;
mod refusal;
mod relay;
mod server;
mod service;
mod socket;
mod stream;
mod streams;
mod sums;
mod taken;
mod together;
mod unwanted;
mod wire;

pub mod client;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

pub use caller::{Caller, Door, plain};
pub use refusal::{Refusal, refusals};
pub use server::{Handler, Server};

/// Limits on what clients may ask of a server. All sizes are in bytes and inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections. A further connection takes the place of an unused one; if there is none,
    /// it is answered 503 and closed.
    pub max_connections: usize,
    /// Size of a request's line and headers together; 431 above it.
    pub max_header_bytes: usize,
    /// Size of a request's body; 413 above it.
    pub max_body_bytes: usize,
    /// Memory held by the lines and headers of all requests at once; 503 above it.
    pub max_heads_bytes: usize,
    /// Memory held by the bodies of all requests at once; 503 above it.
    pub max_bodies_bytes: usize,
    /// How long a connection may stay silent after it was accepted, or after its TLS handshake.
    pub first_byte_timeout: Duration,
    /// From a request's first byte to the end of its headers; 408 after it.
    pub header_timeout: Duration,
    /// From the end of the headers to the end of the body; 408 after it.
    pub body_timeout: Duration,
    /// How long a connection stays open without a request, or without the client taking any of its
    /// answer.
    pub idle_timeout: Duration,
    /// When all connections are in use: how long a client may take to read an answer before its
    /// connection gives way to a new one.
    pub answer_patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_header_bytes: 32 * 1024,
            max_body_bytes: 8 * 1024 * 1024,
            max_heads_bytes: 64 * 1024 * 1024,
            max_bodies_bytes: 256 * 1024 * 1024,
            first_byte_timeout: Duration::from_mins(1),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_mins(1),
            answer_patience: Duration::from_secs(30),
        }
    }
}

/// Limits that can be replaced while the server runs. Sizes and times apply from the next
/// connection or request on.
pub type LiveLimits = Arc<ArcSwap<Limits>>;
