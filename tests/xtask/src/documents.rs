//! ARCHITECTURE.md, short, and SECURITY.md: both about what is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

use crate::rust;

const MAX_LINES: usize = 300;

/// Checks the former's length, that each path they name exists, and that each test that the latter
/// names does.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let text = read(root, "ARCHITECTURE.md")?;
    let lines = text.lines().count();
    ensure!(
        lines <= MAX_LINES,
        "ARCHITECTURE.md has {lines} lines: at most {MAX_LINES}"
    );
    check_names("ARCHITECTURE.md", &paths(&text), |path| {
        root.join(path).exists()
    })?;
    let text = read(root, "SECURITY.md")?;
    check_names("SECURITY.md", &paths(&text), |path| {
        root.join(path).exists()
    })?;
    let there = tests_in(root)?;
    check_names("SECURITY.md", &tests(&text), |name| there.contains(name))
}

fn read(root: &Path, name: &str) -> anyhow::Result<String> {
    fs::read_to_string(root.join(name)).with_context(|| format!("cannot read {name}"))
}

fn check_names(
    document: &str,
    names: &[&str],
    is_there: impl Fn(&str) -> bool,
) -> anyhow::Result<()> {
    let missing: Vec<_> = names.iter().filter(|name| !is_there(name)).collect();
    ensure!(
        missing.is_empty(),
        "{document} names what is not there: {missing:?}"
    );
    Ok(())
}

/// What stands in code spans.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("```"))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The tests in code spans: names of four words or more, but those of metrics.
fn tests(text: &str) -> Vec<&str> {
    spans(text)
        .filter(|span| {
            let is_name = span
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
            is_name && span.matches('_').count() >= 3 && !span.starts_with("ostrakon_")
        })
        .collect()
}

/// The names of all tests there are: of the functions whose attributes speak of a test.
fn tests_in(root: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for directory in ["host", "guest", "examples", "tests"] {
        for path in rust::files(&root.join(directory))? {
            let source = fs::read_to_string(&path)?;
            let tokens = rust::tokens(&source);
            let mut is_test = false;
            for (at, token) in tokens.iter().enumerate() {
                let before = at.checked_sub(1).map_or("", |at| tokens[at].text);
                match token.text {
                    "test" if before == "[" || before == ":" => is_test = true,
                    "fn" if is_test => {
                        is_test = false;
                        names.extend(tokens.get(at + 1).map(|name| name.text.to_owned()));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(names)
}

/// The paths in code spans: what has a `/` within, or the end of a source
/// file's name. `/livez` and the like are paths of URLs.
fn paths(text: &str) -> Vec<&str> {
    spans(text)
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
        let write_to = |name: &str, text: &str| fs::write(root.path().join(name), text).unwrap();
        for directory in ["host", "guest", "examples", "tests"] {
            fs::create_dir(root.path().join(directory)).unwrap();
        }
        write_to("SECURITY.md", "");
        let write = |text: &str| write_to("ARCHITECTURE.md", text);
        write("`ARCHITECTURE.md`");
        check(root.path()).unwrap();
        write("`host/src`");
        let error = check(root.path()).unwrap_err().to_string();
        assert_eq!(
            error,
            "ARCHITECTURE.md names what is not there: [\"host/src\"]"
        );
        write(&"\n".repeat(MAX_LINES + 1));
        check(root.path()).unwrap_err();
        write("");
        write_to(
            "SECURITY.md",
            "`a_b_c_d`, `e_f_g_h`, `a_b` and `ostrakon_a_b_c`",
        );
        let source = "#[test]\nfn a_b_c_d() {}\n#[tokio::test(start_paused = true)]\n\
            async fn e_f_g_h() {}\nfn not_a_test_here() {}";
        write_to("tests/tests.rs", source);
        check(root.path()).unwrap();
        write_to("SECURITY.md", "`not_a_test_here`");
        let error = check(root.path()).unwrap_err().to_string();
        assert_eq!(
            error,
            "SECURITY.md names what is not there: [\"not_a_test_here\"]"
        );
    }
}
