//! `cargo xtask upgrade`: upgrades from the host of another commit to this one and back, under load.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;

use crate::guests;
use crate::steps::{Steps, say};

/// Which host the other one is.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The commit that the other host is built from: a hash, a tag or a branch.
    commit: String,
}

/// Builds the host of a commit in its own work tree, below `target`, and runs the test of two
/// versions with it.
pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    let mut steps = Steps::new(root);
    steps.cargo("this host", &["build", "--workspace", "--bin", "ostrakon"])?;
    let target = crate::target(root)?;
    steps.set("OSTRAKON_TEST_HOST", target.join("debug/ostrakon"));
    let guests = target.join("upgrade/guests");
    let other = steps.step("the other host", |_| {
        build(root, &options.commit, "dev", &guests)
    })?;
    steps.set("OSTRAKON_TEST_GUESTS", guests);
    steps.set("OSTRAKON_TEST_OTHER_HOST", other);
    say(&format!("   {} and this host", options.commit));
    steps.cargo(
        "two versions under load",
        &[
            "test",
            "--workspace",
            "--test",
            "upgrade",
            "--",
            "--nocapture",
        ],
    )
}

/// Builds the host of a commit in its own work tree, below `target`, and its key/value guest to a
/// directory. Returns the host.
pub(crate) fn build(
    root: &Path,
    commit: &str,
    profile: &str,
    guests: &Path,
) -> anyhow::Result<PathBuf> {
    let target = crate::target(root)?;
    let tree = target.join("upgrade/tree");
    let built = target.join("upgrade/target");
    // Removes the work tree of an earlier run, if there is one.
    let _none = git(root, &["worktree", "remove", "--force", &path(&tree)]);
    git(root, &["worktree", "add", "--detach", &path(&tree), commit])?;
    let status = Command::new("cargo")
        .args(["build", "--package", "ostrakon", "--profile", profile])
        .env("CARGO_TARGET_DIR", &built)
        .current_dir(&tree)
        .status();
    // Of the other commit: a guest runs on hosts that are as new as it is, and newer.
    let guest = guests::build_some(&tree, &[("kv", "guest/kv")], guests);
    git(root, &["worktree", "remove", "--force", &path(&tree)])?;
    ensure!(status?.success(), "the host of {commit} is not built");
    guest?;
    let directory = if profile == "dev" { "debug" } else { profile };
    Ok(built.join(directory).join("ostrakon"))
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

fn git(root: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let done = Command::new("git")
        .args(arguments)
        .current_dir(root)
        .output()?;
    ensure!(
        done.status.success(),
        "git {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(())
}
