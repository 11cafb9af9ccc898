//! Compiles, links, checks and calls guests.
//!
//! [`examine`] decides whether a component may be compiled, and [`Compiler`] compiles it. A
//! [`Linked`] component has imports and exports that fit the contract. A [`Guest`] has also
//! described and checked itself with its settings, and can be called. This crate is the only one
//! that names wasmtime.

pub mod confinement;
mod bindings;
mod bound;
mod cache;
mod clock;
mod compiler;
mod component;
mod context;
mod copies;
mod describe;
mod engine;
mod extent;
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
pub use compiler::{Attempts, CompileError, Compiler, Limits, Purpose};
pub use component::{Compiled, LinkError, Linked};
pub use context::{Environment, Identity};
pub use describe::{DescribeError, describe};
pub use engine::{Engine, EngineError, translate};
pub use extent::{Unfit, examine};
pub use failure::Failure;
pub use instance::ReadData;
pub use pool::{CheckError, Guest, Lease, Owning};
