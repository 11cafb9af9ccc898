//! One shard: its single writer, its requests, its swaps.

pub mod lane;
pub mod service;
pub mod survey;
pub mod swap;
pub mod answers;
