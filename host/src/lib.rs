//! Ostrakon's host: one process that runs one shard of a stateful service.
//!
//! ARCHITECTURE.md at the top of the repository shows the way of a request and
//! of a swap through these modules. A module uses those above it, never those
//! below.

pub mod blocking;
mod recency;
mod priority;
mod regular;
pub mod signals;
mod unix_time;
mod printable;
mod confinement;
pub mod trace;
pub mod replies;
pub mod client;
mod lobby;
mod descriptors;
pub mod digest;
pub mod topology;
pub mod per_shard;
pub mod telemetry;
pub mod settings;
pub mod metrics;
pub mod contract;
mod heap;
pub mod volume;
pub mod secrets;
pub mod tls;
pub mod store;
pub mod guest;
pub mod lane;
pub mod service;
pub mod survey;
pub mod swap;
pub mod http;
pub mod otlp;
pub mod bearer;
pub mod readiness;
pub mod drain;
pub mod admin;
pub mod answers;
pub mod peers;
pub mod cluster;
pub mod plan;
pub mod kubernetes;
pub mod app;
pub mod dev;
pub mod cli;
