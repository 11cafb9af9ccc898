//! wrk, which takes less processor time for a request than the clients here.
//!
//! It counts a wait that is far above the mean several times, for the requests that its connection
//! could not send meanwhile. So its p99 is higher than that of the other clients.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::clients::Work;
use crate::figures::Measured;

const SCRIPT: &str = include_str!("wrk.lua");

pub(crate) fn is_installed() -> bool {
    let mut wrk = Command::new("wrk");
    wrk.arg("--version").stdout(Stdio::null());
    wrk.status().is_ok()
}

/// Does some work for some time, in whole seconds.
pub(crate) fn work(address: SocketAddr, work: Work, time: Duration) -> anyhow::Result<Measured> {
    let script = tempfile::Builder::new().suffix(".lua").tempfile()?;
    std::fs::write(script.path(), SCRIPT)?;
    let output = Command::new("wrk")
        .args(["--threads", "1", "--timeout", "20s", "--connections"])
        .arg(work.connections.to_string())
        .args(["--duration", &format!("{}s", time.as_secs())])
        .arg("--script")
        .arg(script.path())
        .arg(format!("http://{address}"))
        .args(["--", work.action.name(), &work.keys.to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().find_map(|line| line.strip_prefix("figures"));
    let line = line.with_context(|| format!("wrk said {said:?}"))?;
    let figures: Vec<f64> = line
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [requests, micros, p50, p99, failed] = figures[..] else {
        anyhow::bail!("wrk said {line:?}");
    };
    ensure!(failed == 0.0, "{failed} of {requests} requests failed");
    Ok(Measured {
        rate: requests / micros * 1e6,
        p50: p50 / 1e3,
        p99: p99 / 1e3,
    })
}
