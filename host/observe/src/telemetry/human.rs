//! The log format for people.

use std::fmt::{self, Write as _};

use ostrakon_base::printable::{Escaping, Printable};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::FROM_LOG;

/// Writes each event as one line: time, level, target, message, and its fields. Text from others
/// cannot end the line or colour it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Human;

impl<S, N> FormatEvent<S, N> for Human
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
        let metadata = event.metadata();
        let paint = Paint(writer.has_ansi_escapes());
        let mut fields = Fields {
            paint,
            text: String::new(),
            target: None,
        };
        event.record(&mut fields);
        let target = fields.target.as_deref();
        let target = target.unwrap_or_else(|| metadata.target());
        paint.write(&mut writer, DIM, |to| {
            SystemTime.format_time(&mut Writer::new(to))
        })?;
        writer.write_char(' ')?;
        let level = *metadata.level();
        paint.write(&mut writer, colour(level), |to| write!(to, "{level:>5}"))?;
        writer.write_char(' ')?;
        paint.write(&mut writer, DIM, |to| write!(to, "{}:", Printable(target)))?;
        writeln!(writer, "{}", fields.text)
    }
}

const DIM: u8 = 2;
const ITALIC: u8 = 3;

fn colour(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    }
}

/// Whether to write colours.
#[derive(Clone, Copy, Debug)]
struct Paint(bool);

impl Paint {
    fn write<W: fmt::Write>(
        self,
        to: &mut W,
        code: u8,
        text: impl FnOnce(&mut String) -> fmt::Result,
    ) -> fmt::Result {
        let mut plain = String::new();
        text(&mut plain)?;
        if self.0 {
            write!(to, "\x1b[{code}m{plain}\x1b[0m")
        } else {
            to.write_str(&plain)
        }
    }
}

/// The message and fields, each preceded by a space.
struct Fields {
    paint: Paint,
    text: String,
    /// The target of an event that came through the `log` crate.
    target: Option<String>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.record_debug(field, &format_args!("{value}")),
            "log.target" => self.target = Some(value.to_owned()),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let name = field.name();
        let name = name.strip_prefix("r#").unwrap_or(name);
        if name.starts_with(FROM_LOG) && name.as_bytes().get(FROM_LOG.len()) == Some(&b'.') {
            return;
        }
        self.text.push(' ');
        // Writing to a string fails only if `Debug` returns an error; the rest of the line stays.
        if name != "message" {
            let _ = self
                .paint
                .write(&mut self.text, ITALIC, |to| to.write_str(name));
            let _ = self
                .paint
                .write(&mut self.text, DIM, |to| to.write_str("="));
        }
        let _ = write!(Escaping(&mut self.text), "{value:?}");
    }
}
