//! The commands that the pages for people show are ones that this program takes.

use std::fs;
use std::path::Path;

use clap::Parser as _;

use super::{AFTER_HELP, Cli};

const PAGES: [&str; 7] = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "deploy/README.md",
    "guest/README.md",
    "host/README.md",
    "tests/README.md",
];

/// The words of each `ostrakon` command in a line of a shell.
fn commands(line: &str) -> Vec<Vec<String>> {
    let line = line.split(" #").next().unwrap_or_default();
    let parts = line.split(['|', ';', '&', '>', '<']);
    let commands = parts.filter_map(|part| {
        let words = part.split_whitespace().map(|word| word.trim_matches('\''));
        let words: Vec<_> = words.collect();
        let is_program = |word: &str| Path::new(word).file_name() == Some("ostrakon".as_ref());
        let at = words.iter().position(|word| is_program(word))?;
        // Otherwise it is spoken of: in what a command prints, for example.
        let begins = at == 0 || matches!(words[at - 1], "$" | "--");
        let arguments = words[at + 1..].iter().map(|&word| word.to_owned());
        begins.then(|| arguments.collect::<Vec<_>>())
    });
    commands.filter(|words| !words.is_empty()).collect()
}

/// The lines in a page's code blocks; those that a backslash continues are one.
fn code(page: &str) -> Vec<String> {
    let blocks = page.split("```").skip(1).step_by(2);
    let lines = blocks.flat_map(|block| {
        let block = block.replace("\\\n", " ");
        block.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    });
    lines.collect()
}

#[test]
fn each_command_that_a_page_shows_is_taken() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let examples = AFTER_HELP.lines().map(str::trim);
    let examples = examples.filter(|line| line.starts_with("ostrakon "));
    // What an example is for stands behind it.
    let mut lines: Vec<_> = examples
        .map(|line| line.split("   ").next().unwrap_or_default().to_owned())
        .collect();
    for page in PAGES {
        let text = fs::read_to_string(root.join(page)).expect("the page is there");
        lines.extend(code(&text));
    }
    let mut taken = 0;
    for line in &lines {
        for words in commands(line) {
            let parsed = Cli::try_parse_from([&["ostrakon".to_owned()], &words[..]].concat());
            if let Err(error) = parsed {
                panic!("`{line}` is not taken:\n{error}");
            }
            taken += 1;
        }
    }
    println!("{taken} commands");
    assert!(taken >= 25, "{taken}");
}

#[test]
fn a_command_is_found_behind_others_and_before_its_comment() {
    let line = "$ for n in 0 1; do kubectl exec server-$n -- ostrakon status --watch | grep x; done  # all";
    assert_eq!(commands(line), [["status", "--watch"]]);
    let line = "$ target/quick/ostrakon pack --name a --guest b.wasm | kubectl apply -f -";
    assert_eq!(
        commands(line),
        [["pack", "--name", "a", "--guest", "b.wasm"]]
    );
    assert!(commands("ostrakon: an error").is_empty());
    assert_eq!(code("a\n```sh\n$ one \\\n  two\n```\nb"), ["$ one    two"]);
}
