//! Watches and reads mounted ConfigMaps and Secrets.

pub mod volume;
pub mod secrets;
