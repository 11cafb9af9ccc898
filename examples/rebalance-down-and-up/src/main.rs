//! The course's rebalancing, without a rebalancer: three shards become five, then two, while
//! clients write and read through any of them.
//!
//! It runs `ostrakon dev` on its own loopback network, in its own directory, prints at each station
//! what it finds, and ends with a count of the keys in the shards' files. Its exit code is 1 if a
//! request failed, or a key is not in exactly one shard.

mod clients;
mod count;
mod set;
mod tour;

use std::fs;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, ensure};
use clap::Parser;
use ostrakon_base::signals::Signals;
use ostrakon_dev::Addresses;
use set::StatefulSet;
use tempfile::TempDir;
use tokio::process::Command;
use tour::Tour;

/// A shard that is told to end answers for another second, because clients learn late that it is not ready.
const SETTINGS: &str = "[drain]\nserve_for = \"1s\"\n";
/// The exit code of an interrupted tour, as in shells.
const INTERRUPTED: u8 = 130;

/// Three shards become five, then two, while clients write and read.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The first shard's address, a loopback address that ends in .1; the next shard has .2, and so on.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.35.1")]
    address: Ipv4Addr,
    /// The component of the key/value guest [default: built from guest/kv]
    #[arg(long, value_name = "FILE")]
    guest: Option<PathBuf>,
    /// The host [default: ostrakon, beside this program]
    #[arg(long, value_name = "FILE")]
    ostrakon: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            // If standard error is closed, the exit code still reports the failure.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let addresses = Addresses::new(arguments.address, 8080, 9090, 7070);
    let addresses = addresses
        .context("--address must be a loopback address that ends in .1, such as 127.0.35.1")?;
    let mut signals = Signals::new()?;
    let directory = tempfile::tempdir().context("cannot create a temporary directory")?;
    let ostrakon = match &arguments.ostrakon {
        Some(ostrakon) => ostrakon.clone(),
        None => neighbour("ostrakon")?,
    };
    let smart_client = neighbour("smart-client")?;
    tokio::select! {
        made = configure(&directory, &ostrakon, arguments.guest.as_deref()) => made?,
        _ = signals.recv() => return Ok(INTERRUPTED.into()),
    }
    let mut set = StatefulSet::spawn(&ostrakon, directory.path(), addresses)?;
    let tour = Tour::new(&set, smart_client);
    let seen = tokio::select! {
        seen = tour.take(&mut set) => seen,
        _ = signals.recv() => {
            say("stopping; Ctrl-C again kills");
            set.stop(&mut signals).await?;
            return Ok(INTERRUPTED.into());
        }
    };
    let stopped = set.stop(&mut signals).await;
    let counted = seen.and_then(|seen| {
        stopped?;
        seen.told(&count::places(directory.path())?)
    });
    match counted {
        Ok(told) => {
            say(&told);
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(error.context(format!(
            "the tour failed; its data and logs are in {}",
            directory.keep().display()
        ))),
    }
}

/// Writes the ConfigMap of the shards.
async fn configure(
    directory: &TempDir,
    ostrakon: &Path,
    guest: Option<&Path>,
) -> anyhow::Result<()> {
    let config = set::config(directory.path());
    fs::create_dir(&config)?;
    fs::write(config.join("ostrakon.toml"), SETTINGS)?;
    let component = config.join("guest.wasm");
    if let Some(guest) = guest {
        let copied = fs::copy(guest, &component);
        copied.with_context(|| format!("cannot read --guest {}", guest.display()))?;
        return Ok(());
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest/kv");
    let mut build = Command::new(ostrakon);
    build.arg("build").arg(&source).arg("-o").arg(&component);
    // Its output is about the build only.
    build.stdout(Stdio::null()).kill_on_drop(true);
    let built = build.status().await;
    let built = built.with_context(|| format!("cannot run {}", ostrakon.display()))?;
    ensure!(
        built.success(),
        "the key/value guest could not be built: see above, or use --guest"
    );
    Ok(())
}

/// A program that was built beside this one.
fn neighbour(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(
        path.exists(),
        "{} is missing: run `cargo build --workspace` first",
        path.display()
    );
    Ok(path)
}

/// Prints one or more lines.
fn say(text: &str) {
    // If the pipe is closed, the exit code still reports the result.
    let _ = writeln!(io::stdout(), "{text}");
}
