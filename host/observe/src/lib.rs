//! What is seen of a shard: its log, its metrics, its traces.

pub mod trace;
pub mod telemetry;
pub mod metrics;
