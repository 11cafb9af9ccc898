//! The guests of this repository, built for the tests.

use std::path::{Path, PathBuf};

use ostrakon_toolchain::{Build, Search, Target};

use crate::steps::say;

/// Name and directory of each guest.
pub(crate) const GUESTS: [(&str, &str); 7] = [
    ("kv", "guest/kv"),
    ("counter", "examples/counter"),
    ("votes", "examples/votes"),
    ("sessions", "examples/sessions"),
    ("limiter", "examples/limiter"),
    ("hostile", "tests/guests/hostile"),
    ("small", "tests/guests/small"),
];

/// Builds all guests to `target/guests/<name>.wasm` and returns that directory.
pub(crate) fn build(root: &Path) -> anyhow::Result<PathBuf> {
    let directory = crate::target(root)?.join("guests");
    let toolchain = Search::new(Target::Unknown, root)?.find()?;
    for (name, source) in GUESTS {
        let built = Build::new(root.join(source))
            .output(Some(directory.join(format!("{name}.wasm"))))
            .run(&toolchain)?;
        say(&format!("   {name}: {} bytes", built.bytes));
    }
    Ok(directory)
}
