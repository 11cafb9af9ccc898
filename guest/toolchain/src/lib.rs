//! Builds guests: finds what this machine has to build them with, runs cargo,
//! makes the component and checks that it is one of world `service`.
//!
//! `ostrakon build` and `cargo xtask` both come here, so that there is one
//! place that knows how guests are built.
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
pub mod search;

pub use build::{Build, Built};
pub use component::Interface;
pub use search::{Search, Target, Toolchain, Way};

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// The SHA-256 of some bytes, in lower-case hex: how a component is named.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::with_capacity(64), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("writing to a string cannot fail");
            hex
        })
}
