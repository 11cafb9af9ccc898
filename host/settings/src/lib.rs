//! The runtime's settings, read from the ConfigMap's `ostrakon.toml`.

pub mod per_shard;
pub mod settings;
