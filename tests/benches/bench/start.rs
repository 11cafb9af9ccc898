//! The time from the start of the process to its readiness, with many keys.

use std::time::{Duration, Instant};

use anyhow::ensure;
use ostrakon_tests::host::{Shard, config, guest};

use crate::clients::{Action, Target};
use crate::median;
use crate::plan::Plan;

/// How long saves run before the host is killed.
const BEFORE_KILL: Duration = Duration::from_millis(200);

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

    let mut clean = Vec::new();
    let mut killed = Vec::new();
    for _ in 0..plan.starts {
        let (host, took) = ready();
        clean.push(took);
        let target = Target::http(host.address);
        let saving = std::thread::spawn(move || target.rate(Action::Save, 64, 5 * BEFORE_KILL));
        std::thread::sleep(BEFORE_KILL);
        host.kill();
        let cut = saving.join().expect("clients do not panic");
        ensure!(cut.is_err(), "the host was not killed during saves");

        let (host, took) = ready();
        killed.push(took);
        let entries = host.status()["store"]["entries"].as_u64();
        ensure!(
            entries >= u64::try_from(plan.keys).ok(),
            "{entries:?} of {} keys are left",
            plan.keys
        );
        host.stop();
    }
    ensure!(
        clean.len() == plan.starts && killed.len() == plan.starts,
        "a row is incomplete"
    );
    println!("{:36} {:>8.1}", "after a clean stop", median(clean));
    println!("{:36} {:>8.1}", "after kill -9 among saves", median(killed));
    Ok(())
}
