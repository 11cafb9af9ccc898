//! Errors in settings.

use std::fmt;
use std::time::Duration;

use humantime_serde::re::humantime::format_duration;
use ostrakon_observe::telemetry::FilterError;

use super::{GIB, KIB, MIB, Share};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not TOML, or contains something that is not a setting.
    #[error("ostrakon.toml, line {line}: {message}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The fault, in one line.
        message: String,
    },
    #[error("{name} is {value}; it must be {least} to {most}")]
    OutOfRange {
        name: &'static str,
        value: Value,
        least: Value,
        most: Value,
    },
    #[error("{name} is {value}; it must not be above {other}, which is {bound}")]
    Conflict {
        name: &'static str,
        /// The value in force for this setting.
        value: Value,
        /// The setting that bounds it.
        other: &'static str,
        /// The value in force for that bounding setting.
        bound: Value,
    },
    /// The drain would end before it begins.
    #[error("drain.serve_for is {serve_for}; it must be below drain.deadline, which is {deadline}")]
    NoTimeToDrain { serve_for: Value, deadline: Value },
    /// Clients would be redirected to shards, but no setting says where these are.
    #[error(
        "cluster.routing is \"redirect\"; set cluster.public_url too, such as \"http://kv-{{}}.kv:8080\", where {{}} is the ordinal of the shard that clients are sent to"
    )]
    NoPublicUrl,
    /// The URL to redirect clients to is not an address.
    #[error(
        "cluster.public_url is {url:?}; write http:// or https://, a host, perhaps a port, and nothing after it, such as \"http://kv-{{}}.kv:8080\""
    )]
    PublicUrl { url: String },
    /// What may differ is no path.
    #[error("rehearsal.differ has {path:?}; paths begin with /")]
    NoPath { path: String },
    /// A step is not larger than the one before it.
    #[error("rollout.steps has {step} after {before}; each step is larger than the one before it")]
    StepsFall { step: Share, before: Share },
    /// The last step is not all.
    #[error("rollout.steps ends with {last}; the last step is \"100%\"")]
    StepsEnd { last: Share },
    /// All partitions would come first.
    #[error("rollout.first has \"\", with which all keys begin; leave it out, or name a beginning")]
    FirstIsAll,
    /// Nothing would be watched.
    #[error(
        "rollout.bake is 0s, and rollout.{what} needs a time in which a step is watched, such as \"2m\""
    )]
    NotBaked { what: &'static str },
    #[error("log.filter: {0}")]
    Filter(#[source] FilterError),
}

impl Error {
    /// Turns the parser's multi-line message, which includes a picture, into one line.
    pub(super) fn syntax(text: &str, error: &toml::de::Error) -> Self {
        let start = error.span().map_or(0, |span| span.start);
        let before = text.get(..start).unwrap_or(text);
        let line = 1 + before.matches('\n').count();
        Self::Syntax {
            line,
            message: error.message().replace('\n', " "),
        }
    }
}

/// A value in an error, as people write it.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub enum Value {
    Count(u64),
    Size(usize),
    Time(Duration),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Time(time) => write!(f, "{}", format_duration(time)),
            // Exact, so that a value just outside a bound is not shown as the bound.
            Self::Size(size) if size > 0 && size % GIB == 0 => write!(f, "{}GiB", size / GIB),
            Self::Size(size) if size > 0 && size % MIB == 0 => write!(f, "{}MiB", size / MIB),
            Self::Size(size) if size > 0 && size % KIB == 0 => write!(f, "{}KiB", size / KIB),
            Self::Size(size) => write!(f, "{size} bytes"),
        }
    }
}
