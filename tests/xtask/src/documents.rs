//! Checks the documentation pages: their length, and that what they name exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, ensure};

use crate::rust;

/// The maximum number of lines of a page.
const MAX_LINES: [(&str, usize); 2] = [("ARCHITECTURE.md", 300), ("README.md", 200)];

/// Names that look like paths of the repository, but belong to a deployment or a build, or are examples.
const NOT_HERE: [&str; 5] = [
    "ostrakon.toml",
    "target/quick/ostrakon",
    "guests/NAME.wasm",
    "shard-N/log",
    "a/b",
];

/// Folders, each with the page whose table has a row for each thing in it.
const LISTED: [(&str, &str); 5] = [
    ("deploy", "deploy/README.md"),
    ("deploy/components", "deploy/README.md"),
    ("deploy/overlays", "deploy/README.md"),
    ("examples", "guest/README.md"),
    ("guest", "guest/README.md"),
];

/// The depth below the top to which pages are searched for.
const DEPTH: usize = 2;

/// Checks the length of the pages, that each path and link in them leads somewhere, and that each
/// test that SECURITY.md names exists.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let pages = pages(root)?;
    for (name, most) in MAX_LINES {
        let page = pages.get(Path::new(name));
        let lines = page.with_context(|| format!("there is no {name}"))?;
        let lines = lines.lines().count();
        ensure!(
            lines <= most,
            "{name} has {lines} lines: shorten it to at most {most}"
        );
    }
    let prose: BTreeMap<_, _> = pages
        .iter()
        .map(|(name, text)| (name.as_path(), prose(text)))
        .collect();
    for (&name, text) in &prose {
        let folder = name.parent().unwrap_or_else(|| Path::new(""));
        check_names(name, &paths(text), |path| {
            root.join(path).exists() || root.join(folder).join(path).exists()
        })?;
        check_names(name, &links(text), |link| {
            leads_somewhere(root, &prose, name, link)
        })?;
    }
    for (folder, name) in LISTED {
        let page = prose.get(Path::new(name)).map_or("", String::as_str);
        check_listed(root, folder, Path::new(name), page)?;
    }
    let there = tests_in(root)?;
    let name = Path::new("SECURITY.md");
    let security = prose.get(name).context("there is no SECURITY.md")?;
    check_names(name, &tests(security), |name| there.contains(name))
}

/// The pages of the repository, by their paths in it.
fn pages(root: &Path) -> anyhow::Result<BTreeMap<PathBuf, String>> {
    let mut pages = BTreeMap::new();
    let mut folders = vec![(PathBuf::new(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let entries = root.join(&folder);
        let entries =
            fs::read_dir(&entries).with_context(|| format!("cannot read {}", entries.display()))?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let path = folder.join(&name);
            let name = name.to_string_lossy();
            let is_folder = entry.file_type()?.is_dir();
            if is_folder && depth < DEPTH && !name.starts_with('.') && name != "target" {
                folders.push((path, depth + 1));
            } else if !is_folder && name.ends_with(".md") {
                let text = fs::read_to_string(entry.path());
                let text = text.with_context(|| format!("cannot read {}", path.display()))?;
                pages.insert(path, text);
            }
        }
    }
    Ok(pages)
}

fn check_names(page: &Path, names: &[&str], is_there: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let missing: Vec<_> = names.iter().filter(|name| !is_there(name)).collect();
    ensure!(
        missing.is_empty(),
        "{} names what is not there: {missing:?}",
        page.display()
    );
    Ok(())
}

/// Checks that a page names each thing in a folder, as it is called from the page.
fn check_listed(root: &Path, folder: &str, name: &Path, page: &str) -> anyhow::Result<()> {
    let Ok(entries) = fs::read_dir(root.join(folder)) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?.file_name();
        let entry = entry.to_string_lossy();
        let path = Path::new(folder).join(&*entry);
        let parent = name.parent().unwrap_or_else(|| Path::new(""));
        let path = path.strip_prefix(parent).unwrap_or(&path).display();
        let is_listed = entry.ends_with(".md")
            || page.contains(&format!("`{path}"))
            || page.contains(&format!("](../{path}/"));
        ensure!(is_listed, "{} does not list {path}", name.display());
    }
    Ok(())
}

/// A text without its blocks of code.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The targets of the links of a page that stay in the repository.
fn links(text: &str) -> Vec<&str> {
    let links = text.split("](").skip(1);
    links
        .filter_map(|rest| rest.split(')').next())
        .filter(|link| !link.contains("://"))
        .collect()
}

/// Whether a link leads to a file and, if it names a heading, to a heading of that file.
fn leads_somewhere(root: &Path, pages: &BTreeMap<&Path, String>, page: &Path, link: &str) -> bool {
    let (path, heading) = link.split_once('#').unwrap_or((link, ""));
    let mut target = PathBuf::new();
    if path.is_empty() {
        target.push(page);
    } else {
        let folder = page.parent().unwrap_or_else(|| Path::new(""));
        for part in folder.join(path).components() {
            match part {
                Component::ParentDir => {
                    target.pop();
                }
                part => target.push(part),
            }
        }
    }
    let has_heading = || {
        let text = pages.get(target.as_path());
        text.is_some_and(|text| headings(text).any(|one| one == heading))
    };
    root.join(&target).exists() && (heading.is_empty() || has_heading())
}

