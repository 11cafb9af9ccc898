//! The signals that end a process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end the process: SIGTERM, SIGINT and SIGHUP, the last where the process was
/// not started to ignore it.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// None where the process was started by `nohup` or the like: it outlives its terminal.
    hang_up: Option<Signal>,
    /// Those that would end the process at once, and mean nothing to it. Held, they do nothing; a
    /// write beyond a limit on file sizes then fails as on a full disk.
    _without_effect: [Signal; 3],
}

impl Signals {
    /// Takes the signals over from the system, which would end the process at once, and with them
    /// SIGUSR1, SIGUSR2 and SIGXFSZ, which then do nothing.
    ///
    /// # Errors
    /// When the system does not allow it.
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

    /// Waits for the next signal; gives its name.
    pub async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            Some(()) = async { self.hang_up.as_mut()?.recv().await } => "SIGHUP",
        }
    }
}

/// Whether a process ignores a signal, by what `/proc` says of it. Where that says nothing, it does
/// not.
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
