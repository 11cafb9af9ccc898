//! The process's own log on standard error: for people on a terminal, and as JSON elsewhere.
//!
//! Logging never waits: lines go through a [`Backlog`].

mod backlog;
mod filter;
mod human;
mod json;
mod panics;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd;
use std::time::Duration;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

pub use backlog::{Backlog, MOST};
pub use filter::{FilterError, check};
pub use panics::{DAMAGED, contain};

use human::Human;
use json::Json;
use ostrakon_base::printable::Printable;

/// How long the process waits at its end until the last lines are written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The target of events from the `log` crate, whose own target is a field.
const FROM_LOG: &str = "log";

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `human` where standard error is a terminal, `json` elsewhere.
    #[default]
    Auto,
    /// A line for people, coloured on a terminal.
    Human,
    /// A JSON object on a line of its own.
    Json,
}

impl Format {
    fn is_json(self) -> bool {
        match self {
            Self::Auto => !io::stderr().is_terminal(),
            Self::Human => false,
            Self::Json => true,
        }
    }

    /// The last message of a process that ends with an error, with a line end. It is a JSON line
    /// like those of the log if they are JSON, regardless of the log's filter. `shard` is `None`
    /// if it is not known yet.
    pub fn last_line(self, shard: Option<u32>, error: &str) -> String {
        if self.is_json() {
            json::last_line(shard, module_path!(), error)
        } else {
            format!("error: {}\n", Printable(error))
        }
    }
}

/// Why the log could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error("the log is set up already: set it up once in a process")]
    Installed(#[source] tracing_subscriber::util::TryInitError),
    #[error("the log's filter cannot be replaced: restart the process")]
    Gone(#[source] reload::Error),
    /// No thread or descriptor is available to write the log.
    #[error("the system does not give what the log needs")]
    System(#[from] io::Error),
}

/// The log of a process. On drop it waits at most a second until the last lines are written.
#[derive(Debug)]
pub struct Log {
    /// The filter, which can be changed.
    pub filter: Filter,
    pub lines: Backlog,
}

impl Drop for Log {
    fn drop(&mut self) {
        self.lines.flush(LAST_LINES);
    }
}

/// Changes the filter while the process runs.
#[derive(Clone, Debug)]
pub struct Filter(reload::Handle<EnvFilter, Registry>);

impl Filter {
    /// Sets the filter from now on: `info`, or `info,ostrakon_network=debug`. On an error the
    /// previous filter stays.
    ///
    /// # Errors
    /// When `directives` are not a filter.
    pub fn set(&self, directives: &str) -> Result<(), Error> {
        self.0
            .reload(filter::parse(directives)?)
            .map_err(Error::Gone)
    }
}

/// Sets up the log of shard `shard`'s process. From then on, panics are logged.
///
/// # Errors
/// When `directives` are not a filter, or the process already has a log.
pub fn init(format: Format, directives: &str, shard: u32) -> Result<Log, Error> {
    let lines = Backlog::start(MOST, unlocked(io::stderr())?, |lines| {
        tracing::warn!(
            lines,
            "log lines were lost because they were not read in time"
        );
    })?;
    let to = lines.clone();
    let (layer, filter) = layer(format, directives, shard, move || Line(to.clone()))?;
    tracing_subscriber::registry()
        .with(layer)
        .try_init()
        .map_err(Error::Installed)?;
    panics::log(lines.clone());
    Ok(Log { filter, lines })
}

/// A standard stream without its lock and buffer. A thread that holds the lock, or fills the
/// buffer, may have to wait for a reader.
///
/// # Errors
/// When no descriptors are left.
pub fn unlocked(stream: impl AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

/// A line under construction, which is queued whole when complete.
struct Line(Backlog);

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Boxed = Box<dyn Layer<Registry> + Send + Sync>;

fn layer<W>(
    format: Format,
    directives: &str,
    shard: u32,
    writer: W,
) -> Result<(Boxed, Filter), Error>
where
    W: for<'w> fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter::parse(directives)?);
    let terminal = io::stderr().is_terminal();
    let lines = fmt::layer().with_writer(writer);
    let layer = if format.is_json() {
        let lines = lines.event_format(Json { shard });
        lines.with_filter(filter).boxed()
    } else {
        let lines = lines.with_ansi(terminal).event_format(Human);
        lines.with_filter(filter).boxed()
    };
    Ok((layer, Filter(handle)))
}
