//! Durable saves, against servers that write groups as fast as the disk allows; and loads beside
//! them.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::anyhow;

use crate::bare::Bare;
use crate::clients::{Action, Target, Work};
use crate::compare::{Client, Side, compare, print_clients};
use crate::figures::{Measured, median};
use crate::hosts::{Baseline, Filled};
use crate::peers::Peer;
use crate::plan::Plan;

/// Connections that load, and those that save beside them.
const BESIDE: (usize, usize) = (16, 8);

pub(crate) fn run(plan: &Plan) -> anyhow::Result<()> {
    let keys = plan.random_keys;
    let directory = tempfile::tempdir()?;
    let host = Filled::this(keys)?;
    let before = Baseline::Before.start(keys)?;
    let redis = redis(directory.path(), keys);
    let groups = Bare::Groups.start()?;

    let this = Side::http(plan, "host", host.target());
    let mut stores = vec![this];
    stores.extend(redis.as_ref().map(|redis| Side {
        name: "redis",
        target: redis.target,
        client: Client::RedisBenchmark,
    }));
    stores.extend(Side::baseline(plan, Baseline::Before, before.as_ref()));
    let groups = Side::http(plan, "groups", Target::http(groups.address));
    let savers = [&stores[..1], &[groups], &stores[1..]].concat();

    println!("\ndurable saves: PUT of 64 bytes to one of {keys} random keys of 20 bytes");
    println!("groups: plain hyper that makes one O_DSYNC write over zeros for all that wait");
    compare(plan, (Action::Put, keys), &savers)?;
    println!("\nloads of these keys");
    compare(plan, (Action::Load, keys), &stores)?;
    let (loading, saving) = BESIDE;
    println!("\nloads on {loading} connections, alone and beside saves on {saving}");
    beside(plan, keys, &stores)?;
    // Fewer servers that only wait.
    drop((before, redis));

    let native = Baseline::Native.start(keys)?;
    if let Some(native) = Side::baseline(plan, Baseline::Native, native.as_ref()) {
        println!("\ndurable saves, by GET /save/<key>/<word>, which the native handler has");
        compare(plan, (Action::Save, keys), &[this, native])?;
    }
    Ok(())
}

/// Redis with the keys, if it is installed with its client.
fn redis(directory: &Path, keys: usize) -> Option<Peer> {
    let started = crate::redis::is_installed().and_then(|()| {
        let peer = Peer::redis(directory)?;
        peer.target.fill(keys)?;
        Ok(peer)
    });
    started
        .inspect_err(|error| println!("\nRedis is not compared with: {error:#}"))
        .ok()
}

/// Prints a row for each side: how much its loads suffer from its saves.
fn beside(plan: &Plan, keys: usize, sides: &[Side]) -> anyhow::Result<()> {
    print_clients(sides);
    println!(
        "{:8} {:^26} | {:^26} | {:^15} | {:>8}",
        "", "alone", "beside saves", "ratio of", ""
    );
    print!("{:8}", "");
    for _ in 0..2 {
        print!(" {:>8} {:>8} {:>8} |", "/s", "p50 ms", "p99 ms");
    }
    println!(" {:>7} {:>7} | {:>8}", "p50", "p99", "saves/s");
    for side in sides {
        let (mut alone, mut beside, mut saves) = (Vec::new(), Vec::new(), Vec::new());
        let (mut p50, mut p99) = (Vec::new(), Vec::new());
        for _ in 0..plan.turns {
            let without = side.work(Work::new(Action::Load, BESIDE.0).among(keys), plan.turn)?;
            let (with, saved) = both(side, keys, plan.turn)?;
            p50.push(with.p50 / without.p50);
            p99.push(with.p99 / without.p99);
            alone.push(without);
            beside.push(with);
            saves.push(saved.rate);
        }
        print!("{:8}", side.name);
        for turns in [&alone, &beside] {
            print!(" {} |", Measured::row(turns));
        }
        println!(
            " {:>7.2} {:>7.2} | {:>8.0}",
            median(p50),
            median(p99),
            median(saves)
        );
    }
    Ok(())
}

/// Loads and saves at once.
fn both(side: &Side, keys: usize, time: Duration) -> anyhow::Result<(Measured, Measured)> {
    let work = |action, connections| side.work(Work::new(action, connections).among(keys), time);
    thread::scope(|scope| {
        let saving = scope.spawn(|| work(Action::Put, BESIDE.1));
        let loads = work(Action::Load, BESIDE.0)?;
        let saves = saving.join().map_err(|_| anyhow!("the savers panicked"))?;
        Ok((loads, saves?))
    })
}
