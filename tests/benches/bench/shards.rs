//! Several shards: forwarded requests, and moving partitions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ostrakon_tests::host::{Files, Host, Shard, config, guest};
use redb::{Database, ReadableDatabase, TableDefinition};

use crate::clients::{Action, KEYS, Target, Work};
use crate::figures::{as_f64, median, percentile};
use crate::plan::Plan;

const CONNECTIONS: [usize; 3] = [1, 16, 64];
/// The number of connections of the clients whose waits are measured, and their pause between
/// requests.
const WAITING: (usize, Duration) = (16, Duration::from_millis(4));
/// Partitions in one transaction of the native copy, as in the host.
const BATCH: usize = 1024;

const ENTRIES: TableDefinition<'_, (&[u8], &[u8]), &[u8]> = TableDefinition::new("entries");

pub(crate) fn run(plan: &Plan) -> anyhow::Result<()> {
    forwarded(plan)?;
    for keys in plan.moved_keys {
        moved(plan, *keys)?;
    }
    Ok(())
}

/// Shards that know each other.
pub(crate) fn shards<const N: usize>(files: &Files) -> [Shard; N] {
    std::array::from_fn(|ordinal| {
        let mut shard = Shard::new(files);
        shard.ordinal = u32::try_from(ordinal).expect("there are few");
        let listen = format!("127.7.100.{}:7070", ordinal + 1);
        shard.arguments = ["--peers", "127.7.100.{1}:7070", "--peer-listen", &listen]
            .map(str::to_owned)
            .to_vec();
        shard
    })
}

fn kv(shards: u32, sharding: &str) -> Files {
    let toml = format!("[cluster]\nshards = {shards}");
    config(
        &guest("kv"),
        &[("ostrakon.toml", &toml), ("sharding", sharding)],
    )
}

fn wait_for_shards(host: &Host, count: u32) {
    host.wait_for_status("the topology", |status| {
        status["topology"]["shards"] == count && status["topology"]["stable"] == true
    });
}

