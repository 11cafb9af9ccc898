//! The host as a process of its own.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use super::admin::Admin;

/// How long the host may take to become ready.
const START_LIMIT: Duration = Duration::from_mins(1);
/// How long it may take to stop: its own deadline is 25 s.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A running host.
#[derive(Debug)]
pub(super) struct Host(Child);

impl Host {
    /// Starts it in a process group of its own: the terminal's Ctrl-C is for
    /// us, who then stop it in order.
    pub(super) fn start(command: &Command) -> anyhow::Result<Self> {
        let mut own = Command::new(command.get_program());
        own.args(command.get_args()).process_group(0);
        let child = tokio::process::Command::from(own)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the host")?;
        Ok(Self(child))
    }

    /// Waits until it is ready.
    pub(super) async fn ready(&mut self, admin: Admin) -> anyhow::Result<()> {
        tokio::select! {
            ready = tokio::time::timeout(START_LIMIT, admin.ready()) => {
                ready.context("the host is not ready after a minute: see its log above")
            }
            status = self.0.wait() => bail!("the host ended ({}): see its log above", status?),
        }
    }

    /// Waits until it ends by itself.
    pub(super) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.0.wait().await
    }

    /// Asks it to drain and waits for its end; it is killed where it never ends.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(pid) = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed())) else {
            return Ok(());
        };
        kill_process(pid, Signal::TERM).context("cannot stop the host")?;
        let Ok(status) = tokio::time::timeout(STOP_LIMIT, self.0.wait()).await else {
            self.0.kill().await?;
            bail!("the host did not stop and was killed");
        };
        let status = status?;
        ensure!(status.success(), "the host ended with a failure ({status})");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_host_is_stopped_by_a_signal_and_stopping_twice_is_the_same() {
        let scratch = tempfile::tempdir().unwrap();
        let up = scratch.path().join("up");
        // Nothing that outlives the shell by long: it would hold the test's output open.
        let script = "trap 'exit 0' TERM; : > \"$0\"; while :; do sleep 0.05; done";
        let mut command = shell(script);
        command.arg(&up);
        let mut host = Host::start(&command).unwrap();
        let started = async {
            while !up.exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(START_LIMIT, started).await.unwrap();
        host.stop().await.unwrap();
        host.stop().await.expect("it is stopped already");
    }

    #[tokio::test]
    async fn a_host_that_ends_while_it_starts_is_told_from_one_that_is_slow() {
        let mut host = Host::start(&shell("exit 64")).unwrap();
        let admin = Admin::new("127.0.0.1:1".parse().unwrap());
        let error = host.ready(admin).await.unwrap_err();
        assert!(error.to_string().contains("exit status: 64"), "{error}");
    }
}
