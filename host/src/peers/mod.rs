//! The transport between the shards of a cluster.
//!
//! A shard listens on its peer port and calls [`serve()`] on each stream it
//! accepts; it asks others through a [`Pool`], which keeps [`Connection`]s. On
//! one connection only the connecting side asks and only the accepting side
//! answers. Neither side trusts what the other sends before the handshake.

mod backoff;
mod beats;
mod calls;
mod cause;
mod connection;
mod dial;
mod endpoint;
mod frame;
mod frame_buffer;
mod handler;
mod handshake;
mod handshake_error;
mod hello;
mod identity;
mod keepalive;
mod lock;
mod outbox;
mod pool;
mod proof;
mod reply;
mod request_error;
mod room;
mod serve;
mod session;
mod settings;
mod slot;
mod token;
mod versions;
mod writer;

#[cfg(test)]
mod tests;

pub use cause::Cause;
pub use connection::Connection;
pub use dial::{Dial, Tcp};
pub use endpoint::Endpoint;
pub use handler::Handler;
pub use handshake_error::HandshakeError;
pub use identity::Identity;
pub use pool::Pool;
pub use request_error::RequestError;
pub use serve::{ServeError, serve};
pub use settings::Settings;
pub use token::{Token, TokenError, Tokens};
pub use versions::Versions;
