//! `cargo xtask dev`: builds the host, and runs `ostrakon dev` with the key/value guest.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

/// The arguments that are passed on.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// Arguments of `ostrakon dev`; --guest is guest/kv unless given otherwise.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Replaces this process with `ostrakon dev`.
pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    let status = Command::new("cargo")
        // The profile that xtask itself is built with: what both need is compiled once.
        .args(["build", "--profile", "quick", "--package", "ostrakon"])
        .current_dir(root)
        .status()
        .context("cannot run cargo")?;
    ensure!(
        status.success(),
        "the host does not compile: see cargo's messages above"
    );
    // State directories are in the nearest `.ostrakon`, so every directory of the repository uses the same one.
    fs::create_dir_all(root.join(".ostrakon"))?;
    let mut command = Command::new(crate::target(root)?.join("quick/ostrakon"));
    command.arg("dev");
    if !has_source(&options.arguments) {
        command.arg("--guest").arg(root.join("guest/kv"));
    }
    if options.arguments.first().is_none_or(|first| first != "ctl") {
        for directory in ["guest/sdk", "wit"] {
            command.arg("--watch").arg(root.join(directory));
        }
    }
    Err(command.args(&options.arguments).exec()).context("cannot start the host")
}

/// Whether the arguments name a guest or ConfigMap, or need none.
fn has_source(arguments: &[OsString]) -> bool {
    arguments.iter().any(|argument| {
        let argument = argument.to_string_lossy();
        let name = argument.split('=').next().unwrap_or_default();
        ["--guest", "--config-dir", "ctl", "--help", "-h"].contains(&name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_value_guest_is_run_where_nothing_else_is_named() {
        let check = |arguments: &[&str], expected| {
            let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
            assert_eq!(has_source(&arguments), expected, "{arguments:?}");
        };
        check(&[], false);
        check(&["--shards", "5"], false);
        check(&["--guest", "x"], true);
        check(&["--shards=5", "--config-dir=x"], true);
        check(&["ctl", "status"], true);
    }
}
