//! `ostrakon check`: checks whether a shard's data is whole.

use std::fmt::Write as _;
use std::path::PathBuf;

use bytesize::ByteSize;
use ostrakon_base::printable::Printable;
use ostrakon_base::stored::Unreadable;
use ostrakon_shard::swap::Kept;
use ostrakon_shard::writer;
use ostrakon_store::{self as store, OpenError};

use super::progress::grouped;
use super::serve::exit_of_store;
use super::{Exit, Failure, say};

/// The memory for the store's pages during the check.
const CACHE: usize = 64 << 20;

/// Check a stopped shard's whole data directory, with all checksums, and say what is damaged.
///
/// Changes nothing. Takes about as long as reading the file twice. `ostrakon serve --check`
/// does the same at a start.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ostrakon check data
  ostrakon check /var/lib/ostrakon && echo whole")]
pub(super) struct Arguments {
    /// The data directory. No process may be using it.
    #[arg(value_name = "DIR", env = "OSTRAKON_DATA_DIR")]
    directory: PathBuf,
}

#[derive(Debug, thiserror::Error)]
#[error("the data in {directory} is damaged: restore it from a backup")]
struct Damaged {
    directory: String,
}

fn or_none(text: Option<String>) -> String {
    text.unwrap_or_else(|| "none".to_owned())
}

impl Arguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut checked = store::check(&self.directory, CACHE)
            .map_err(|error| Failure::new(exit_of_store(&error), error))?;
        let live = match writer::read_record(&checked.record) {
            Ok(live) => live,
            Err(source @ Unreadable::Newer { .. }) => {
                let path = self.directory.join("shard.redb");
                let error = OpenError::Newer { path, source };
                return Err(Failure::new(exit_of_store(&error), error));
            }
            Err(error) => {
                checked.problem(format!("table `meta`: {error}"));
                None
            }
        };
        for digest in Kept::damaged(&self.directory) {
            checked.problem(format!(
                "the files of the kept generation {digest} are not what they were"
            ));
        }
        let record = &checked.record;
        let mut text = format!(
            "{} entries in {} partitions, {}; generation {}, schema {}\n",
            grouped(checked.entries),
            grouped(checked.partitions),
            ByteSize(checked.bytes),
            or_none(live.map(|live| live.number.to_string())),
            or_none(record.schema.map(|schema| schema.to_string())),
        );
        for problem in &checked.problems {
            let _ = writeln!(text, "damaged: {}", Printable(problem));
        }
        if checked.more > 0 {
            let _ = writeln!(text, "and {} more", checked.more);
        }
        say(&text)?;
        if checked.problems.is_empty() {
            return Ok(());
        }
        let directory = self.directory.display().to_string();
        Err(Failure::new(Exit::Damaged, Damaged { directory }))
    }
}
