//! ARCHITECTURE.md: short, and about what is there.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

const MAX_LINES: usize = 300;

/// Checks its length, and that each path it names exists.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let text =
        fs::read_to_string(root.join("ARCHITECTURE.md")).context("cannot read ARCHITECTURE.md")?;
    let lines = text.lines().count();
    ensure!(
        lines <= MAX_LINES,
        "it has {lines} lines: at most {MAX_LINES}"
    );
    let missing: Vec<_> = paths(&text)
        .into_iter()
        .filter(|path| !root.join(path).exists())
        .collect();
    ensure!(
        missing.is_empty(),
        "it names what is not there: {}",
        missing.join(", ")
    );
    Ok(())
}

/// The paths in code spans: what has a `/` within, or the end of a source
/// file's name. `/livez` and the like are paths of URLs.
fn paths(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("```"))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .filter(|span| {
            let is_path = span
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte));
            let ends_like_one = [".rs", ".md", ".toml", ".wit"]
                .iter()
                .any(|end| span.ends_with(end));
            is_path && !span.starts_with(['/', '.']) && (span.contains('/') || ends_like_one)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "See `host/src/lib.rs`, `host/src/lane/`, `Cargo.toml` and `gone/file`.\n\
        ```text\nplain\n```\nNot `/livez`, `..data`, `a::b`, `GET /kv/<key>` or `name`.";

    #[test]
    fn paths_are_told_from_other_code() {
        assert_eq!(
            paths(TEXT),
            [
                "host/src/lib.rs",
                "host/src/lane/",
                "Cargo.toml",
                "gone/file"
            ]
        );
    }

    #[test]
    fn a_path_that_is_not_there_and_a_long_text_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let write = |text: &str| fs::write(root.path().join("ARCHITECTURE.md"), text).unwrap();
        write("`ARCHITECTURE.md`");
        check(root.path()).unwrap();
        write("`host/src`");
        let error = check(root.path()).unwrap_err().to_string();
        assert_eq!(error, "it names what is not there: host/src");
        write(&"\n".repeat(MAX_LINES + 1));
        check(root.path()).unwrap_err();
    }
}
