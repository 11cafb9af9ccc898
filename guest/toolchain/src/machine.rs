//! What the search needs from the machine that it runs on. This is a seam, so
//! that each way to a toolchain can be tested on any machine.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// A machine that can run programs.
pub trait Machine {
    /// Runs a program to its end and returns what it wrote to standard output.
    ///
    /// # Errors
    /// When it cannot be started, fails, or is not done within `limit`, after which
    /// it is killed.
    fn run(&self, command: Command, limit: Duration) -> Result<String, Error>;

    fn is_file(&self, path: &Path) -> bool;

    /// Shows progress to the user.
    fn progress(&self, line: &str);
}

/// The failure of a program's run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot run {program}: {source}")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{program} failed ({status}): {reason}")]
    Failed {
        program: String,
        status: ExitStatus,
        /// The most informative line of its standard error.
        reason: String,
    },
    #[error("{program} was not done within {} s", limit.as_secs())]
    Overrun { program: String, limit: Duration },
}

/// The machine that this process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThisMachine;

impl Machine for ThisMachine {
    fn run(&self, mut command: Command, limit: Duration) -> Result<String, Error> {
        let program = command.get_program().to_string_lossy().into_owned();
        let deadline = Instant::now() + limit;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Start {
                program: program.clone(),
                source,
            })?;
        let stdout = read_apart(child.stdout.take());
        let stderr = read_apart(child.stderr.take());
        let output = receive(&stdout, deadline).zip(receive(&stderr, deadline));
        if output.is_none() {
            // If it has ended by itself meanwhile, there is nothing to kill.
            let _ = child.kill();
        }
        let status = child.wait().map_err(|source| Error::Start {
            program: program.clone(),
            source,
        })?;
        match output {
            None => Err(Error::Overrun { program, limit }),
            Some((stdout, _)) if status.success() => Ok(stdout),
            Some((_, stderr)) => Err(Error::Failed {
                program,
                status,
                reason: telling_line(&stderr).to_owned(),
            }),
        }
    }

    fn is_file(&self, path: &Path) -> bool {
        path.is_file()
    }

    fn progress(&self, line: &str) {
        // If standard error is closed, progress is not shown; nothing else changes.
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// Reads a stream to its end on its own thread: two full pipes cannot block each
/// other, and the reader can be abandoned at the deadline.
fn read_apart(stream: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    if let Some(mut stream) = stream {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            // The text that was read before an error is still useful; the exit status tells the rest.
            let _ = stream.read_to_end(&mut bytes);
            let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
        });
    }
    receiver
}

fn receive(receiver: &mpsc::Receiver<String>, deadline: Instant) -> Option<String> {
    receiver
        .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        .ok()
}

/// The first line that begins with `error` or the like (rustc, rustup and apt
/// print such lines), or else the last line.
fn telling_line(stderr: &str) -> &str {
    let mut lines = stderr
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    lines
        .clone()
        .find(|line| line.starts_with("error") || line.starts_with("E:"))
        .or_else(|| lines.next_back())
        .unwrap_or("it said nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_that_overruns_its_time_is_killed() {
        let started = Instant::now();
        let error = ThisMachine
            .run(shell("exec sleep 600"), Duration::from_millis(50))
            .unwrap_err();
        assert!(matches!(error, Error::Overrun { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_mins(1));
    }

    #[test]
    fn a_failure_keeps_the_line_that_tells_why() {
        let script = "echo out; echo info: x >&2; echo error: no net >&2; echo hint >&2; exit 3";
        let error = ThisMachine
            .run(shell(script), Duration::from_mins(1))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "sh failed (exit status: 3): error: no net"
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = ThisMachine
            .run(Command::new("no-such-program"), Duration::from_mins(1))
            .unwrap_err();
        assert!(error.to_string().starts_with("cannot run no-such-program"));
    }

    #[test]
    fn more_output_than_a_pipe_holds_does_not_block() {
        let script = "head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero; echo end";
        let output = ThisMachine
            .run(shell(script), Duration::from_mins(1))
            .expect("the script succeeds");
        assert_eq!(output.len(), 300_004);
    }
}
