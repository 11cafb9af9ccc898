//! The transport between the shards of a cluster.
//!
//! A shard listens on its peer port and calls [`serve()`] on each accepted stream. It sends
//! requests to other shards through a [`Pool`], which keeps [`Connection`]s. On one connection
//! only the connecting side sends requests and only the accepting side answers. Before the
//! handshake is complete, neither side trusts the other's bytes.

mod accept;
mod addresses;
mod calls;
mod cause;
mod connection;
mod credentials;
mod dial;
mod endpoint;
mod frame;
mod frame_buffer;
mod handshake;
mod handshake_error;
mod hello;
mod keepalive;
mod lock;
mod outbox;
mod pool;
mod proof;
mod race;
mod reply;
mod room;
mod serve;
mod session;
mod settings;
mod slot;
mod token;
mod writer;

#[cfg(test)]
mod tests;

pub use accept::Accept;
pub use addresses::Addresses;
pub use cause::{Cause, RequestError};
pub use connection::Connection;
pub use credentials::{Credentials, Demand};
pub use dial::{AnyDial, Dial, Tcp};
pub use endpoint::{Endpoint, Identity};
pub use handshake_error::HandshakeError;
pub use hello::Versions;
pub use pool::{Answered, Pool};
pub use serve::{Handler, ServeError, serve};
pub use settings::Settings;
pub use token::{Token, TokenError, Tokens};
