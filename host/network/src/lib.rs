//! Connections: TLS, HTTP, tokens and their bounds.

pub mod lobby;
pub mod descriptors;
pub mod tls;
pub mod http;
pub mod bearer;
