//! `cargo xtask simulate`: runs more seeds of the simulated clusters than the test
//! command, or repeats a failed one.

use std::path::Path;

use crate::guests;
use crate::steps::Steps;

/// Which seeds to run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The number of seeds.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
}

/// Runs seeds up to the first failed one, and explains it.
pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    let mut steps = Steps::new(root);
    let guests = steps.step("guests", |_| guests::build(root))?;
    steps.set("OSTRAKON_TEST_GUESTS", guests);
    steps.set("OSTRAKON_SIMULATION_SEEDS", options.seeds.to_string());
    steps.set("OSTRAKON_SIMULATION_FROM", options.from.to_string());
    steps.cargo(
        "simulated clusters",
        &[
            "test",
            "--package",
            "ostrakon-cluster",
            "--lib",
            "simulation::clusters_keep_their_promises_whatever_befalls_them",
            "--",
            "--exact",
            "--nocapture",
        ],
    )
}
