//! Loads from a server on one core, with the client on another: the cost of a request.

use std::thread;

use anyhow::{Context as _, anyhow};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::bare::Bare;
use crate::clients::{Action, KEYS, Target};
use crate::compare::{Side, compare};
use crate::hosts::{Baseline, Filled};
use crate::plan::Plan;

pub(crate) fn run(plan: &Plan) -> anyhow::Result<()> {
    println!("\nloads, each server on one core and the client on another");
    let allowed = sched_getaffinity(None)?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let (Some(server), Some(client)) = (cores.next(), cores.next()) else {
        println!("there is only one core: nothing is measured");
        return Ok(());
    };
    // A thread of its own, because it stays on its core.
    let measuring = thread::scope(|scope| scope.spawn(|| measure(plan, server, client)).join());
    measuring.map_err(|_| anyhow!("the measuring thread panicked"))?
}

fn measure(plan: &Plan, server: usize, client: usize) -> anyhow::Result<()> {
    // A process inherits the core of the thread that starts it.
    stay_on(server)?;
    let host = Filled::this(KEYS)?;
    let hello = Bare::Hello.start()?;
    let baselines = [Baseline::Native, Baseline::Before];
    let others = [baselines[0].start(KEYS)?, baselines[1].start(KEYS)?];
    stay_on(client)?;
    let mut sides = vec![
        Side::http(plan, "host", host.target()),
        Side::http(plan, "hyper", Target::http(hello.address)),
    ];
    for (baseline, other) in baselines.into_iter().zip(&others) {
        sides.extend(Side::baseline(plan, baseline, other.as_ref()));
    }
    compare(plan, (Action::Load, KEYS), &sides)
}

fn stay_on(core: usize) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).with_context(|| format!("core {core} cannot be used"))
}
