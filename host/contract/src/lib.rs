//! The guest contract in plain Rust, and the clients that requests come from.

pub mod headers;
pub mod replies;
pub mod client;
pub mod contract;
