//! The time from the start of the process to its readiness, with many keys.

use std::time::{Duration, Instant};

use anyhow::ensure;
use ostrakon_tests::host::{Host, Shard, config, guest};

use crate::clients::{Action, Target, Work};
use crate::figures::median;
use crate::hosts::print_metrics;
use crate::plan::Plan;

/// How long saves run before the host is killed with little in its journal.
const BEFORE_KILL: Duration = Duration::from_millis(200);
/// How much longer the clients would save.
const AFTER_KILL: Duration = Duration::from_secs(1);

pub(crate) fn run(plan: &Plan) -> anyhow::Result<()> {
    println!("\nstart to ready with {} keys, in ms", plan.keys);
    let shard = Shard::new(&config(&guest("kv"), &[]));
    let host = shard.start();
    Target::http(host.address).fill(plan.keys)?;
    host.stop();
    let ready = || {
        let began = Instant::now();
        let host = shard.start();
        (host, began.elapsed().as_secs_f64() * 1000.0)
    };

    let (mut clean, mut killed, mut full) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..plan.starts {
        let (host, took) = ready();
        clean.push(took);
        kill_among_saves(host, plan.keys, BEFORE_KILL)?;

        let (host, took) = ready();
        killed.push(took);
        holds(&host, plan.keys)?;
        kill_among_saves(host, plan.keys, plan.filling)?;

        let (host, took) = ready();
        full.push(took);
        holds(&host, plan.keys)?;
        if turn + 1 == plan.starts {
            print_metrics(&host, "replay")?;
        }
        host.stop();
    }
    row("after a clean stop", clean);
    row("after kill -9 among saves", killed);
    row(
        &format!(
            "after kill -9, {:.1} s of saves",
            plan.filling.as_secs_f64()
        ),
        full,
    );
    Ok(())
}

fn row(name: &str, times: Vec<f64>) {
    let most = times.iter().copied().fold(0.0, f64::max);
    println!("{name:36} {:>8.1} (most {most:.1})", median(times));
}

/// Kills a host after some time of saves to random keys, in the middle of them.
fn kill_among_saves(host: Host, keys: usize, time: Duration) -> anyhow::Result<()> {
    let target = Target::http(host.address);
    let work = Work::new(Action::Put, 64).among(keys);
    let saving = std::thread::spawn(move || target.work(work, time + AFTER_KILL));
    std::thread::sleep(time);
    host.kill();
    let cut = saving.join().expect("clients do not panic");
    ensure!(cut.is_err(), "the host was not killed during saves");
    Ok(())
}

/// Checks that no key was lost.
fn holds(host: &Host, keys: usize) -> anyhow::Result<()> {
    let entries = host.status()["store"]["entries"].as_u64();
    ensure!(
        entries >= u64::try_from(keys).ok(),
        "{entries:?} of {keys} keys are left"
    );
    Ok(())
}
