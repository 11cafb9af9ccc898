//! `ostrakon build`: compiles a guest's crate to a component.

use std::path::PathBuf;

use clap::ValueEnum;
use ostrakon_toolchain::{Build, Built, Search, build};

use super::{Exit, Failure, say};

/// Build a guest's crate into a component, ready for `pack`.
///
/// A Wasm file that another toolchain made becomes a component, too: a core module with the
/// contract's bindings is encoded, and a component is checked and copied.
///
/// Finds a toolchain for Wasm on this machine, or installs one: an installed target of the
/// active toolchain, else with rustup, else (as root on Debian) with apt-get.
/// `OSTRAKON_GUEST_TOOLCHAIN` set to installed, rustup or debian restricts the search to that
/// way.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ostrakon build guest/kv -o kv.wasm")]
pub(super) struct Arguments {
    /// The directory of the crate's Cargo.toml, or a Wasm file.
    #[arg(value_name = "DIR|FILE", default_value = ".")]
    directory: PathBuf,
    /// Where to write the component [default: guests/NAME.wasm in the target directory]
    #[arg(short, long, env = "OSTRAKON_OUTPUT", value_name = "FILE")]
    output: Option<PathBuf>,
    /// A profile of the crate's workspace, unchanged [default: release, optimized for size]
    #[arg(long, env = "OSTRAKON_PROFILE", value_name = "NAME")]
    profile: Option<String>,
    #[command(flatten)]
    target: CompiledFor,
}

/// What a guest is compiled for.
#[derive(Debug, clap::Args)]
pub(super) struct CompiledFor {
    /// The target to compile the guest for; wasm32-wasip2 is for guests that use WASI.
    #[arg(
        long,
        env = "OSTRAKON_TARGET",
        value_name = "TARGET",
        default_value = "wasm32-unknown-unknown"
    )]
    target: Target,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Target {
    #[value(name = "wasm32-unknown-unknown")]
    Unknown,
    #[value(name = "wasm32-wasip2")]
    Wasip2,
}

impl From<CompiledFor> for ostrakon_toolchain::Target {
    fn from(of: CompiledFor) -> Self {
        match of.target {
            Target::Unknown => Self::Unknown,
            Target::Wasip2 => Self::Wasip2,
        }
    }
}

impl Arguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.directory.is_file() {
            let built = Build::of_file(&self.directory, self.output);
            return tell(built.map_err(|error| Failure::new(exit_of(&error), error))?);
        }
        if !self.directory.join("Cargo.toml").is_file() {
            let error = build::Error::NotACrate(self.directory);
            return Err(Failure::new(Exit::Usage, error));
        }
        let toolchain = Search::new(self.target.into(), &self.directory)
            .and_then(|search| search.find())
            .map_err(Failure::with(Exit::Unavailable))?;
        let built = Build::new(self.directory)
            .profile(self.profile)
            .output(self.output)
            .run(&toolchain)
            .map_err(|error| Failure::new(exit_of(&error), error))?;
        tell(built)
    }
}

fn tell(built: Built) -> Result<(), Failure> {
    let Built {
        path,
        bytes,
        sha256,
    } = built;
    say(&format!(
        "{}\n{bytes} bytes, sha256 {sha256}\n",
        path.display()
    ))
}

fn exit_of(error: &build::Error) -> Exit {
    use build::Error;

    match error {
        Error::Read { .. } | Error::Write { .. } => Exit::Io,
        Error::Cargo(_) => Exit::Unavailable,
        _ => Exit::Usage,
    }
}
