//! The guests of this repository, built for the tests.

use std::path::{Path, PathBuf};

use ostrakon_toolchain::{Build, Search, Target};

use crate::steps::say;

/// Name and directory of each guest.
pub(crate) const GUESTS: [(&str, &str); 11] = [
    ("kv", "guest/kv"),
    ("counter", "examples/counter"),
    ("votes", "examples/votes"),
    ("magazine", "examples/magazine"),
    ("voting", "examples/voting"),
    ("voting-v1", "examples/voting/v1"),
    ("sessions", "examples/sessions"),
    ("limiter", "examples/limiter"),
    ("hostile", "tests/guests/hostile"),
    ("small", "tests/guests/small"),
    ("probe", "tests/guests/probe"),
];

/// Builds all guests to `target/guests/<name>.wasm` and returns that directory.
pub(crate) fn build(root: &Path) -> anyhow::Result<PathBuf> {
    let directory = crate::target(root)?.join("guests");
    build_some(root, &GUESTS, &directory)?;
    Ok(directory)
}

/// Builds some guests of a work tree to `<name>.wasm` in a directory.
pub(crate) fn build_some(
    tree: &Path,
    guests: &[(&str, &str)],
    directory: &Path,
) -> anyhow::Result<()> {
    let toolchain = Search::new(Target::Unknown, tree)?.find()?;
    for (name, source) in guests {
        let built = Build::new(tree.join(source))
            .output(Some(directory.join(format!("{name}.wasm"))))
            .run(&toolchain)?;
        say(&format!("   {name}: {} bytes", built.bytes));
    }
    Ok(())
}
