//! One process of a shard: started, heard, signalled, and seen to end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::line;
use super::news::What;

/// A log of this size is put aside at the next start.
const MAX_LOG: u64 = 16 << 20;
/// How long to read on when the process has ended: another that it started may hold its output.
const LAST_LINES: Duration = Duration::from_secs(1);

/// A process that was started. Dropping the handle does not end it.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) id: u32,
    signals: UnboundedSender<Signal>,
}

/// What a process does.
#[derive(Debug)]
pub(super) enum Doing {
    Says(What),
    Ended(ExitStatus),
}

impl Process {
    /// Starts it. Its lines go to `log`, and what is worth telling to `tell`, which is told of its
    /// end last. It is killed when the runtime is dropped.
    pub(super) fn start(
        mut command: Command,
        log: &Path,
        tell: impl Fn(Doing) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let log = open_log(log)?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // The terminal's Ctrl-C is for the controller, which ends its shards in order.
            .process_group(0);
        let mut child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()?;
        let id = child.id().expect("it was not waited for yet");
        let stderr = child.stderr.take().expect("it is piped");
        let (signals, received) = unbounded_channel();
        tokio::spawn(async move {
            let mut hear = std::pin::pin!(hear(stderr, log, &tell));
            let mut watch = std::pin::pin!(watch(child, received));
            let status = tokio::select! {
                status = &mut watch => {
                    let _no_more = tokio::time::timeout(LAST_LINES, hear).await;
                    status
                }
                () = &mut hear => watch.await,
            };
            tell(Doing::Ended(status));
        });
        Ok(Self { id, signals })
    }

    /// Sends a signal, unless it has ended.
    pub(super) fn signal(&self, signal: Signal) {
        // Nobody receives it: it has ended.
        let _ = self.signals.send(signal);
    }
}

/// Sends signals on until the process ends. Here alone it is waited for, so that none is sent to
/// another that has its number by then.
async fn watch(mut child: Child, mut signals: UnboundedReceiver<Signal>) -> ExitStatus {
    loop {
        tokio::select! {
            status = child.wait() => {
                // It can only fail for a process that is not our child.
                return status.unwrap_or_else(|_| ExitStatus::from_raw(0));
            }
            Some(signal) = signals.recv() => {
                if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
                    let _ = kill_process(pid, signal);
                }
            }
        }
    }
}

async fn hear(stderr: ChildStderr, mut log: File, tell: &impl Fn(Doing)) {
    let mut lines = BufReader::new(stderr).split(b'\n');
    while let Ok(Some(mut bytes)) = lines.next_segment().await {
        bytes.push(b'\n');
        // A log that cannot be written is no reason to stop hearing.
        let _ = log.write_all(&bytes);
        if let Some(what) = line::worth_telling(&String::from_utf8_lossy(&bytes)) {
            tell(Doing::Says(what));
        }
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|log| log.len() > MAX_LOG) {
        fs::rename(path, path.with_extension("old"))?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}
