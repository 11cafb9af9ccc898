//! `cargo xtask bench`: builds what is measured and runs the measurements.

use std::fs;
use std::path::Path;

use anyhow::Context;
use clap::ValueEnum as _;

use crate::steps::Steps;
use crate::{counts, guests, upgrade};

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Measure each thing once and briefly, to check that it runs.
    #[arg(long)]
    quick: bool,
    /// Compare with the course's server and with Redis, too, if they are installed.
    #[arg(long)]
    peers: bool,
    /// Measure only these: loads, one-core, saves, mixed, swaps, rehearsal, starts, memory, shards, peers, counts.
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    only: Vec<Part>,
    /// Compare loads and saves with the host of another commit, too: a hash, a tag or a branch.
    #[arg(long, value_name = "COMMIT")]
    before: Option<String>,
    /// The seconds of the mixed load.
    #[arg(long)]
    seconds: Option<u64>,
}

impl Options {
    fn has(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Loads,
    OneCore,
    Saves,
    Mixed,
    Swaps,
    Rehearsal,
    Starts,
    Memory,
    Shards,
    Peers,
    Counts,
}

impl Part {
    /// The argument of the program that measures; `None` for a part that another one does.
    fn argument(self) -> Option<String> {
        let name = self.to_possible_value();
        let name = name.expect("no part is hidden");
        (self != Self::Counts).then(|| format!("--{}", name.get_name()))
    }
}

/// How hosts, clients and baselines are built: as in the image, because its optimisations are a good
/// part of what a request costs.
const PROFILE: &str = "dist";

/// The parts that compare with other builds of the host.
const COMPARING: [Part; 3] = [Part::Loads, Part::OneCore, Part::Saves];

/// Builds the hosts with optimisation and measures them.
pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    let mut steps = Steps::new(root);
    let guests = steps.step("guests", |_| guests::build(root))?;
    if options.has(Part::Counts) {
        counts::run(root, &guests)?;
    }
    if options.only == [Part::Counts] {
        return Ok(());
    }
    steps.set("OSTRAKON_TEST_GUESTS", guests);
    // A profiler shows the names of functions.
    steps.set("CARGO_PROFILE_DIST_STRIP", "none");
    if let Some(commit) = &options.before {
        let before = crate::target(root)?.join("bench/before");
        steps.step("the host of another commit", |_| {
            let built = upgrade::build(root, commit, PROFILE, &before)?;
            let binary = before.join("ostrakon");
            fs::copy(&built, &binary)
                .with_context(|| format!("cannot write {}", binary.display()))?;
            Ok(())
        })?;
        steps.set("OSTRAKON_BENCH_BEFORE", before.join("ostrakon"));
    }
    // Both builds write to the same path, so each binary is copied.
    for (heading, name, feature) in [
        (
            "the host with a native handler",
            "native",
            &["--features", "bench-native"][..],
        ),
        ("the host", "host", &[]),
    ] {
        if name == "native" && !COMPARING.iter().any(|part| options.has(*part)) {
            continue;
        }
        let build = ["build", "--profile", PROFILE, "--package", "ostrakon"];
        let arguments = [&build[..], feature].concat();
        steps.cargo(heading, &arguments)?;
        let target = crate::target(root)?;
        let binary = target.join("bench").join(name);
        fs::create_dir_all(target.join("bench"))?;
        fs::copy(target.join(PROFILE).join("ostrakon"), &binary)
            .with_context(|| format!("cannot write {}", binary.display()))?;
        let variable = if name == "native" {
            "OSTRAKON_BENCH_NATIVE"
        } else {
            "OSTRAKON_TEST_HOST"
        };
        steps.set(variable, binary);
    }
    let mut arguments: Vec<String> = [
        "bench",
        "--profile",
        PROFILE,
        "--package",
        "ostrakon-tests",
        "--bench",
        "bench",
        "--",
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.extend(options.quick.then(|| "--quick".to_owned()));
    arguments.extend(options.peers.then(|| "--peers".to_owned()));
    arguments.extend((!options.only.is_empty()).then(|| "--only".to_owned()));
    arguments.extend(options.only.iter().filter_map(|part| part.argument()));
    if let Some(seconds) = options.seconds {
        arguments.extend(["--seconds".to_owned(), seconds.to_string()]);
    }
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    steps.cargo("measurements", &arguments)
}

/// Runs the measurements once, with the tests' own build of the host.
pub(crate) fn quick(steps: &mut Steps) -> anyhow::Result<()> {
    let arguments = [
        "bench",
        "--profile",
        "dev",
        // With the features that the tests were built with, so that nothing is built twice.
        "--workspace",
        "--bench",
        "bench",
    ];
    steps.cargo(
        "measurements, once",
        &[&arguments[..], &["--", "--quick"]].concat(),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::ValueEnum;

    use super::*;

    /// The program that measures has the same list.
    #[test]
    fn the_page_and_the_benches_have_exactly_these_parts() {
        let parts = Part::value_variants().iter();
        let parts: BTreeSet<_> = parts
            .filter_map(|part| Some(part.to_possible_value()?.get_name().to_owned()))
            .collect();
        let page = include_str!("../../README.md");
        let (_, table) = page
            .split_once("| part | what it measures |")
            .expect("a table");
        let rows = table
            .lines()
            .skip(2)
            .take_while(|line| line.starts_with("| `"));
        let listed: BTreeSet<_> = rows
            .filter_map(|row| row.split('`').nth(1).map(str::to_owned))
            .collect();
        assert!(listed.len() > 5, "{listed:?}");
        assert!(listed.is_subset(&parts), "{listed:?}");
        let source = include_str!("../../benches/bench/main.rs");
        let (_, measured) = source.split_once("const PARTS").expect("a list");
        let (measured, _) = measured.split_once("];").expect("it ends");
        let mut measured: BTreeSet<_> = measured
            .split("(\"")
            .skip(1)
            .filter_map(|part| part.split('"').next().map(str::to_owned))
            .collect();
        // Another program counts instructions.
        measured.insert("counts".to_owned());
        assert_eq!(measured, parts);
    }
}
