//! The memory of a host: at rest, at work, and after swaps.

use anyhow::ensure;
use ostrakon_tests::host::{Host, Shard, config, guest};
use ostrakon_tests::memory::status;

use crate::clients::{Action, Target, Work};
use crate::plan::Plan;
use crate::swap::{swap, tagged};

/// The memory that swaps may add to a process, in MiB.
const MAX_GROWTH: f64 = 10.0;

pub(crate) fn run(plan: &Plan) -> anyhow::Result<()> {
    println!("\nresident memory, in MiB");
    let kv = guest("kv");
    let mut shard = Shard::new(&config(&kv, &[]));
    // The first start compiles the guest. Only the next start shows the memory at rest.
    shard.start().stop();
    let host = shard.start();
    row("idle", resident(&host));

    let target = Target::http(host.address);
    target.work(Work::new(Action::Save, 256), plan.turn)?;
    target.work(Work::new(Action::Load, 256), plan.turn)?;
    row("after load on 256 connections", resident(&host));

    // The compiler keeps memory of its own, so only the memory that further swaps add counts.
    let mut swaps = 0..2 * plan.memory_swaps;
    let mut swap_more = |count: usize| -> anyhow::Result<f64> {
        for number in swaps.by_ref().take(count) {
            // Two components in turns, each time with different settings.
            let files = config(
                &tagged(&kv, number % 2),
                &[("note", &format!("swap {number}"))],
            );
            swap(&mut shard, &host, &files)?;
        }
        Ok(resident(&host))
    };
    let before = swap_more(plan.memory_swaps / 10)?;
    row("after the first swaps", before);
    let after = swap_more(plan.memory_swaps)?;
    row(&format!("after {} more swaps", plan.memory_swaps), after);
    row("growth", after - before);
    ensure!(
        after - before <= MAX_GROWTH,
        "swaps leak memory: {:.1} MiB more after {} swaps",
        after - before,
        plan.memory_swaps
    );
    host.stop();
    Ok(())
}

fn row(name: &str, mebibytes: f64) {
    println!("{name:36} {mebibytes:>8.1}");
}

/// The process's resident memory, in MiB.
pub(crate) fn resident(host: &Host) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a float is exact to petabytes")]
    let bytes = status(host.id(), "VmRSS") as f64;
    bytes / f64::from(1 << 20)
}
