//! Network connections: TLS, HTTP, bearer tokens, and the limits on all of them.

pub mod handshake_backlog;
pub mod descriptors;
pub mod tls;
pub mod http;
pub mod bearer;
