//! The process's own log: on standard error, for people on a terminal and as JSON elsewhere.

use std::io::IsTerminal as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

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

/// Why the log could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not one.
    #[error(
        "{directives:?} is not a log filter: write a level, or target=level pairs with commas between"
    )]
    Filter {
        /// The filter given.
        directives: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
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
pub fn check(directives: &str) -> Result<(), Error> {
    parse(directives).map(drop)
}

/// Sets the process's log up.
///
/// # Errors
/// When `directives` are not a filter, or the process has a log already.
pub fn init(format: Format, directives: &str) -> Result<Filter, Error> {
    let (layer, filter) = layer(format, directives, std::io::stderr)?;
    tracing_subscriber::registry()
        .with(layer)
        .try_init()
        .map_err(Error::Installed)?;
    Ok(filter)
}

type Boxed = Box<dyn Layer<Registry> + Send + Sync>;

fn layer<W>(format: Format, directives: &str, writer: W) -> Result<(Boxed, Filter), Error>
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
        lines.json().flatten_event(true).with_filter(filter).boxed()
    };
    Ok((layer, Filter(handle)))
}

fn parse(directives: &str) -> Result<EnvFilter, Error> {
    EnvFilter::try_new(directives).map_err(|source| Error::Filter {
        directives: directives.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn json_lines_have_their_fields_and_the_filter_changes_live() {
        let lines = Lines::default();
        let writer = lines.clone();
        let (layer, filter) = layer(Format::Json, "warn", move || writer.clone()).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!("unseen");
            assert_eq!(lines.take(), "");

            tracing::warn!(shard = 3, "seen");
            let line: serde_json::Value = serde_json::from_str(&lines.take()).unwrap();
            assert_eq!(
                (&line["level"], &line["shard"]),
                (&"WARN".into(), &3.into())
            );
            assert_eq!(line["message"], "seen");

            filter.set("error,ostrakon=info").unwrap();
            tracing::info!("seen now");
            assert!(lines.take().contains("seen now"));

            let error = filter.set("ostrakon=loud").unwrap_err();
            assert!(error.to_string().contains("ostrakon=loud"), "{error}");
            tracing::info!("still seen");
            assert!(lines.take().contains("still seen"));
        });
    }

    #[test]
    fn people_get_a_line_without_colour_codes_where_there_is_no_terminal() {
        let lines = Lines::default();
        let writer = lines.clone();
        let (layer, _) = layer(Format::Human, "info", move || writer.clone()).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(shard = 3, "hello");
        });
        let line = lines.take();
        assert!(
            line.contains("INFO") && line.contains("hello") && line.contains("shard"),
            "{line}"
        );
    }
}
