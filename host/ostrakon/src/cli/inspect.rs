//! `ostrakon inspect`: describes a component without serving it.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use ostrakon_base::digest::Digest;
use ostrakon_base::printable::Printable;
use ostrakon_base::regular;
use ostrakon_engine::{self as guest, Compiler, Unfit, examine};
use ostrakon_toolchain::{Interface, component};

use super::manifest::{self, share};
use super::{Exit, Failure, say};

/// The most bytes of a file given on the command line.
const MAX_INPUT: usize = 256 << 20;

/// Show a component's world, size and digest, and how it describes itself.
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
        let examined = bounded(&bytes)?;
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
            ("exports", listed(&interface.exports)),
            ("imports", listed(&interface.imports)),
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
        examined.map_err(Failure::with(Exit::Usage))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::with(Exit::Internal))?;
        let described = runtime
            .block_on(guest::describe(
                bytes.into(),
                &Compiler::in_children(None, None),
            ))
            .map_err(Failure::with(Exit::Usage))?;
        say(&format!(
            "describe  {} {}, sharding {}, schema {}\n",
            Printable(&described.name),
            Printable(&described.version),
            described.sharding,
            described.schema
        ))
    }
}

/// The names, each on a line.
fn listed(names: &[String]) -> String {
    let names: Vec<_> = names
        .iter()
        .map(|name| Printable(name).to_string())
        .collect();
    names.join("\n          ")
}

/// Checks that parsing the component's exterior takes few resources. Returns any other fault of
/// the component, or that there is none.
pub(super) fn bounded(bytes: &[u8]) -> Result<Result<(), Unfit>, Failure> {
    match examine(bytes) {
        Err(error @ (Unfit::TooMuch { .. } | Unfit::Given)) => {
            Err(Failure::new(Exit::Usage, error))
        }
        examined => Ok(examined),
    }
}

/// Reads a file given on the command line.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    regular::read(path, MAX_INPUT).map_err(|source| {
        let path = path.to_owned();
        Failure::new(Exit::Io, manifest::Error::Read { path, source })
    })
}
