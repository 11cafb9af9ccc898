//! A shard's observability: its log, its metrics, its traces.

pub mod trace;
pub mod telemetry;
pub mod metrics;
