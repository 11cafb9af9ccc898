//! Redis with a sync for each group of writes, and redis-benchmark, its own client.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::clients::{Action, Work};
use crate::figures::Measured;

/// # Errors
/// When a program is missing.
pub(crate) fn is_installed() -> anyhow::Result<()> {
    for program in ["redis-server", "redis-benchmark"] {
        let mut version = Command::new(program);
        version.arg("--version").stdout(Stdio::null());
        let run = version.status();
        run.with_context(|| format!("{program} is not installed (Debian's package redis)"))?;
    }
    Ok(())
}

/// Does some work for about some time: redis-benchmark takes a number of requests instead, which a
/// short run yields.
pub(crate) fn benchmark(
    address: SocketAddr,
    work: Work,
    time: Duration,
) -> anyhow::Result<Measured> {
    let trial = requests(address, work, 1000 + 20 * work.connections)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive number far below 2^52"
    )]
    let count = (trial.rate * time.as_secs_f64()) as usize;
    requests(address, work, count.max(work.connections))
}

fn requests(address: SocketAddr, work: Work, count: usize) -> anyhow::Result<Measured> {
    // The client replaces the last word of the key by twelve digits.
    let key = "key-0000__rand_int__";
    let value = "w".repeat(64);
    let command = match work.action {
        Action::Load => vec!["GET", key],
        Action::Save | Action::Put => vec!["SET", key, &value],
    };
    let output = Command::new("redis-benchmark")
        .args(["-h", &address.ip().to_string()])
        .args(["-p", &address.port().to_string()])
        .args(["-c", &work.connections.to_string()])
        .args(["-n", &count.to_string()])
        .args(["-r", &work.keys.to_string()])
        .arg("--csv")
        .args(command)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    figures(&said).with_context(|| format!("redis-benchmark said {said:?}"))
}

/// The last line of the CSV is the command, its rate, and its waits: average, least, p50, p95, p99,
/// most.
fn figures(csv: &str) -> anyhow::Result<Measured> {
    let line = csv.lines().next_back().context("there is no line")?;
    let columns: Vec<f64> = line
        .rsplit(',')
        .take(7)
        .map(|column| column.trim_matches('"').parse())
        .collect::<Result<_, _>>()?;
    let [_, p99, _, p50, _, _, rate] = columns[..] else {
        anyhow::bail!("a column is missing");
    };
    ensure!(rate > 0.0, "there was no reply");
    Ok(Measured { rate, p50, p99 })
}
