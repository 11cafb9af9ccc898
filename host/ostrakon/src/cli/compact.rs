//! `ostrakon compact`: makes a shard's data file smaller.

use std::thread;
use std::time::Duration;

use bytesize::ByteSize;
use http::Method;
use ostrakon_network::http::client::Question;
use serde::Deserialize;

use super::client::{Port, Token};
use super::{Exit, Failure, say, say_aside, time};

/// How often it is asked how far it is.
const EVERY: Duration = Duration::from_millis(200);
/// How often that is told.
const TOLD_EVERY: u32 = 10;

/// Make a shard's data file smaller, while the shard serves.
///
/// The data is copied to a second file, which takes the place of the first at the end; until then
/// the disk needs room for both. Waits for the end. A compaction goes on when this command ends.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ostrakon compact
  ostrakon compact --stop
  kubectl exec kv-0 -- ostrakon compact")]
pub(super) struct Arguments {
    /// Stop a compaction that is under way: the data file stays as it is.
    #[arg(long)]
    stop: bool,
    #[command(flatten)]
    port: Port,
    #[command(flatten)]
    token: Token,
    /// How long to wait for each answer.
    #[arg(long, env = "OSTRAKON_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = time)]
    timeout: Duration,
}

/// Why the data file is not smaller.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the data file is as it was: {0}")]
    Failed(String),
    #[error("the shard knows of no compaction any more: it was started again")]
    Forgotten,
    #[error("the answer is not about a compaction: are this command and the shard of one version?")]
    NotACompaction(#[source] serde_json::Error),
}

/// The answer of the admin port.
#[derive(Debug, Deserialize)]
struct Answer {
    state: State,
    #[serde(default)]
    bytes_before: u64,
    bytes_after: Option<u64>,
    #[serde(default)]
    bytes_to_copy: u64,
    #[serde(default)]
    bytes_copied: u64,
    #[serde(default)]
    seconds: f64,
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    None,
    Running,
    Done,
    Failed,
}

impl Arguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.stop {
            let answer = self.ask(Method::DELETE)?;
            return say(match answer.state {
                State::None => "there was no compaction since the shard started\n",
                State::Running => "the compaction is being stopped\n",
                State::Done | State::Failed => "no compaction is under way\n",
            });
        }
        let mut answer = self.ask(Method::POST)?;
        for turn in 1_u32.. {
            match answer.state {
                State::Running => {}
                State::Done => return say(&answer.shown()),
                State::Failed => {
                    let why = answer.error.unwrap_or_default();
                    return Err(Failure::new(Exit::Io, Error::Failed(why)));
                }
                State::None => return Err(Failure::new(Exit::Unavailable, Error::Forgotten)),
            }
            thread::sleep(EVERY);
            answer = self.ask(Method::GET)?;
            if turn % TOLD_EVERY == 0 && answer.state == State::Running {
                say_aside(&format!(
                    "copied {} of about {}",
                    ByteSize(answer.bytes_copied),
                    ByteSize(answer.bytes_to_copy)
                ));
            }
        }
        Ok(())
    }

    fn ask(&self, method: Method) -> Result<Answer, Failure> {
        let question = Question {
            authorization: self.token.read()?,
            ..Question::default()
        };
        let body = self.port.send(method, "/compact", question, self.timeout)?;
        serde_json::from_slice(&body)
            .map_err(|source| Failure::new(Exit::Unavailable, Error::NotACompaction(source)))
    }
}

impl Answer {
    fn shown(&self) -> String {
        format!(
            "the data file took {} on the disk, and takes {} now ({:.1} s)\n",
            ByteSize(self.bytes_before),
            ByteSize(self.bytes_after.unwrap_or_default()),
            self.seconds
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_says_what_the_file_took_and_takes() {
        let answer = serde_json::json!({
            "state": "done", "bytes_before": 211_000_000, "bytes_after": 90_000, "seconds": 1.23,
            "bytes_to_copy": 5, "bytes_copied": 5, "error": null, "new": "later",
        });
        let answer: Answer = serde_json::from_value(answer).unwrap();
        assert_eq!(
            answer.shown(),
            "the data file took 201.2 MiB on the disk, and takes 87.9 KiB now (1.2 s)\n"
        );
    }
}
