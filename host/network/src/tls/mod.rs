//! Certificates, their keys, and the streams they protect: TLS 1.3 between
//! shards, 1.2 as well with clients.
//!
//! What is given is read, and found to be of use now, before it is taken:
//! [`Pair`] and [`Authorities`]. It knows nothing of who talks to whom.

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

/// What all connections compute with.
static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(ring::default_provider()));
