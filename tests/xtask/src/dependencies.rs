//! Checks the dependencies of this repository's packages: host and guests share
//! only the contract, and every dependency is used.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::rust;

/// A package and its direct dependencies.
#[derive(Debug)]
struct Package {
    name: String,
    /// Its directory, from the top of the repository.
    directory: String,
    dependencies: Vec<String>,
}

impl Package {
    /// Whether the package is a part of the host.
    fn is_host(&self) -> bool {
        self.directory.starts_with("host/")
    }

    /// Whether the package is a guest, or runs in one.
    fn is_guest(&self) -> bool {
        let directory = self.directory.as_str();
        (directory.starts_with("guest/") && directory != "guest/toolchain")
            || directory.starts_with("tests/guests/")
            || self
                .dependencies
                .iter()
                .any(|name| name == "ostrakon-guest")
    }
}

/// Checks that packages depend only on what they may, and use each dependency.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let packages = read(root)?;
    let mut faults = directions(&packages);
    faults.extend(layers(&packages, &code_map(root)?));
    for package in &packages {
        let mut words = Vec::new();
        for path in rust::files(&root.join(&package.directory))? {
            let source = fs::read_to_string(&path)?;
            words.extend(
                rust::tokens(&source)
                    .into_iter()
                    .map(|token| token.text.to_owned()),
            );
            words.extend(named_in_attributes(&source));
        }
        faults.extend(unused(package, &words));
    }
    ensure!(
        faults.is_empty(),
        "{} faults:\n  {}",
        faults.len(),
        faults.join("\n  ")
    );
    Ok(())
}

/// The crates in attributes such as `#[serde(with = "serde_bytes")]`.
fn named_in_attributes(source: &str) -> impl Iterator<Item = String> {
    let named = source.split("(with = \"").skip(1);
    named.filter_map(|rest| Some(rest.split(['"', ':']).next()?.to_owned()))
}

