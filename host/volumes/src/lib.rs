//! Mounted ConfigMaps and Secrets, watched and read.

pub mod volume;
pub mod secrets;
