//! The time from the volume's renaming to the first response of the new generation.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ostrakon_tests::host::{Files, Host, Shard, config, guest};

use crate::figures::median;
use crate::plan::Plan;
use crate::shards::shards;

/// The resolution of a swap's time.
const ASK_EVERY: Duration = Duration::from_micros(200);
/// A key of each of three shards.
const OWN: [char; 3] = ['c', 'a', 'b'];
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
    of_three(plan, &kv)
}

/// The same for three shards that go over together, until the last of them serves it.
fn of_three(plan: &Plan, kv: &[u8]) -> anyhow::Result<()> {
    println!("\nthree shards, from the renaming of shard 0's volume to the last one's first reply");
    let files = |component: &[u8], note: &str| {
        let toml = "[cluster]\nshards = 3";
        config(component, &[("ostrakon.toml", toml), ("note", note)])
    };
    let mut shards = shards::<3>(&files(kv, ""));
    let hosts = shards.each_ref().map(Shard::start);
    for host in &hosts {
        host.wait_for_status("the topology", |status| {
            status["topology"]["shards"] == 3 && status["topology"]["stable"] == true
        });
    }
    let hosts = hosts.each_ref();
    let mut row = |name: &str, contents: &mut dyn FnMut(usize) -> Files| -> anyhow::Result<()> {
        let mut times = Vec::new();
        for number in 0..plan.timed_swaps {
            let took = swap_all(&mut shards[0], &hosts, &contents(number))?;
            times.push(took.as_secs_f64() * 1000.0);
        }
        ensure!(times.len() == plan.timed_swaps, "a row is incomplete");
        let most = times.iter().copied().fold(0.0, f64::max);
        println!("{name:36} {:>8.1} (most {most:.1})", median(times));
        Ok(())
    };
    row("kv, new, compiled", &mut |number| {
        files(&tagged(kv, number), "")
    })?;
    row("kv, served before, cached", &mut |number| {
        files(&tagged(kv, number % 2), "")
    })?;
    row("settings only", &mut |number| {
        files(&tagged(kv, 0), &format!("swap {number}"))
    })
}

/// Publishes a generation and waits for its first response.
pub(crate) fn swap(shard: &mut Shard, host: &Host, files: &Files) -> anyhow::Result<Duration> {
    swap_all(shard, &[host], files)
}

/// Publishes a generation to one shard and waits for its first response from each.
fn swap_all(shard: &mut Shard, hosts: &[&Host], files: &Files) -> anyhow::Result<Duration> {
    let mut waiting = Vec::new();
    for (host, key) in hosts.iter().zip(OWN) {
        let (mut client, path) = (host.client(), format!("/load/{key}"));
        let before = client.get(&path)?.generation();
        waiting.push((client, path, before));
    }
    shard.config.publish(files)?;
    let renamed = shard
        .config
        .renamed()
        .context("the volume was not renamed")?;
    loop {
        let mut last = Duration::ZERO;
        let mut still = Vec::new();
        for (mut client, path, before) in waiting {
            let reply = client.get(&path)?;
            ensure!(reply.status == 200, "answered {}", reply.status);
            last = renamed.elapsed();
            if reply.generation() == before {
                still.push((client, path, before));
            }
        }
        if still.is_empty() {
            return Ok(last);
        }
        waiting = still;
        ensure!(
            Instant::now() < renamed + PATIENCE,
            "no swap: {}",
            hosts[0].status()
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
