//! `ostrakon inspect`: what a file is, without serving it.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use ostrakon_toolchain::{Interface, component};

use super::manifest::{self, share};
use super::{Exit, Failure, say};
use crate::digest::Digest;
use crate::guest;

/// Show what a component is: its world, size, digest, and how it describes itself.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ostrakon inspect target/guests/kv.wasm")]
pub(super) struct Arguments {
    /// The component, as `ostrakon build` wrote it.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Arguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        let bytes = read(&self.file)?;
        let interface = Interface::read(&bytes).map_err(Failure::with(Exit::Usage))?;
        let missing = interface.missing_exports();
        let world = if missing.is_empty() {
            "service".to_owned()
        } else {
            format!("not `service`: {} not exported", missing.join(", "))
        };
        let mut text = String::new();
        for (name, value) in [
            ("file", self.file.display().to_string()),
            ("world", world),
            ("exports", interface.exports.join("\n          ")),
            ("imports", interface.imports.join("\n          ")),
            ("size", share(bytes.len())),
            ("sha256", Digest::of(&bytes).to_string()),
        ] {
            writeln!(text, "{name:<10}{value}").expect("writing to a string cannot fail");
        }
        say(&text)?;
        if !missing.is_empty() {
            let error = component::Error::NotAGuest(missing.join(", "));
            return Err(Failure::new(Exit::Usage, error));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::with(Exit::Internal))?;
        let described = runtime
            .block_on(guest::describe(&bytes))
            .map_err(Failure::with(Exit::Usage))?;
        say(&format!(
            "describe  {} {}, sharding {}, schema {}\n",
            described.name, described.version, described.sharding, described.schema
        ))
    }
}

/// Reads a file that the command line names.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|source| {
        let path = path.to_owned();
        Failure::new(Exit::Io, manifest::Error::Read { path, source })
    })
}
