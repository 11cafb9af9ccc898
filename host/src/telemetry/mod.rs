//! The process's own log: on standard error, for people on a terminal and as JSON elsewhere.

mod json;
mod panics;
#[cfg(test)]
mod tests;

use std::io::IsTerminal as _;

use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use json::Json;

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `human` where standard error is a terminal, `json` elsewhere.
    #[default]
    Auto,
    /// A line for people, in colour on a terminal.
    Human,
    /// A JSON object on a line of its own.
    Json,
}

/// Why a log filter is not taken.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// It is not a filter.
    #[error(
        "{directives:?} is not a log filter: write a level, or target=level pairs with commas between"
    )]
    Directives {
        /// The filter given.
        directives: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// A level is misspelt, it seems: a target alone would silence all others.
    #[error(
        "{word:?} in {directives:?} is none of the levels off, error, warn, info, debug and trace: write a target with its level, as in {word}=trace"
    )]
    Word {
        /// The filter given.
        directives: String,
        /// The word in it.
        word: String,
    },
}

/// Why the log could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not one.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The process has a log already.
    #[error("the log is set up already: set it up once in a process")]
    Installed(#[source] tracing_subscriber::util::TryInitError),
    /// The log is gone.
    #[error("the log's filter cannot be replaced: restart the process")]
    Gone(#[source] reload::Error),
}

/// Changes what is logged while the process runs.
#[derive(Clone, Debug)]
pub struct Filter(reload::Handle<EnvFilter, Registry>);

impl Filter {
    /// Logs what `directives` let through from now on: `info`, or `info,ostrakon::http=debug`. On
    /// an error the filter before stays.
    ///
    /// # Errors
    /// When `directives` are not a filter.
    pub fn set(&self, directives: &str) -> Result<(), Error> {
        self.0.reload(parse(directives)?).map_err(Error::Gone)
    }
}

/// Whether `directives` are a filter.
///
/// # Errors
/// When they are not.
pub fn check(directives: &str) -> Result<(), FilterError> {
    parse(directives).map(drop)
}

/// Sets the log of shard `shard`'s process up. Panics are lines of it from then on.
///
/// # Errors
/// When `directives` are not a filter, or the process has a log already.
pub fn init(format: Format, directives: &str, shard: u32) -> Result<Filter, Error> {
    let (layer, filter) = layer(format, directives, shard, std::io::stderr)?;
    tracing_subscriber::registry()
        .with(layer)
        .try_init()
        .map_err(Error::Installed)?;
    panics::log();
    Ok(filter)
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
    let (filter, handle) = reload::Layer::new(parse(directives)?);
    let terminal = std::io::stderr().is_terminal();
    let lines = fmt::layer().with_writer(writer);
    let human = match format {
        Format::Auto => terminal,
        Format::Human => true,
        Format::Json => false,
    };
    let layer = if human {
        lines.with_ansi(terminal).with_filter(filter).boxed()
    } else {
        let lines = lines.event_format(Json { shard });
        lines.with_filter(filter).boxed()
    };
    Ok((layer, Filter(handle)))
}

/// The client of the API server, as the target of lines of its own.
const KUBE: &str = "kube_client";

fn parse(directives: &str) -> Result<EnvFilter, FilterError> {
    let filter = EnvFilter::try_new(directives).map_err(|source| FilterError::Directives {
        directives: directives.to_owned(),
        source,
    })?;
    let mut words = directives.split(',').map(str::trim);
    let is_target = |word: &str| !word.contains(['=', '[']) && word.parse::<LevelFilter>().is_err();
    if let Some(word) = words.find(|word| !word.is_empty() && is_target(word)) {
        return Err(FilterError::Word {
            directives: directives.to_owned(),
            word: word.to_owned(),
        });
    }
    if directives.contains(KUBE) {
        return Ok(filter);
    }
    // What it tells at each failure is told here once, with what to do.
    let off = format!("{KUBE}=off").parse();
    Ok(filter.add_directive(off.expect("it is a directive")))
}
