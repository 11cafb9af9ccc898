//! Runs `ostrakon dev` as a process: starts it, sends it commands, and stops it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ostrakon_base::signals::Signals;
use ostrakon_dev::{self as dev, Addresses};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::say;

/// The number of shards at first.
pub(crate) const AT_FIRST: u32 = 3;
/// How long the set may take to start, to change its number, or to end.
const PATIENCE: Duration = Duration::from_mins(2);

/// A StatefulSet on this machine. Dropping it kills `ostrakon dev` and with it the shards.
#[derive(Debug)]
pub(crate) struct StatefulSet {
    pub(crate) addresses: Addresses,
    child: Child,
    /// Its output; `None` once the output is passed on.
    lines: Option<Lines<BufReader<ChildStdout>>>,
    state: PathBuf,
}

/// Where the ConfigMap's files are.
pub(crate) fn config(directory: &Path) -> PathBuf {
    directory.join("config")
}

/// The state directory of `ostrakon dev`.
pub(crate) fn state(directory: &Path) -> PathBuf {
    directory.join("state")
}

impl StatefulSet {
    /// Starts it with the ConfigMap in the directory.
    pub(crate) fn spawn(
        ostrakon: &Path,
        directory: &Path,
        addresses: Addresses,
    ) -> anyhow::Result<Self> {
        let state = state(directory);
        let mut child = Command::new(ostrakon)
            .arg("dev")
            .arg("--config-dir")
            .arg(config(directory))
            .arg("--state")
            .arg(&state)
            .args(["--shards", &AT_FIRST.to_string()])
            .args(["--address", &addresses.of(0).to_string()])
            .args(["--port", &addresses.port.to_string()])
            .args(["--admin-port", &addresses.admin_port.to_string()])
            .args(["--peer-port", &addresses.peer_port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Ctrl-C at the terminal goes to the tour, which then ends this process.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {}", ostrakon.display()))?;
        let output = child.stdout.take().expect("standard output is piped");
        Ok(Self {
            addresses,
            child,
            lines: Some(BufReader::new(output).lines()),
            state,
        })
    }

    /// Waits until all shards are ready, and prints the output from then on.
    pub(crate) async fn started(&mut self) -> anyhow::Result<()> {
        let mut lines = self.lines.take().expect("this is called once");
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                show(&line);
                if line.ends_with("are ready and have everything") {
                    return Ok(true);
                }
            }
            anyhow::Ok(false)
        };
        let ready = tokio::time::timeout(PATIENCE, ready).await;
        ensure!(
            ready.context("the shards are not ready after two minutes: see their logs")??,
            "`ostrakon dev` has ended: it says above why"
        );
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                show(&line);
            }
        });
        Ok(())
    }

    /// Changes the number of shards, as `ostrakon dev ctl scale` does, and waits until all data is
    /// where it belongs.
    pub(crate) async fn scale(&self, shards: u32) -> anyhow::Result<()> {
        say(&format!("   $ ostrakon dev ctl scale {shards}"));
        let state = self.state.clone();
        let order = move || dev::call(Some(&state), &format!("scale {shards}"));
        let done = tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(order)).await;
        let done = done.with_context(|| {
            format!("{shards} shards do not have everything after two minutes: see their logs")
        })?;
        say(&format!("   {}", done??));
        Ok(())
    }

    /// Ends all shards, the last first; a signal meanwhile kills them.
    pub(crate) async fn stop(&mut self, signals: &mut Signals) -> anyhow::Result<()> {
        self.terminate();
        loop {
            tokio::select! {
                ended = self.child.wait() => {
                    let ended = ended?;
                    ensure!(ended.success(), "`ostrakon dev` ended with {ended}: see its output above");
                    return Ok(());
                }
                // A second signal makes it kill its shards.
                _ = signals.recv() => self.terminate(),
                () = tokio::time::sleep(PATIENCE) => self.child.start_kill()?,
            }
        }
    }

    fn terminate(&self) {
        // A process that was waited for no longer has an id.
        if let Some(pid) = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
        {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

/// Prints its lines about shards and their data.
fn show(line: &str) {
    let is_worth_it = line.starts_with("shard ") || line.starts_with("data moves");
    if is_worth_it {
        say(&format!("   {line}"));
    }
}
