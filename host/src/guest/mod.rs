//! The guest: a component that is compiled, linked, checked and called.
//!
//! [`Engine`] compiles, [`Linked`] is a component whose imports and exports fit
//! the contract, [`Guest`] is one that has described itself with its settings in
//! force and can be called. This module is the only one that names wasmtime.

mod bindings;
mod bound;
mod cache;
mod component;
mod context;
mod copies;
mod describe;
mod engine;
mod failure;
mod grace;
mod imports;
mod instance;
mod log;
mod meter;
#[cfg(feature = "bench-native")]
mod native;
mod pool;
mod reply;
mod polls;
mod stdio;

pub use bound::Bound;
pub use cache::Cache;
pub use component::{CompileError, Compiled, LinkError, Linked};
pub use context::{Environment, Identity};
pub use describe::{DescribeError, describe};
pub use engine::{Engine, EngineError};
pub use failure::Failure;
pub use instance::ReadData;
pub use pool::{CheckError, Guest, Lease, Owning};
