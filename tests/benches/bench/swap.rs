//! The time from the volume's renaming to the first response of the new generation.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ostrakon_tests::host::{Files, Host, Shard, config, guest};

use crate::figures::median;
use crate::plan::Plan;

/// The resolution of a swap's time.
const ASK_EVERY: Duration = Duration::from_micros(200);
/// How long a swap may take before it counts as failed.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) fn run(plan: &Plan) -> anyhow::Result<()> {
    println!("\nswap, from the renaming to the first reply of the new generation, in ms");
    let (kv, small) = (guest("kv"), guest("small"));
    println!("kv has {} bytes, the small guest {}", kv.len(), small.len());
    let mut shard = Shard::new(&config(&kv, &[]));
    let host = shard.start();
    let mut row = |name: &str, contents: &mut dyn FnMut(usize) -> Files| -> anyhow::Result<()> {
        let mut times = Vec::new();
        for number in 0..plan.timed_swaps {
            times.push(swap(&mut shard, &host, &contents(number))?.as_secs_f64() * 1000.0);
        }
        ensure!(times.len() == plan.timed_swaps, "a row is incomplete");
        let most = times.iter().copied().fold(0.0, f64::max);
        println!("{name:36} {:>8.1} (most {most:.1})", median(times));
        Ok(())
    };
    row("kv, new, compiled", &mut |number| {
        config(&tagged(&kv, number), &[])
    })?;
    row("kv, served before, cached", &mut |number| {
        config(&tagged(&kv, number % 2), &[])
    })?;
    row("a small guest, new, compiled", &mut |number| {
        config(&tagged(&small, number), &[])
    })?;
    row("a small guest, served before, cached", &mut |number| {
        config(&tagged(&small, number % 2), &[])
    })?;
    row("kv again", &mut |number| {
        config(&tagged(&kv, number % 2), &[])
    })?;
    row("settings only", &mut |number| {
        config(&tagged(&kv, 0), &[("note", &format!("swap {number}"))])
    })?;
    host.stop();
    Ok(())
}

/// Publishes a generation and waits for its first response.
pub(crate) fn swap(shard: &mut Shard, host: &Host, files: &Files) -> anyhow::Result<Duration> {
    let mut client = host.client();
    let before = client.get("/load/a")?.generation();
    shard.config.publish(files)?;
    let renamed = shard
        .config
        .renamed()
        .context("the volume was not renamed")?;
    loop {
        let reply = client.get("/load/a")?;
        ensure!(reply.status == 200, "answered {}", reply.status);
        if reply.generation() != before {
            return Ok(renamed.elapsed());
        }
        ensure!(
            Instant::now() < renamed + PATIENCE,
            "no swap: {}",
            host.status()
        );
        // A client without pauses would take processor time from the host.
        thread::sleep(ASK_EVERY);
    }
}

/// The same component with another digest, because of an added custom section.
pub(crate) fn tagged(component: &[u8], number: usize) -> Vec<u8> {
    const CUSTOM: u8 = 0;
    let (name, content) = (b"bench", u64::try_from(number).unwrap_or(u64::MAX));
    let section = [&[5], &name[..], &content.to_le_bytes()].concat();
    let length = u8::try_from(section.len()).expect("the section is short");
    [component, &[CUSTOM, length], &section].concat()
}
