//! `ostrakon new`: writes a guest to begin with.

use std::path::PathBuf;

use ostrakon_base::printable::Printable;
use ostrakon_toolchain::{New, new};

use super::{Exit, Failure, say};

/// Write a new guest: a crate that builds, tests and runs by itself, with the SDK beside it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ostrakon new polls && cd polls && cargo test && ostrakon dev")]
pub(super) struct Arguments {
    /// The guest's name: lower-case letters, digits and `-`.
    #[arg(value_name = "NAME")]
    name: String,
    /// Where to write it [default: NAME]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// The SDK to use instead of a copy: a directory of the crate ostrakon-guest.
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        let guide = match &self.sdk {
            None => "README.md says more; ostrakon/guest/README.md is the guide.",
            Some(_) => "README.md says more.",
        };
        let new = New::named(&self.name).map(|new| new.directory(self.directory).sdk(self.sdk));
        let written = new
            .and_then(|new| new.write())
            .map_err(|error| Failure::new(exit_of(&error), error))?;
        let directory = written.display().to_string();
        say(&format!(
            "\
{directory} is a guest. Next:
  cd {directory}
  cargo test                 run it in memory
  ostrakon dev               run three shards here, and swap on each save
  ostrakon build             make a component of it
{guide}
",
            directory = Printable(&directory)
        ))
    }
}

fn exit_of(error: &new::Error) -> Exit {
    match error {
        new::Error::Write(..) => Exit::Io,
        _ => Exit::Usage,
    }
}
