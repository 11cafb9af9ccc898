//! Formats a line of a shard's log for people.

use std::fmt::Write as _;

use serde_json::Value;

use super::news::What;

/// Fields that are not shown: the screen has an order of its own, and names the shard.
const KNOWN: [&str; 6] = ["timestamp", "level", "message", "target", "shard", "span"];

/// Refusals are reported from the shard's status, whatever the log's filter is.
const REFUSED: &str = "generation refused";

/// The content of a line if it should be shown: warnings, errors, and lines that are not log
/// lines.
pub(super) fn worth_telling(line: &str) -> Option<What> {
    let line = line.trim_end();
    if line.is_empty() {
        return None;
    }
    let Ok(Value::Object(fields)) = serde_json::from_str(line) else {
        return Some(What::Line {
            level: None,
            text: line.to_owned(),
        });
    };
    let level = fields.get("level").and_then(Value::as_str)?;
    let message = fields.get("message").and_then(Value::as_str);
    if !matches!(level, "WARN" | "ERROR") || message == Some(REFUSED) {
        return None;
    }
    let mut text = message.unwrap_or_default().to_owned();
    for (name, value) in &fields {
        if KNOWN.contains(&name.as_str()) || name == "spans" {
            continue;
        }
        let separator = if text.is_empty() { "" } else { ", " };
        let shown = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        let _ = write!(text, "{separator}{name}: {shown}");
    }
    Some(What::Line {
        level: Some(level.to_owned()),
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Option<(Option<&str>, &str)>) {
        let expected = expected.map(|(level, text)| What::Line {
            level: level.map(str::to_owned),
            text: text.to_owned(),
        });
        assert_eq!(worth_telling(line), expected, "{line}");
    }

    #[test]
    fn warnings_and_errors_are_told_with_their_fields() {
        check(
            r#"{"timestamp":"t","level":"WARN","message":"refused","step":"check","n":3,"target":"x"}"#,
            Some((Some("WARN"), "refused, n: 3, step: check")),
        );
        check(
            r#"{"level":"ERROR","error":"no"}"#,
            Some((Some("ERROR"), "error: no")),
        );
    }

    #[test]
    fn what_is_well_is_not_told_and_what_is_no_log_is() {
        check(r#"{"level":"INFO","message":"ready"}"#, None);
        check(r#"{"level":"WARN","message":"generation refused"}"#, None);
        check("\n", None);
        check("error: no\n", Some((None, "error: no")));
        check("{}", None);
        check("[1]", Some((None, "[1]")));
    }
}
