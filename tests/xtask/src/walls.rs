//! The walls inside the host: where a big dependency is named, and which
//! module uses which.
//!
//! The order of modules is that of the `mod` lines in `host/src/lib.rs`: a
//! module uses those above its line, never those below.

use std::fs;
use std::path::{Component, Path};

use anyhow::{Context, bail};

use crate::rust::{self, Token};

/// Crates, and the one module that names them.
const WALLS: [(&str, &str); 12] = [
    ("wasmtime", "guest"),
    ("wasmtime_wasi", "guest"),
    ("redb", "store"),
    ("hyper", "http"),
    ("hyper_util", "http"),
    ("http_body_util", "http"),
    ("notify", "volume"),
    ("rustls", "tls"),
    ("tokio_rustls", "tls"),
    ("x509_cert", "tls"),
    ("kube", "kubernetes"),
    ("k8s_openapi", "kubernetes"),
];

/// Checks each file of the host.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let source = root.join("host/src");
    let library =
        fs::read_to_string(source.join("lib.rs")).context("cannot read host/src/lib.rs")?;
    let order = modules(&library);
    let mut breaches = Vec::new();
    for path in rust::files(&source)? {
        let text = fs::read_to_string(&path)?;
        let inside = path.strip_prefix(&source).unwrap_or(&path);
        let module = module_of(inside);
        for breach in breaches_of(&module, &order, &text) {
            breaches.push(format!("host/src/{}:{breach}", inside.display()));
        }
    }
    if !breaches.is_empty() {
        bail!("{} breaches:\n  {}", breaches.len(), breaches.join("\n  "));
    }
    Ok(())
}

/// The names in `mod` lines, in order.
fn modules(library: &str) -> Vec<String> {
    let tokens = rust::tokens(library);
    tokens
        .windows(3)
        .filter(|window| window[0].text == "mod" && window[2].text == ";")
        .map(|window| window[1].text.to_owned())
        .collect()
}

/// The top module that a file belongs to: `lane` for `lane/view.rs`; `main` and
/// `lib` are names of their own.
fn module_of(inside: &Path) -> String {
    match inside.components().next() {
        Some(Component::Normal(name)) => Path::new(name)
            .file_stem()
            .unwrap_or(name)
            .to_string_lossy()
            .into_owned(),
        _ => String::new(),
    }
}

/// What a file of a module must not say, each as `line: what`.
fn breaches_of(module: &str, order: &[String], source: &str) -> Vec<String> {
    let tokens = rust::tokens(source);
    let place = |name: &str| order.iter().position(|module| module == name);
    let mut breaches = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        if let Some((_, home)) = WALLS.iter().find(|(name, _)| *name == token.text)
            && *home != module
            && is_crate(&tokens, at)
        {
            let (line, name) = (token.line, token.text);
            breaches.push(format!("{line}: only `{home}` names the crate `{name}`"));
        }
        if token.text == "crate" {
            for used in names_after(&tokens[at + 1..]) {
                if let (Some(own), Some(other)) = (place(module), place(used.text))
                    && other > own
                {
                    let (line, name) = (used.line, used.text);
                    breaches.push(format!(
                        "{line}: `{module}` is above `{name}` and must not use it"
                    ));
                }
            }
        }
    }
    breaches
}

/// Whether a word names a crate: it begins a path (`redb::`, `::redb::`), or is
/// all of a `use` or `extern crate`.
fn is_crate(tokens: &[Token<'_>], at: usize) -> bool {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let before = |steps: usize| at.checked_sub(steps).map_or("", text);
    let begins_path = before(1) != ":" || !is_name(before(3));
    let leads_on = text(at + 1) == ":" && text(at + 2) == ":";
    begins_path && (leads_on || matches!(before(1), "use" | "crate"))
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_') && text != "use"
}

/// The first names after `crate`: of `crate::a::b`, `a`; of `crate::{a::b, c}`,
/// `a` and `c`.
fn names_after<'t, 'a>(tokens: &'t [Token<'a>]) -> Vec<&'t Token<'a>> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    if text(0) != ":" || text(1) != ":" {
        return Vec::new();
    }
    if text(2) != "{" {
        return tokens.get(2).into_iter().collect();
    }
    let mut names = Vec::new();
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(2) {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ if depth == 1 && matches!(text(at - 1), "{" | ",") => names.push(token),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(module: &str, source: &str, expected: &[&str]) {
        let order = modules("pub mod store;\n/// Doc.\npub mod guest;\nmod lane;\npub mod http;");
        let breaches = breaches_of(module, &order, source);
        assert_eq!(breaches, expected, "{source}");
    }

    #[test]
    fn a_crate_is_named_in_its_module_only() {
        let breach = "1: only `store` names the crate `redb`";
        check("store", "use redb::Database;", &[]);
        check("lane", "use redb::Database;", &[breach]);
        check("lane", "fn f(_: &redb::Database) {}", &[breach]);
        check("lane", "fn f(_: &::redb::Database) {}", &[breach]);
        check("lane", "pub use redb;", &[breach]);
        check("main", "extern crate redb;", &[breach]);
    }

    #[test]
    fn other_things_of_the_same_name_are_no_breach() {
        check(
            "lane",
            "// redb::Database\nlet redb = store.redb(); f(redb);",
            &[],
        );
        check("lane", "use crate::store::redb::Table;", &[]);
        check("lane", "notify.notify(); self.notify();", &[]);
    }

    #[test]
    fn a_module_uses_those_above_it_only() {
        check(
            "lane",
            "use crate::store::Store; use crate::lane::View;",
            &[],
        );
        check(
            "guest",
            "use crate::lane::View;",
            &["1: `guest` is above `lane` and must not use it"],
        );
        check(
            "guest",
            "\nuse crate::{store::{lane, Store}, lane::View,\n http};",
            &[
                "2: `guest` is above `lane` and must not use it",
                "3: `guest` is above `http` and must not use it",
            ],
        );
        check("main", "use crate::http::Server;", &[]);
    }

    #[test]
    fn a_file_belongs_to_the_module_at_the_top() {
        assert_eq!(module_of(Path::new("lane/view.rs")), "lane");
        assert_eq!(module_of(Path::new("lane.rs")), "lane");
        assert_eq!(module_of(Path::new("main.rs")), "main");
    }
}
