//! What the tests of running hosts and the benches share.

pub mod api_server;
pub mod certificates;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod container;
pub mod host;
pub mod linearizable;
pub mod load;
pub mod manifests;
pub mod memory;
pub mod name_server;
pub mod net;
pub mod network;
pub mod nginx;
pub mod pods;
pub mod random;
pub mod seccomp;
pub mod service;
pub mod set;
pub mod tls;
pub mod tools;
pub mod volume;
