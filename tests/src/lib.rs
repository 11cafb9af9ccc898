//! The code shared by the tests of running hosts and the benches.

pub mod browser;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod command;
pub mod container;
pub mod h2;
pub mod host;
pub mod load;
pub mod manifests;
pub mod memory;
pub mod name_server;
pub mod network;
pub mod nginx;
pub mod peer;
pub mod pods;
pub mod relay;
pub mod service;
pub mod set;
pub mod tls;
pub mod volume;
