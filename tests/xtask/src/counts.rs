//! The instructions of one load, counted by callgrind: a virtual machine often has no counters.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use ostrakon_toolchain::machine::ThisMachine;
use ostrakon_toolchain::search::install;

use crate::steps::{Steps, say};
use crate::tools::runs;

/// The most instructions of one load from the socket to the socket, without the kernel's, with
/// those of the test's client, and with optimisation.
const INSTRUCTIONS: u64 = 50_000;

/// As many as the test counts, in `counts.rs`.
const LOADS: u64 = 1000;

/// Runs the test that counts a load's allocations under callgrind, and holds the instructions
/// below their bound.
pub(crate) fn run(root: &Path, guests: &Path) -> anyhow::Result<()> {
    let directory = crate::target(root)?.join("bench");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let counts = directory.join("callgrind.out");
    if !runs("valgrind") {
        install(&ThisMachine, &["valgrind"])?;
    }
    let mut steps = Steps::new(root);
    steps.set("OSTRAKON_TEST_GUESTS", guests);
    let runner = format!(
        "target.'cfg(all())'.runner = ['valgrind', '--tool=callgrind', '--quiet', '--toggle-collect=ostrakon::app::public::counts::loads', '--callgrind-out-file={}']",
        counts.display()
    );
    let arguments = [
        "test",
        "--release",
        "--package",
        "ostrakon",
        "--bin",
        "ostrakon",
        "--config",
        &runner,
        "--",
        "public::counts",
    ];
    steps.cargo("a load's instructions", &arguments)?;
    let counts = fs::read_to_string(&counts)
        .with_context(|| format!("callgrind wrote no {}", counts.display()))?;
    let of_one = total(&counts).context("callgrind counted nothing")? / LOADS;
    say(&format!("   {of_one} instructions, at most {INSTRUCTIONS}"));
    ensure!(
        of_one <= INSTRUCTIONS,
        "a load takes {of_one} instructions: more than {INSTRUCTIONS}"
    );
    Ok(())
}

/// The sum of all parts of callgrind's file.
fn total(counts: &str) -> Option<u64> {
    let totals = counts
        .lines()
        .filter_map(|line| line.strip_prefix("totals: "));
    let total = totals
        .map(|total| total.parse::<u64>().ok())
        .sum::<Option<u64>>()?;
    (total > 0).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_the_file_are_added_up() {
        assert_eq!(total("events: Ir\ntotals: 40\n\ntotals: 2\n"), Some(42));
        assert_eq!(total("events: Ir\ntotals: 0\n"), None);
        assert_eq!(total("events: Ir\n"), None);
    }
}