fn read(root: &Path) -> anyhow::Result<Vec<Package>> {
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()?;
    if !output.status.success() {
        bail!(
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    packages
        .iter()
        .map(|package| {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let manifest = text(&package["manifest_path"]).context("a package has no manifest")?;
            let directory = Path::new(&manifest).parent().context("no directory")?;
            Ok(Package {
                name: text(&package["name"]).context("a package has no name")?,
                directory: directory.strip_prefix(root)?.to_string_lossy().into_owned(),
                dependencies: package["dependencies"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|dependency| {
                        text(&dependency["rename"]).or_else(|| text(&dependency["name"]))
                    })
                    .collect(),
            })
        })
        .collect()
}

/// Dependencies from a host to a guest or the reverse.
fn directions(packages: &[Package]) -> Vec<String> {
    let named = |name: &str| packages.iter().find(|package| package.name == name);
    let is_guest = |name: &str| named(name).is_some_and(Package::is_guest);
    let is_host = |name: &str| named(name).is_some_and(Package::is_host);
    let mut faults = Vec::new();
    for package in packages {
        for dependency in &package.dependencies {
            let guest_on_host = package.is_guest() && is_host(dependency);
            let host_on_guest = package.is_host() && is_guest(dependency);
            if guest_on_host || host_on_guest {
                let name = &package.name;
                faults.push(format!(
                    "{name} depends on {dependency}: they meet in wit/ only"
                ));
            }
        }
    }
    faults
}

/// The code map in ARCHITECTURE.md.
fn code_map(root: &Path) -> anyhow::Result<String> {
    let page = fs::read_to_string(root.join("ARCHITECTURE.md"))?;
    let (_, map) = page
        .split_once("\n## Code map\n")
        .context("ARCHITECTURE.md has no code map")?;
    Ok(map.split("\n## ").next().unwrap_or_default().to_owned())
}

/// Crates of the host that the code map lacks, and dependencies on one that is not on a line below.
fn layers(packages: &[Package], map: &str) -> Vec<String> {
    let lines = map.split("```").nth(1).unwrap_or_default().lines();
    let lines: Vec<Vec<_>> = lines
        .map(|line| line.split_whitespace().collect())
        .collect();
    let line_of = |package: &Package| {
        let name = package.directory.strip_prefix("host/")?;
        lines.iter().position(|line| line.contains(&name))
    };
    let mut faults = Vec::new();
    for package in packages.iter().filter(|package| package.is_host()) {
        let row = format!("\n| `{}/` |", package.directory);
        let (Some(line), true) = (line_of(package), map.contains(&row)) else {
            faults.push(format!("the code map lacks {}", package.name));
            continue;
        };
        for name in &package.dependencies {
            let below = packages.iter().find(|package| package.name == *name);
            if below.and_then(line_of).is_some_and(|below| below <= line) {
                faults.push(format!(
                    "{} depends on {name}, which is not below it in the code map",
                    package.name
                ));
            }
        }
    }
    faults
}

/// Dependencies that no token of the package's sources names.
fn unused(package: &Package, words: &[String]) -> Vec<String> {
    package
        .dependencies
        .iter()
        .filter(|dependency| !words.contains(&dependency.replace('-', "_")))
        .map(|dependency| format!("{} does not use its dependency {dependency}", package.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, directory: &str, dependencies: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            directory: directory.to_owned(),
            dependencies: dependencies.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn the_packages_of_this_repository_are_good() {
        check(&crate::root()).unwrap();
    }

    #[test]
    fn a_crate_that_an_attribute_names_is_used() {
        let source = "#[serde(default, with = \"x\")] #[serde(with = \"serde_bytes\")] a: u8, \
                      #[serde(with = \"humantime_serde::option\")] b: u8";
        let named: Vec<_> = named_in_attributes(source).collect();
        assert_eq!(named, ["serde_bytes", "humantime_serde"]);
    }

    #[test]
    fn hosts_and_guests_do_not_depend_on_each_other() {
        let good = [
            package("ostrakon", "host/ostrakon", &["ostrakon-toolchain"]),
            package("ostrakon-toolchain", "guest/toolchain", &[]),
            package("ostrakon-guest", "guest/sdk", &[]),
            package("counter", "examples/counter", &["ostrakon-guest"]),
        ];
        assert_eq!(directions(&good), <[String; 0]>::default());
        let bad = [
            package("ostrakon-store", "host/store", &["counter"]),
            package(
                "counter",
                "examples/counter",
                &["ostrakon-guest", "ostrakon-store"],
            ),
        ];
        assert_eq!(
            directions(&bad),
            [
                "ostrakon-store depends on counter: they meet in wit/ only",
                "counter depends on ostrakon-store: they meet in wit/ only",
            ]
        );
    }

    #[test]
    fn a_crate_of_the_host_is_in_the_code_map_and_depends_on_those_below() {
        let map = "```text\ntop\nleft right\nbase\n```\n| path | |\n| `host/top/` | |\n\
                   | `host/left/` | |\n| `host/right/` | |\n| `host/base/` | |\n";
        let good = [
            package("top", "host/top", &["left", "base", "serde"]),
            package("left", "host/left", &["base"]),
            package("right", "host/right", &[]),
            package("base", "host/base", &["tests"]),
            package("tests", "tests", &["top"]),
        ];
        assert_eq!(layers(&good, map), <[String; 0]>::default());
        let bad = [
            package("left", "host/left", &["right"]),
            package("right", "host/right", &[]),
            package("other", "host/other", &[]),
        ];
        assert_eq!(
            layers(&bad, map),
            [
                "left depends on right, which is not below it in the code map",
                "the code map lacks other",
            ]
        );
    }

    #[test]
    fn a_dependency_that_no_source_names_is_unused() {
        let package = package("a", "a", &["serde-json", "redb"]);
        let words = ["use", "serde_json"].map(str::to_owned);
        assert_eq!(
            unused(&package, &words),
            ["a does not use its dependency redb"]
        );
    }
}
