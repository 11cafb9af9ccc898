//! One process of a shard: starts it, reads its output, sends it signals, and waits for its end.

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

/// A log of this size, in bytes, is rotated at the next start.
const MAX_LOG: u64 = 16 << 20;
/// How long to go on reading after the process has ended: a child of its own may hold its output
/// open.
const LAST_LINES: Duration = Duration::from_secs(1);

/// A started process. Dropping the handle does not end it.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) id: u32,
    signals: UnboundedSender<Signal>,
}

/// An event of a process.
#[derive(Debug)]
pub(super) enum Doing {
    Says(What),
    Ended(ExitStatus),
}

impl Process {
    /// Starts the process. Its output goes to `log`, and events to `tell`, of which its end is the
    /// last one. The process is killed when the runtime is dropped.
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
            // Ctrl-C at the terminal must reach only the controller, which ends its shards in
            // order.
            .process_group(0);
        let mut child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()?;
        let id = child.id().expect("the child was not waited for yet");
        let stderr = child.stderr.take().expect("stderr is piped");
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

    /// Sends a signal, unless the process has ended.
    pub(super) fn signal(&self, signal: Signal) {
        // The receiver is gone if the process has ended.
        let _ = self.signals.send(signal);
    }
}

/// Forwards signals until the process ends. Only this function waits for the process, so that no
/// signal reaches another process that has reused its id.
async fn watch(mut child: Child, mut signals: UnboundedReceiver<Signal>) -> ExitStatus {
    loop {
        tokio::select! {
            status = child.wait() => {
                // Waiting fails only for a process that is not our child.
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
        // If the log cannot be written, the output must still be read.
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
