//! The log format of one JSON object per line.

use std::error::Error;
use std::fmt::{self, Write as _};

use ostrakon_base::printable::is_printable;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::FROM_LOG;

/// Writes each event as one line: `timestamp` (RFC 3339, UTC), `level`, `shard`, `target` and
/// `message`, which are always present, and then the event's own fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Json {
    pub(super) shard: u32,
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let (mut target, mut rest) = (metadata.target().to_owned(), fields.rest);
        if target == FROM_LOG {
            if let Some(Value::String(named)) = rest.remove("log.target") {
                target = named;
            }
            rest.retain(|name, _| !name.starts_with("log."));
        }
        let line = Line {
            level: *metadata.level(),
            shard: Some(self.shard),
            target,
            message: fields.message,
            rest,
        };
        line.write(&mut writer)
    }
}

/// The line for an error that ends the process, written regardless of the log's filter. `shard` is
/// `None` if it is not known yet.
pub(super) fn last_line(shard: Option<u32>, target: &str, message: &str) -> String {
    let line = Line {
        level: Level::ERROR,
        shard,
        target: target.to_owned(),
        message: message.to_owned(),
        rest: Map::new(),
    };
    let mut text = String::new();
    let written = line.write(&mut text);
    debug_assert!(written.is_ok(), "writing to a string does not fail");
    text
}

struct Line {
    level: Level,
    shard: Option<u32>,
    target: String,
    message: String,
    rest: Map<String, Value>,
}

impl Line {
    fn write(self, to: &mut impl fmt::Write) -> fmt::Result {
        let mut timestamp = String::with_capacity(32);
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let mut line = String::with_capacity(256);
        write!(
            line,
            r#"{{"timestamp":"{timestamp}","level":"{}","shard":{},"target":{},"message":{}"#,
            self.level,
            Value::from(self.shard),
            Value::String(self.target),
            Value::String(self.message),
        )?;
        for (name, value) in self.rest {
            // Each name appears once: the line's own fields take precedence.
            if !matches!(&*name, "timestamp" | "level" | "shard" | "target") {
                write!(line, ",{}:{value}", Value::String(name))?;
            }
        }
        line.push('}');
        escape(&line, to)?;
        to.write_char('\n')
    }
}

/// Escapes line separators, and characters that hide or reverse text. JSON itself escapes only
/// ASCII controls. Such characters occur only within its strings, where an escape is valid.
fn escape(line: &str, to: &mut impl fmt::Write) -> fmt::Result {
    let mut from = 0;
    for (at, letter) in line
        .char_indices()
        .filter(|(_, letter)| !is_printable(*letter))
    {
        to.write_str(&line[from..at])?;
        for unit in letter.encode_utf16(&mut [0; 2]) {
            write!(to, "\\u{unit:04x}")?;
        }
        from = at + letter.len_utf8();
    }
    to.write_str(&line[from..])
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

impl Fields {
    fn take(&mut self, field: &Field, value: Value) {
        let name = field.name();
        // A field that is named after a keyword.
        let name = name.strip_prefix("r#").unwrap_or(name);
        match (name, value) {
            ("message", Value::String(text)) => self.message = text,
            ("message", other) => self.message = other.to_string(),
            (name, value) => drop(self.rest.insert(name.to_owned(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.take(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.take(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.take(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.take(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.take(field, value.to_string().into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format!("{value:?}").into());
    }
}
