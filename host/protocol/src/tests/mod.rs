//! The protocol in a world of its own: shards whose disks keep what was stored,
//! and a network that loses, repeats and reorders.

mod actions;
mod clients;
mod model;
mod properties;
mod world;