/// The anchors of a page's headings, as GitHub derives them from the text.
fn headings(text: &str) -> impl Iterator<Item = String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| {
        let text = line.trim_start_matches('#').trim().to_lowercase();
        let kept = text
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

/// The content of code spans.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The tests in code spans: names of four words or more, except those of metrics.
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

/// The names of all tests: of all functions with a test attribute.
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

/// The paths in code spans: spans that contain a `/`, or end like the name of a source
/// file. `/livez` and the like are paths of URLs.
fn paths(text: &str) -> Vec<&str> {
    spans(text)
        .filter(|span| {
            let is_path = span
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte));
            let ends_like_one = [".rs", ".md", ".toml", ".wit"]
                .iter()
                .any(|end| span.ends_with(end));
            let is_of_ours = !span.starts_with(['/', '.']) && !NOT_HERE.contains(span);
            is_path && is_of_ours && (span.contains('/') || ends_like_one)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "See `host/src/lib.rs`, `host/src/writer/`, `Cargo.toml` and `gone/file`.\n\
        ```text\nplain `in/code`\n```\nNot `/livez`, `..data`, `a::b`, `GET /kv/<key>`, `name` or \
        `ostrakon.toml`.";

    #[test]
    fn the_pages_of_this_repository_are_good() {
        check(&crate::root()).unwrap();
    }

    #[test]
    fn paths_are_told_from_other_code() {
        assert_eq!(
            paths(&prose(TEXT)),
            [
                "host/src/lib.rs",
                "host/src/writer/",
                "Cargo.toml",
                "gone/file"
            ]
        );
    }

    #[test]
    fn headings_are_called_as_github_calls_them() {
        let text = "# One\ntext\n### `ostrakon dev ctl`\n## The key/value guest: A, b_c";
        let called: Vec<_> = headings(text).collect();
        assert_eq!(
            called,
            ["one", "ostrakon-dev-ctl", "the-keyvalue-guest-a-b_c"]
        );
    }

    /// A repository with the required pages only.
    fn repository() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in ["host/crate", "guest", "examples", "tests"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for page in ["README.md", "ARCHITECTURE.md", "SECURITY.md"] {
            write(&root, page, "");
        }
        root
    }

    fn write(root: &tempfile::TempDir, name: &str, text: &str) {
        fs::write(root.path().join(name), text).unwrap();
    }

    #[track_caller]
    fn refused(root: &tempfile::TempDir, expected: &str) {
        let error = check(root.path()).unwrap_err().to_string();
        assert_eq!(error, expected);
    }

    #[test]
    fn a_path_that_is_not_there_and_a_long_text_are_refused() {
        let root = repository();
        write(&root, "ARCHITECTURE.md", "`ARCHITECTURE.md`");
        check(root.path()).unwrap();
        write(&root, "ARCHITECTURE.md", "`host/src`");
        refused(
            &root,
            "ARCHITECTURE.md names what is not there: [\"host/src\"]",
        );
        for (page, most) in MAX_LINES {
            let root = repository();
            write(&root, page, &"\n".repeat(most));
            check(root.path()).unwrap();
            write(&root, page, &"\n".repeat(most + 1));
            check(root.path()).unwrap_err();
        }
    }

    #[test]
    fn paths_and_links_of_every_page_lead_somewhere() {
        let root = repository();
        write(&root, "host/crate/lib.rs", "");
        write(
            &root,
            "README.md",
            "# Top\n[a](host/crate/README.md#inner-part), [b](#top), [c](https://a.b)",
        );
        let page =
            "## Inner part\n`lib.rs`, `host/crate/lib.rs`, [back](../../README.md#top), [all](..)";
        write(&root, "host/crate/README.md", page);
        check(root.path()).unwrap();
        for (text, missing) in [
            ("`main.rs`", "main.rs"),
            ("[a](main.rs)", "main.rs"),
            ("[a](../../README.md#bottom)", "../../README.md#bottom"),
            ("[a](#inner)", "#inner"),
            ("[a](../README.md)", "../README.md"),
        ] {
            write(&root, "host/crate/README.md", &format!("{page} {text}"));
            refused(
                &root,
                &format!("host/crate/README.md names what is not there: [{missing:?}]"),
            );
        }
    }

    #[test]
    fn what_a_folder_has_and_its_page_does_not_list_is_refused() {
        let root = repository();
        fs::create_dir_all(root.path().join("deploy/components/tls")).unwrap();
        write(&root, "deploy/README.md", "| `components/tls` | |");
        check(root.path()).unwrap();
        fs::create_dir_all(root.path().join("deploy/components/more")).unwrap();
        refused(&root, "deploy/README.md does not list components/more");
        fs::create_dir_all(root.path().join("examples/counter")).unwrap();
        write(
            &root,
            "deploy/README.md",
            "`components/tls`, `components/more`",
        );
        write(&root, "guest/README.md", "nothing");
        refused(&root, "guest/README.md does not list examples/counter");
    }

    #[test]
    fn a_test_that_is_not_there_is_refused() {
        let root = repository();
        write(
            &root,
            "SECURITY.md",
            "`a_b_c_d`, `e_f_g_h`, `a_b` and `ostrakon_a_b_c`",
        );
        let source = "#[test]\nfn a_b_c_d() {}\n#[tokio::test(start_paused = true)]\n\
            async fn e_f_g_h() {}\nfn not_a_test_here() {}";
        write(&root, "tests/tests.rs", source);
        check(root.path()).unwrap();
        write(&root, "SECURITY.md", "`not_a_test_here`");
        refused(
            &root,
            "SECURITY.md names what is not there: [\"not_a_test_here\"]",
        );
    }
}
