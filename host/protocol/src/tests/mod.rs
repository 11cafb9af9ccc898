//! The protocol in a simulated world: shards whose disks keep what was stored, and a network that
//! loses, repeats and reorders messages.

mod actions;
mod checker;
mod clients;
mod model;
mod properties;
mod rollout;
mod world;
