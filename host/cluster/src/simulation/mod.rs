//! Simulates whole hosts, except for their ports, volumes and threads, in one thread and with a
//! simulated clock: everything that happens follows from a seed.
//!
//! Each seed has up to five processes with the real `cluster`, `service`, `writer`, `store`,
//! `peers` and guest, on a network and disks in memory. The number of shards and the way to
//! place keys change, clients write and read through random shards, processes are killed,
//! stopped and paused, links are cut and connections lost. Then the faults end, and the world
//! must come to rest.
//!
//! `OSTRAKON_SIMULATION_SEEDS` is the number of seeds and `OSTRAKON_SIMULATION_FROM` the first
//! seed; `cargo xtask simulate` sets them.

#![expect(
    clippy::cast_possible_truncation,
    reason = "the random numbers are small"
)]

mod clients;
mod clock;
mod disk;
mod ground;
mod history;
mod life;
mod mistake;
mod network;
mod panics;
mod process;
mod random;
mod rest;
mod script;
mod stream;
mod witness;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use std::{env, fs, thread};

use ground::Ground;
use mistake::Mistake;
use witness::{Counts, SOMETIMES};
use world::World;

/// How many seeds the test command runs.
const SEEDS: u64 = 300;
/// From this many seeds on, each event that must sometimes happen must have happened.
const ENOUGH: u64 = 200;

fn setting(name: &str, otherwise: u64) -> u64 {
    let Ok(text) = env::var(name) else {
        return otherwise;
    };
    text.parse()
        .unwrap_or_else(|_| panic!("{name} must be a number, not `{text}`"))
}

/// The outcome of one seed.
type Outcome = (Result<u64, String>, Counts, String);

fn run(ground: &Ground, seed: u64, mistake: Option<Mistake>, with_log: bool) -> Outcome {
    witness::watch(with_log, || {
        let world = AssertUnwindSafe(|| World::new(ground, seed, mistake).run());
        let outcome = catch_unwind(world).unwrap_or_else(|_| Err("it panics".to_owned()));
        clock::leave();
        match panics::take() {
            Some(panic) => Err(panic),
            None => outcome,
        }
    })
}

/// Runs seeds on all processors, up to the first that fails. Returns that seed and its fault.
fn run_all(
    ground: &Ground,
    from: u64,
    seeds: u64,
    mistake: Option<Mistake>,
) -> (Option<(u64, String)>, Counts) {
    let next = AtomicU64::new(from);
    let is_over = AtomicBool::new(false);
    let found = Mutex::new((None, Counts::new()));
    let work = || {
        while !is_over.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                return;
            }
            let (outcome, counts, _) = run(ground, seed, mistake, false);
            let mut found = found.lock().expect("no worker panics");
            for (what, count) in counts {
                *found.1.entry(what).or_default() += count;
            }
            if let Err(why) = outcome {
                found.0.get_or_insert((seed, why));
                is_over.store(true, Ordering::Relaxed);
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    found.into_inner().expect("no worker panics")
}

/// Runs a failed seed once more, with its log, and says how to reproduce it.
fn explain(ground: &Ground, seed: u64, why: &str) -> String {
    let (again, _, log) = run(ground, seed, None, true);
    let path = env::temp_dir().join(format!("ostrakon-simulation-{seed}.log"));
    let written = fs::write(&path, &log);
    let tail: Vec<&str> = log.lines().rev().take(60).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    let is_same = again.is_err_and(|again| again == why);
    format!(
        "seed {seed}: {why}\n\nits last events (all of them: {}, {written:?}; the same again: {is_same}):\n{}\n\n\
         run it again: cargo xtask simulate --from {seed} --seeds 1\n",
        path.display(),
        tail.join("\n"),
    )
}

#[test]
fn clusters_keep_their_promises_whatever_befalls_them() {
    panics::note();
    let ground = Ground::new();
    let began = Instant::now();
    let seeds = setting("OSTRAKON_SIMULATION_SEEDS", SEEDS);
    let from = setting("OSTRAKON_SIMULATION_FROM", 1);
    let (failed, counts) = run_all(&ground, from, seeds, None);
    for (what, _) in SOMETIMES {
        println!("{:>8}  {what}", counts.get(what).unwrap_or(&0));
    }
    println!(
        "{seeds} seeds from {from} in {:.1} s",
        began.elapsed().as_secs_f64()
    );
    if let Some((seed, why)) = failed {
        panic!("{}", explain(&ground, seed, &why));
    }
    for (what, _) in SOMETIMES {
        assert!(
            seeds < ENOUGH || counts.contains_key(what),
            "in {seeds} seeds this never happened: {what}"
        );
    }
}

/// A log's lines, sorted: events at the same time may be in any order.
fn sorted(log: &str) -> Vec<&str> {
    let mut lines: Vec<_> = log.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_seed_is_the_same_each_time() {
    panics::note();
    let ground = Ground::new();
    for seed in 1..=8 {
        let (first, counts, log) = run(&ground, seed, None, true);
        assert!(first.is_ok(), "seed {seed}: {first:?}");
        let (second, again, same) = run(&ground, seed, None, true);
        let (log, same) = (sorted(&log), sorted(&same));
        let lines = log.iter().zip(&same);
        let line = lines.enumerate().find(|(_, (one, other))| one != other);
        assert!(
            line.is_none(),
            "seed {seed} runs differently the second time, from here: {line:#?}"
        );
        assert_eq!((first, counts), (second, again), "seed {seed}");
    }
}

fn finds(mistake: Mistake) {
    panics::note();
    let ground = Ground::new();
    let (found, _) = run_all(&ground, 1, SEEDS, Some(mistake));
    let (seed, why) = found.expect("the mistake is found");
    println!(
        "seed {seed} finds {mistake:?}: {}",
        why.lines().next().unwrap_or_default()
    );
}

#[test]
fn an_acknowledgement_before_what_it_says_is_durable_is_found() {
    finds(Mistake::AcknowledgesEarly);
}

#[test]
fn a_source_that_forgets_its_batches_is_found() {
    finds(Mistake::ForgetsBatches);
}

#[test]
fn a_write_that_is_run_twice_is_found() {
    finds(Mistake::RepeatsWrites);
}
