//! One shard: its single writer, its requests and its swaps.

pub mod writer;
pub mod rehearsal;
pub mod service;
pub mod survey;
pub mod swap;
pub mod answers;
pub mod bake;
