//! Certificates, their keys, and TLS streams: TLS 1.3 between shards, and also 1.2 with clients.
//!
//! A certificate is parsed and checked to be usable now before it is accepted: [`Pair`] and
//! [`Authorities`]. This module knows nothing of who talks to whom.

mod authorities;
mod mutual;
mod pair;
mod pem;
mod problem;
mod rsa;
mod server;

#[cfg(test)]
mod tests;

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, ring};

pub use authorities::{Authorities, Chain, NoAuthorities, Side};
pub use mutual::{Mutual, Secured, Stream};
pub use pair::{Pair, PairError};
pub use problem::Problem;
pub use server::{Need, Server, ServerStream};

/// The first byte of every TLS stream: a record of the handshake.
pub const FIRST_BYTE: u8 = 0x16;

/// The cryptography of all connections.
static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(ring::default_provider()));
