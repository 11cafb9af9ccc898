//! The project's own commands: `cargo xtask dev`, `test`, `simulate`, `bench` and their parts.

mod bench;
mod counts;
mod deny;
mod dependencies;
mod dev;
mod documents;
mod foreign;
mod guests;
mod log_fields;
mod rust;
mod simulate;
mod steps;
mod test;
mod tools;
mod upgrade;

use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};

use anyhow::Context as _;
use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run shards on this machine, and swap their guest and settings on each save.
    Dev(dev::Options),
    /// Run everything that CI checks, and stop at the first failure.
    #[command(alias = "ci")]
    Test,
    /// Install the programs that the tests run, as `test` does first.
    Tools,
    /// Build the guests that the tests run, as `test` does first.
    Guests,
    /// Run many seeds of the simulated clusters, or repeat a failed one.
    Simulate(simulate::Options),
    /// Upgrade from the host of another commit to this one and back, under load.
    Upgrade(upgrade::Options),
    /// Measure the host, and print tables with ratios.
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Dev(options) => dev::run(&root(), &options),
        Command::Test => return test::run(&root()),
        Command::Tools => foreign::check().and_then(|()| tools::provide(&root()).map(drop)),
        Command::Guests => guests::build(&root()).map(drop),
        Command::Simulate(options) => simulate::run(&root(), &options),
        Command::Upgrade(options) => upgrade::run(&root(), &options),
        Command::Bench(options) => bench::run(&root(), &options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            steps::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Cargo's target directory: `target`, unless its settings name another one.
fn target(root: &Path) -> anyhow::Result<PathBuf> {
    let output = process::Command::new("cargo")
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .stderr(process::Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cargo does not describe the workspace")?;
    let directory = metadata["target_directory"].as_str();
    Ok(directory.context("cargo names no target directory")?.into())
}

/// The top of the repository.
fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .ancestors()
        .nth(2)
        .expect("xtask is two directories below the top")
        .to_owned()
}
