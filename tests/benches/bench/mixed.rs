//! Loads and saves for a long time: pauses, bytes written, memory, checkpoints.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;

use anyhow::{Context as _, anyhow};

use crate::clients::{Action, Answers, Work};
use crate::figures::{as_f64, percentile};
use crate::hosts::{Filled, print_metrics};
use crate::memory::resident;
use crate::plan::Plan;

/// Connections that load, and as many that save.
const CONNECTIONS: usize = 16;
/// The unit of `/proc/diskstats`, in bytes.
const SECTOR: usize = 512;

pub(crate) fn run(plan: &Plan) -> anyhow::Result<()> {
    let (seconds, keys) = (plan.mixed.as_secs(), plan.random_keys);
    println!(
        "\n{CONNECTIONS} connections load and {CONNECTIONS} save for {seconds} s, among {keys} keys"
    );
    println!("measured by this program's clients, which see each pause");
    let filled = Filled::this(keys)?;
    let (process, data) = (filled.host.id(), &filled.shard.data);
    let before = (by_process(process)?, on_disk(data));
    let work = |action| {
        let work = Work::new(action, CONNECTIONS).among(keys);
        filled.target().work(work, plan.mixed)
    };
    let (saves, loads) = thread::scope(|scope| {
        let saving = scope.spawn(|| work(Action::Put));
        let loads = work(Action::Load)?;
        let saves = saving.join().map_err(|_| anyhow!("the savers panicked"))?;
        anyhow::Ok((saves?, loads))
    })?;
    let after = (by_process(process)?, on_disk(data));

    println!(
        "{:6} {:>9} {:>9} {:>9} {:>9} {:>9} {:>12}",
        "", "/s", "p50 ms", "p99 ms", "p99.9 ms", "most ms", "longest pause"
    );
    row("saves", &saves);
    row("loads", &loads);
    println!("pause: the time in which no request of that kind was answered, in ms");
    let per_save = |bytes: usize| as_f64(bytes) / as_f64(saves.waits.len());
    println!(
        "{:36} {:>8.0}",
        "bytes a save, written by the process",
        per_save(after.0 - before.0)
    );
    match (before.1, after.1) {
        (Some(before), Some(after)) => println!(
            "{:36} {:>8.0}",
            "bytes a save, written to the disk",
            per_save(after - before)
        ),
        _ => println!("the disk of {} does not count its bytes", data.display()),
    }
    println!(
        "{:36} {:>8.1}",
        "resident memory, MiB",
        resident(&filled.host)
    );
    print_metrics(&filled.host, "checkpoint")
}

fn row(name: &str, answers: &Answers) {
    let figures = answers.figures();
    println!(
        "{name:6} {:>9.0} {:>9.3} {:>9.3} {:>9.3} {:>9.1} {:>12.1}",
        figures.rate,
        figures.p50,
        figures.p99,
        percentile(&answers.waits, 999),
        percentile(&answers.waits, 1000),
        answers.pause.as_secs_f64() * 1000.0
    );
}

/// The bytes that a process has sent to the disk, or made the system send later.
fn by_process(process: u32) -> anyhow::Result<usize> {
    let io = fs::read_to_string(format!("/proc/{process}/io"))?;
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    let bytes = line.context("the system does not count the process's bytes")?;
    Ok(bytes.parse()?)
}

/// The bytes that all processes have written to the disk of a directory; `None` if its filesystem
/// is not on a disk that counts them.
fn on_disk(directory: &Path) -> Option<usize> {
    let device = fs::metadata(directory).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let disks = fs::read_to_string("/proc/diskstats").ok()?;
    let disk = disks.lines().find_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        (columns[..2] == [major.to_string(), minor.to_string()]).then_some(columns)
    })?;
    let sectors: usize = disk.get(9)?.parse().ok()?;
    Some(sectors * SECTOR)
}
