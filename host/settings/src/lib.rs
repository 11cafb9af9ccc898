//! The settings of the runtime.

pub mod per_shard;
pub mod settings;
