//! The fields of the log: those that the host's lines have, and those that host/README.md lists.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

use crate::rust::{self, Token};

/// What every line has, whatever is logged.
const OF_EACH_LINE: [&str; 5] = ["timestamp", "level", "shard", "target", "message"];

const MACROS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Checks that the table lists exactly the fields that the host logs.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let mut logged: BTreeSet<_> = OF_EACH_LINE.map(str::to_owned).into();
    for path in rust::files(&root.join("host"))? {
        if !is_of_tests(&path) {
            let source = fs::read_to_string(&path)?;
            let (code, _) = source
                .split_once("#[cfg(test)]\nmod tests {")
                .unwrap_or((&source, ""));
            logged.extend(fields(code));
        }
    }
    let page = fs::read_to_string(root.join("host/README.md"))?;
    let shown = shown(&page).context("host/README.md has no table of the log's fields")?;
    let missing: Vec<_> = logged.difference(&shown).collect();
    ensure!(
        missing.is_empty(),
        "host/README.md has no row for fields of the log: {missing:?}"
    );
    let gone: Vec<_> = shown.difference(&logged).collect();
    ensure!(
        gone.is_empty(),
        "host/README.md has fields that are not logged: {gone:?}"
    );
    Ok(())
}

fn is_of_tests(path: &Path) -> bool {
    let mut parts = path.iter();
    parts.any(|part| part == "tests" || part == "tests.rs" || part == "simulation")
}

/// The fields in the first column of the table below "Logs".
fn shown(page: &str) -> Option<BTreeSet<String>> {
    let (_, logs) = page.split_once("\n## Logs\n")?;
    let (_, rows) = logs.split_once("\n| field | meaning |\n| --- | --- |\n")?;
    let rows = rows.lines().take_while(|line| line.starts_with('|'));
    let names = rows.flat_map(|row| {
        let names = row.split('|').nth(1).unwrap_or_default();
        names.split('`').skip(1).step_by(2).map(str::to_owned)
    });
    Some(names.collect())
}

/// The fields that a source logs by the macros of tracing.
fn fields(source: &str) -> BTreeSet<String> {
    let tokens = rust::tokens(source);
    let mut fields = BTreeSet::new();
    for at in 0..tokens.len() {
        if let [name, sign, open, ..] = &tokens[at..]
            && MACROS.contains(&name.text)
            && (sign.text, open.text) == ("!", "(")
        {
            fields.extend(fields_of(&tokens[at + 3..]));
        }
    }
    fields
}

/// The fields in the arguments of a macro, which begin here: those before its message. A literal
/// is no token, so the message is an argument of none.
fn fields_of(tokens: &[Token<'_>]) -> Vec<String> {
    let mut fields = Vec::new();
    let mut argument = Vec::new();
    let mut depth = 0;
    for token in tokens {
        match token.text {
            "," if depth == 0 => match argument[..] {
                [] => break,
                ["target", ":"] => argument.clear(),
                _ => fields.push(name(&std::mem::take(&mut argument))),
            },
            ")" if depth == 0 => {
                if !argument.is_empty() {
                    fields.push(name(&argument));
                }
                break;
            }
            text => {
                match text {
                    "(" | "[" | "{" => depth += 1,
                    ")" | "]" | "}" => depth -= 1,
                    _ => {}
                }
                argument.push(text);
            }
        }
    }
    fields
}

/// The name in `name = value`, `%name`, `?name` or `name`.
fn name(argument: &[&str]) -> String {
    let before = argument.split(|text| *text == "=").next();
    let before = before.unwrap_or_default().iter();
    before
        .filter(|text| !["%", "?"].contains(text))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_has_exactly_the_fields_that_are_logged() {
        check(&crate::root()).unwrap();
    }

    #[test]
    fn fields_are_found_in_each_form_and_the_message_is_none() {
        let source = r#"
            info!(shard, %error, ?took, path = %path.display(), n = f(a, b), "{} done", other);
            tracing::warn!(target: "guest", %guest, "{text}");
            tracing::error!("nothing");
            warn!(
                last = 1,
                "a message"
            );
            debug!(alone);
            if warn != (no, field) {}
        "#;
        let found = fields(source);
        let names = [
            "shard", "error", "took", "path", "n", "guest", "last", "alone",
        ];
        assert_eq!(found, names.map(str::to_owned).into());
    }
}
