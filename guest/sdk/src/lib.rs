//! The SDK for authors of Ostrakon guests.
//!
//! A guest is a type that implements [`Guest`] and is passed to [`export!`]:
//!
//! ```
//! use ostrakon_guest::{Description, Error, Guest, Request, RequestHead, Response, Result, Route, Settings};
//!
//! struct Greeter;
//!
//! ostrakon_guest::export!(Greeter);
//!
//! impl Guest for Greeter {
//!     fn describe(_: Settings) -> Description {
//!         Description::new("greeter", "1.0.0")
//!     }
//!
//!     fn new(_: Settings) -> Result<Self, String> {
//!         Ok(Self)
//!     }
//!
//!     fn route(&self, head: &RequestHead) -> Route {
//!         Route::write(head.path())
//!     }
//!
//!     fn handle(&self, request: &Request) -> Result<Response> {
//!         let visits = request.store().get_json("visits")?.unwrap_or(0) + 1;
//!         request.store().set_json("visits", &visits)?;
//!         Ok(Response::text(visits.to_string()))
//!     }
//! }
//! ```
//!
//! In a Wasm build the imports are the host's. In a native build they are those of a shard in memory, which tests the
//! same logic without Wasm: see [`testing`].

pub mod collections;
pub mod cookies;
mod error;
pub mod forms;
mod guest;
pub mod html;
pub mod log;
mod part;
pub mod paths;
mod request;
mod response;
mod route;
pub mod router;
mod secret;
mod settings;
mod shard;
pub mod sharding;
mod store;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
pub mod time;

#[doc(hidden)]
pub mod bindings;
#[doc(hidden)]
pub mod exports;
mod imports;

pub use bindings::ostrakon::shard::types::{Access, Description, Header, Response, Route, Target};
pub use cookies::Cookie;
pub use error::{Error, Result};
pub use guest::Guest;
pub use part::{Generation, Part};
pub use request::{Request, RequestHead};
pub use secret::Secret;
pub use settings::Settings;
pub use shard::{Entries, Migration, Partitions, Shard, ShardEntry};
pub use store::Error as StoreError;
pub use store::{Entry, Scan, Store};

/// Encodes a value as JSON. Panics if JSON cannot hold the value.
fn json<T: serde::Serialize + ?Sized>(value: &T) -> Vec<u8> {
    // An `expect` would add the code that formats its error, several KiB.
    serde_json::to_vec(value)
        .unwrap_or_else(|_| panic!("the value's type is one that JSON cannot hold"))
}
