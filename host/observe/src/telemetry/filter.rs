//! The log filter: a level for our own lines, and for others by name.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};

/// The targets of our own lines: the host's crates and the guests.
const OURS: [&str; 2] = ["ostrakon", "guest"];
/// The target of the log lines of the API server's client.
const KUBE: &str = "kube_client";

#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error(
        "{directives:?} is not a log filter: write a level, or target=level pairs with commas between"
    )]
    Directives {
        directives: String,
        #[source]
        source: ParseError,
    },
    /// A level that seems to be misspelt. Taken as a target alone, it would silence all others.
    #[error(
        "{word:?} in {directives:?} is none of the levels off, error, warn, info, debug and trace: write a target with its level, as in {word}=trace"
    )]
    Word { directives: String, word: String },
}

/// Checks that `directives` are a valid filter.
///
/// # Errors
/// When they are not.
pub fn check(directives: &str) -> Result<(), FilterError> {
    parse(directives).map(drop)
}

/// A level alone applies to our own lines. Other crates' lines pass at `info` at most unless they
/// are named, because their debug lines are many.
pub(super) fn parse(directives: &str) -> Result<EnvFilter, FilterError> {
    let mut filter = EnvFilter::try_new(directives).map_err(|source| FilterError::Directives {
        directives: directives.to_owned(),
        source,
    })?;
    let mut alone = None;
    for word in directives.split(',').map(str::trim) {
        if word.is_empty() || word.contains(['=', '[']) {
            continue;
        }
        match word.parse::<LevelFilter>() {
            Ok(level) => alone = Some(level),
            Err(_) => {
                return Err(FilterError::Word {
                    directives: directives.to_owned(),
                    word: word.to_owned(),
                });
            }
        }
    }
    let add = |filter: EnvFilter, directive: &str| {
        filter.add_directive(directive.parse().expect("the directive is valid"))
    };
    if let Some(level) = alone.filter(|level| *level > LevelFilter::INFO) {
        filter = add(filter, "info");
        let names = |target: &str| {
            let mut words = directives.split(',').map(str::trim);
            words.any(|word| {
                word.split_once('=')
                    .is_some_and(|(named, _)| named.trim() == target)
            })
        };
        for target in OURS.into_iter().filter(|target| !names(target)) {
            filter = add(filter, &format!("{target}={level}"));
        }
    }
    if !directives.contains(KUBE) {
        // Our own lines report each of its failures once, with what to do.
        filter = add(filter, &format!("{KUBE}=off"));
    }
    Ok(filter)
}
