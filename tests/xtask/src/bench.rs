//! `cargo xtask bench`: builds what is measured and runs the measurements.

use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::steps::Steps;
use crate::{counts, guests};

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Measure each thing once and briefly, to check that it runs.
    #[arg(long)]
    quick: bool,
    /// Compare with the course's server and with Redis, too, if they are installed.
    #[arg(long)]
    peers: bool,
    /// Measure only these: loads, swaps, starts, memory, shards, peers, counts.
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    only: Vec<Part>,
}

impl Options {
    fn has(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Loads,
    Swaps,
    Starts,
    Memory,
    Shards,
    Peers,
    Counts,
}

impl Part {
    /// The argument of the program that measures; `None` for a part that another one does.
    fn argument(self) -> Option<&'static str> {
        Some(match self {
            Self::Loads => "--loads",
            Self::Swaps => "--swaps",
            Self::Starts => "--starts",
            Self::Memory => "--memory",
            Self::Shards => "--shards",
            Self::Peers => "--peers",
            Self::Counts => return None,
        })
    }
}

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
    // Both builds write to the same path, so each binary is copied.
    for (heading, name, feature) in [
        (
            "the host with a native handler",
            "native",
            &["--features", "bench-native"][..],
        ),
        ("the host", "host", &[]),
    ] {
        if name == "native" && !options.has(Part::Loads) {
            continue;
        }
        let arguments = [&["build", "--release", "--package", "ostrakon"], feature].concat();
        steps.cargo(heading, &arguments)?;
        let target = crate::target(root)?;
        let binary = target.join("bench").join(name);
        fs::create_dir_all(target.join("bench"))?;
        fs::copy(target.join("release/ostrakon"), &binary)
            .with_context(|| format!("cannot write {}", binary.display()))?;
        let variable = if name == "native" {
            "OSTRAKON_BENCH_NATIVE"
        } else {
            "OSTRAKON_TEST_HOST"
        };
        steps.set(variable, binary);
    }
    let mut arguments = vec![
        "bench",
        "--package",
        "ostrakon-tests",
        "--bench",
        "bench",
        "--",
    ];
    arguments.extend(options.quick.then_some("--quick"));
    arguments.extend(options.peers.then_some("--peers"));
    arguments.extend((!options.only.is_empty()).then_some("--only"));
    arguments.extend(options.only.iter().filter_map(|part| part.argument()));
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
