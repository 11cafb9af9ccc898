//! Connections: TLS, HTTP, tokens and their bounds.

pub mod handshake_backlog;
pub mod descriptors;
pub mod tls;
pub mod http;
pub mod bearer;
