//! Signals that end the process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end the process: SIGTERM, SIGINT and SIGHUP. SIGHUP is left out if the
/// process was started with it ignored.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// None if the process was started by `nohup` or the like: it then outlives its terminal.
    hang_up: Option<Signal>,
    /// Signals whose default action would kill the process and that have no meaning for it. While
    /// they are handled here they do nothing; a write beyond the file size limit then fails like
    /// a write to a full disk.
    _without_effect: [Signal; 3],
}

impl Signals {
    /// Installs handlers for these signals, so that the system does not kill the process at once.
    /// SIGUSR1, SIGUSR2 and SIGXFSZ are handled too, and do nothing.
    ///
    /// # Errors
    /// If the system does not allow it.
    pub fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let ignored = std::fs::read_to_string("/proc/self/status");
        let hang_up = if ignored.is_ok_and(|status| is_ignored(&status, SignalKind::hangup())) {
            None
        } else {
            Some(signal(SignalKind::hangup())?)
        };
        let file_size = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
        Ok(Self {
            terminate,
            interrupt,
            hang_up,
            _without_effect: [
                signal(SignalKind::user_defined1())?,
                signal(SignalKind::user_defined2())?,
                signal(file_size)?,
            ],
        })
    }

    /// Waits for the next signal and returns its name.
    pub async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            Some(()) = async { self.hang_up.as_mut()?.recv().await } => "SIGHUP",
        }
    }
}

/// Whether a process ignores a signal according to its `/proc` status. False if the status does
/// not say.
fn is_ignored(status: &str, signal: SignalKind) -> bool {
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal.as_raw_value() - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_is_told_from_others() {
        let ignored = |mask| {
            let status = format!("Name:\tostrakon\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\n");
            is_ignored(&status, SignalKind::hangup())
        };
        assert!(ignored("0000000000001001") && ignored("ffffffffffffffff"));
        assert!(!ignored("0000000000001000") && !ignored("what") && !ignored(""));
        assert!(!is_ignored("", SignalKind::hangup()));
    }
}
