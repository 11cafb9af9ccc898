//! Measures the speed and memory of a running host: `cargo xtask bench`.
//!
//! Each row is measured in turns with its baseline, A B A B, in the same run, and its ratio is the
//! median of the turns' ratios: other work on the machine affects both.

#![expect(
    clippy::print_stdout,
    reason = "this program prints its tables to standard output"
)]

mod clients;
mod wrk;
mod redis;
mod rehearsal;
mod figures;
mod hosts;
mod bare;
mod groups;
mod compare;
mod load;
mod one_core;
mod saves;
mod mixed;
mod memory;
mod peers;
mod plan;
mod shards;
mod start;
mod swap;

use std::time::Duration;

use anyhow::Context;
use bare::Bare;
use ostrakon_tests::host::guest;
use plan::Plan;

fn main() -> anyhow::Result<()> {
    let has = |name: &str| std::env::args().any(|argument| argument == name);
    if let Some(bare) = Bare::named(has) {
        return bare.serve();
    }
    let mut plan = if has("--quick") {
        Plan::quick()
    } else {
        Plan::full()
    };
    let mut arguments = std::env::args().skip_while(|argument| argument != "--seconds");
    if let Some(seconds) = arguments.nth(1) {
        plan.mixed = Duration::from_secs(seconds.parse()?);
    }
    let cores = std::thread::available_parallelism()?;
    println!("kv guest of {} bytes; {}", guest("kv").len(), plan.name);
    println!("{cores} cores, which clients and servers share: only ratios within a row say much");
    for (part, run) in PARTS {
        let by_default = *part != "peers";
        if has(&format!("--{part}")) || by_default && !has("--only") {
            run(&plan).context(*part)?;
        }
    }
    Ok(())
}

type Measure = fn(&Plan) -> anyhow::Result<()>;

/// The parts that can be measured, by name.
const PARTS: &[(&str, Measure)] = &[
    ("loads", load::run),
    ("one-core", one_core::run),
    ("saves", saves::run),
    ("mixed", mixed::run),
    ("swaps", swap::run),
    ("rehearsal", rehearsal::run),
    ("starts", start::run),
    ("memory", memory::run),
    ("shards", shards::run),
    ("peers", peers::run),
];
