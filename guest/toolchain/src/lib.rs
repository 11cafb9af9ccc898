//! Builds guests: finds a toolchain on this machine, runs cargo, makes the
//! component, and checks that it has the exports of world `service`.
//!
//! `ostrakon build` and `cargo xtask` both use this crate, so that only one
//! place knows how guests are built.
//!
//! ```no_run
//! use ostrakon_toolchain::{Build, Search, Target};
//!
//! let toolchain = Search::new(Target::Unknown, "guest/kv")?.find()?;
//! let built = Build::new("guest/kv").run(&toolchain)?;
//! println!("{} {} bytes", built.path.display(), built.bytes);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod build;
pub mod component;
pub mod machine;
pub mod new;
pub mod search;

pub use build::{Build, Built};
pub use component::Interface;
pub use new::New;
pub use search::{Search, Target, Toolchain, Way};

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// The SHA-256 of some bytes, in lower-case hex, by which components are named.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::with_capacity(64), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("writing to a string cannot fail");
            hex
        })
}