/// Measures requests to the shard that has the keys, and to the one that forwards them.
fn forwarded(plan: &Plan) -> anyhow::Result<()> {
    let shards = shards::<2>(&kv(2, "modulo"));
    let hosts = shards.each_ref().map(Shard::start);
    for host in &hosts {
        wait_for_shards(host, 2);
    }
    // By `modulo` on the first character, each key belongs to the second shard.
    let [through, local] = hosts.each_ref().map(|host| Target::http(host.address));
    local.fill(KEYS)?;
    println!("\nrequests/s through the shard that has the keys, and through another");
    println!(
        "{:6} {:>11} {:>9} {:>9} {:>6}",
        "", "connections", "local", "forwarded", "ratio"
    );
    for action in [Action::Load, Action::Save] {
        for connections in CONNECTIONS {
            let (mut rates, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
            for _ in 0..plan.turns {
                let work = Work::new(action, connections);
                let here = local.work(work, plan.turn)?.figures().rate;
                let there = through.work(work, plan.turn)?.figures().rate;
                rates[0].push(here);
                rates[1].push(there);
                ratios.push(there / here);
            }
            let [here, there] = rates.map(median);
            println!(
                "{:6} {connections:>11} {here:>9.0} {there:>9.0} {:>6.2}",
                action.name(),
                median(ratios)
            );
        }
    }
    Ok(())
}

/// Measures the move of half of the keys from one shard to another, and back.
fn moved(plan: &Plan, keys: usize) -> anyhow::Result<()> {
    println!("\n{keys} keys of 20 bytes with words of 64 on one shard: half of them go to another");
    let mut shards = shards::<2>(&kv(1, "jump"));
    let hosts = shards.each_ref().map(Shard::start);
    wait_for_shards(&hosts[0], 1);
    let target = Target::http(hosts[0].address);
    target.fill(keys)?;
    let mut change = |count: u32| -> anyhow::Result<Duration> {
        for shard in &mut shards {
            shard.config.publish(&kv(count, "jump"))?;
        }
        hosts[0].wait_for_status("the change", |status| status["topology"]["shards"] == count);
        let began = Instant::now();
        wait_for_shards(&hosts[0], count);
        Ok(began.elapsed())
    };

    let mut idle = Vec::new();
    for count in [2, 1, 2, 1] {
        idle.push(change(count)?.as_secs_f64());
    }
    let copied = copied(keys / 2)?;
    let took = median(idle);
    println!("{:36} {:>8.2} s", "idle, each way", took);
    println!("{:36} {:>8.0}", "partitions/s", as_f64(keys / 2) / took);
    println!(
        "{:36} {:>8.2} s",
        "copied natively between two files", copied
    );
    println!("{:36} {:>8.2}", "ratio", took / copied);

    let before = waits(target, &mut || {
        thread::sleep(plan.turn * 3);
        Ok(())
    })?;
    let mut moving = Vec::new();
    let during = waits(target, &mut || {
        for count in [2, 1] {
            moving.push(change(count)?.as_secs_f64());
        }
        Ok(())
    })?;
    println!(
        "{:36} {:>8.0}",
        "partitions/s, under load",
        as_f64(keys / 2) / median(moving)
    );
    println!(
        "{:36} {:>8} {:>8} {:>8}",
        "clients' waits, ms", "p50", "p99", "requests"
    );
    for (name, waits) in [("before", &before), ("during", &during)] {
        println!(
            "{name:36} {:>8.2} {:>8.2} {:>8}",
            percentile(waits, 500),
            percentile(waits, 990),
            waits.len()
        );
    }
    println!(
        "{:36} {:>8.2} {:>8.2}",
        "ratio",
        percentile(&during, 500) / percentile(&before, 500),
        percentile(&during, 990) / percentile(&before, 990)
    );
    Ok(())
}

/// The sorted waits, in milliseconds, of clients that pause between requests while `meanwhile`
/// runs.
fn waits(
    target: Target,
    meanwhile: &mut dyn FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<f64>> {
    let ended = Arc::new(AtomicBool::new(false));
    let (connections, pause) = WAITING;
    let clients = {
        let ended = Arc::clone(&ended);
        thread::spawn(move || target.waits(connections, pause, &ended))
    };
    let done = meanwhile();
    ended.store(true, Ordering::Relaxed);
    let mut waits = clients.join().ok().context("the clients panicked")??;
    done?;
    ensure!(!waits.is_empty(), "no request was answered");
    waits.sort_by(f64::total_cmp);
    Ok(waits)
}

/// An entry: partition key, entry key, value.
type Entry = (Vec<u8>, Vec<u8>, Vec<u8>);

/// The seconds that it takes to move this many entries from one file to another,
/// in transactions as large as the host's.
fn copied(keys: usize) -> anyhow::Result<f64> {
    let directory = tempfile::tempdir()?;
    let [from, to] = ["from", "to"].map(|name| Database::create(directory.path().join(name)));
    let (from, to) = (from?, to?);
    let entry = |key| {
        (
            format!("key-{key:016}").into(),
            b"value".into(),
            vec![b'w'; 64],
        )
    };
    let entries: Vec<Entry> = (0..keys).map(entry).collect();
    insert(&from, &entries)?;
    let began = Instant::now();
    loop {
        let read = from.begin_read()?.open_table(ENTRIES)?;
        let batch = read.range::<(&[u8], &[u8])>(..)?.take(BATCH).map(|entry| {
            let (position, value) = entry?;
            let (partition, key) = position.value();
            Ok((partition.to_vec(), key.to_vec(), value.value().to_vec()))
        });
        let batch: Vec<Entry> = batch.collect::<Result<_, redb::StorageError>>()?;
        if batch.is_empty() {
            return Ok(began.elapsed().as_secs_f64());
        }
        insert(&to, &batch)?;
        remove(&from, &batch)?;
    }
}

fn insert(database: &Database, entries: &[Entry]) -> anyhow::Result<()> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    let mut table = transaction.open_table(ENTRIES)?;
    for (partition, key, value) in entries {
        table.insert((&partition[..], &key[..]), &value[..])?;
    }
    drop(table);
    Ok(transaction.commit()?)
}

fn remove(database: &Database, entries: &[Entry]) -> anyhow::Result<()> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    let mut table = transaction.open_table(ENTRIES)?;
    for (partition, key, _) in entries {
        table.remove((&partition[..], &key[..]))?;
    }
    drop(table);
    Ok(transaction.commit()?)
}
