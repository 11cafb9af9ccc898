//! `ostrakon history` and `ostrakon rollback`: former generations, and going back to one.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Method;
use humantime_serde::re::humantime::format_rfc3339_seconds;
use ostrakon_base::printable::Printable;
use ostrakon_network::http::client::Question;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::client::{Port, Token};
use super::{Exit, Failure, say, say_aside, time};

/// How often it is asked whether the generation is live.
const EVERY: Duration = Duration::from_millis(200);
/// How often it is told what that waits for.
const TOLD_EVERY: u32 = 25;

/// Show which generations were live in a shard, the newest first.
///
/// `ostrakon rollback` can go back to those that are kept.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ostrakon history
  ostrakon history --json | jq '.generations[0]'
  kubectl exec kv-0 -- ostrakon history")]
pub(super) struct HistoryArguments {
    #[command(flatten)]
    port: Port,
    /// Print the shard's JSON.
    #[arg(long, env = "OSTRAKON_JSON")]
    json: bool,
    /// How long to wait for the answer.
    #[arg(long, env = "OSTRAKON_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = time)]
    timeout: Duration,
}

/// Go back to the code and settings of a former generation, in all shards.
///
/// They go live as a new generation. What shard 0's ConfigMap shows does not go live before it has
/// changed. No data is changed: a generation whose guest has another schema cannot be gone back to.
/// Ask shard 0, or the shard that is alone. Waits until it is live; it goes on when this command ends.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ostrakon rollback
  ostrakon rollback --to 7
  kubectl exec kv-0 -- ostrakon rollback")]
pub(super) struct RollbackArguments {
    /// The number of the generation. Default: the last one with other content, which was not gone
    /// back from.
    #[arg(long, value_name = "N")]
    to: Option<u64>,
    #[command(flatten)]
    port: Port,
    #[command(flatten)]
    token: Token,
    /// How long to wait for each answer.
    #[arg(long, env = "OSTRAKON_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = time)]
    timeout: Duration,
}

/// Why the generation is not live.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("what was live is still live: {0}")]
    Failed(String),
    #[error(
        "what was live is still live: the ConfigMap was changed, or the shard was started again"
    )]
    GivenUp,
    #[error("the answer is not about generations: are this command and the shard of one version?")]
    NotGenerations(#[source] serde_json::Error),
}

/// The answer of `/history`.
#[derive(Debug, Deserialize)]
struct Former {
    generations: Vec<Generation>,
    held: Option<String>,
    going_back_to: Option<String>,
    waits_for: Option<String>,
    failed: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Generation {
    #[serde(rename = "generation")]
    number: u64,
    digest: String,
    name: String,
    version: String,
    schema: u32,
    live_since: u64,
    live: bool,
    kept: bool,
    went_back_from: Option<String>,
}

/// The answer of `/rollback`.
#[derive(Debug, Deserialize)]
struct Begun {
    going_back_to: u64,
    digest: String,
    live: Option<u64>,
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|source| Failure::new(Exit::Unavailable, Error::NotGenerations(source)))
}

impl HistoryArguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        let question = Question::default();
        let body = self
            .port
            .send(Method::GET, "/history", question, self.timeout)?;
        if self.json {
            return say(&String::from_utf8_lossy(&body));
        }
        say(&read::<Former>(&body)?.shown())
    }
}

impl RollbackArguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        let path = match self.to {
            Some(number) => format!("/rollback?to={number}"),
            None => "/rollback".to_owned(),
        };
        let question = Question {
            authorization: self.token.read()?,
            ..Question::default()
        };
        let body = self
            .port
            .send(Method::POST, &path, question, self.timeout)?;
        let begun: Begun = read(&body)?;
        let mut has_ended = false;
        for turn in 1_u32.. {
            thread::sleep(EVERY);
            let question = Question::default();
            let body = self
                .port
                .send(Method::GET, "/history", question, self.timeout)?;
            let former: Former = read(&body)?;
            let live = former.generations.first();
            let is_new =
                |live: &&Generation| live.digest == begun.digest && Some(live.number) != begun.live;
            if let Some(live) = live.filter(is_new) {
                return say(&live.gone_back_to(begun.going_back_to, former.held.is_some()));
            }
            if former.going_back_to.is_none() {
                // It may be live, and not be in the history yet.
                if let (None, false) = (&former.failed, has_ended) {
                    has_ended = true;
                    continue;
                }
                let why = former.failed.map_or(Error::GivenUp, Error::Failed);
                return Err(Failure::new(Exit::Unavailable, why));
            }
            if turn % TOLD_EVERY == 0
                && let Some(why) = former.waits_for
            {
                say_aside(&Printable(&why).to_string());
            }
        }
        Ok(())
    }
}

impl Generation {
    fn gone_back_to(&self, former: u64, holds: bool) -> String {
        let Self {
            number,
            name,
            version,
            ..
        } = self;
        let guest = format!("{name} {version}");
        let guest = Printable(&guest);
        let mut shown =
            format!("generation {number} is live: {guest}, the content of generation {former}\n");
        if holds {
            shown.push_str("what the ConfigMap shows does not go live before it has changed\n");
        }
        shown
    }
}

impl Former {
    fn shown(&self) -> String {
        let mut shown = String::new();
        for generation in &self.generations {
            let Generation {
                number,
                digest,
                name,
                version,
                schema,
                live_since,
                ..
            } = generation;
            let since = UNIX_EPOCH.checked_add(Duration::from_secs(*live_since));
            let since = since.unwrap_or(SystemTime::UNIX_EPOCH);
            let since = format_rfc3339_seconds(since);
            let guest = format!("{name} {version}");
            let short = digest.get(..12).unwrap_or(digest);
            let _ = write!(
                shown,
                "{number:>6}  {since}  {short}  schema {schema}  {}",
                Printable(&guest)
            );
            if let Some(from) = &generation.went_back_from {
                let from = from.get(..12).unwrap_or(from);
                let _ = write!(shown, ", gone back to from {}", Printable(from));
            }
            if generation.live {
                shown.push_str(", live");
            } else if !generation.kept {
                shown.push_str(", no longer kept");
            }
            shown.push('\n');
        }
        if shown.is_empty() {
            shown.push_str("no generation was live yet\n");
        }
        if let Some(held) = &self.held {
            let held = held.get(..12).unwrap_or(held);
            let _ = writeln!(
                shown,
                "the ConfigMap shows {}, which does not go live before it has changed",
                Printable(held)
            );
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_are_shown_in_lines_and_what_is_held_below_them() {
        let digest = |letter: &str| letter.repeat(64);
        let answer = serde_json::json!({
            "generations": [
                { "generation": 3, "digest": digest("a"), "name": "kv", "version": "1.0.0", "schema": 1,
                  "live_since": 1_800_000_060, "live": true, "kept": true, "went_back_from": digest("b") },
                { "generation": 2, "digest": digest("b"), "name": "kv\u{1b}[2J", "version": "1.1.0", "schema": 1,
                  "live_since": 1_800_000_000, "live": false, "kept": true, "went_back_from": null },
                { "generation": 1, "digest": digest("c"), "name": "kv", "version": "0.9.0", "schema": 1,
                  "live_since": 1_700_000_000, "live": false, "kept": false, "went_back_from": null },
            ],
            "held": digest("b"), "going_back_to": null, "waits_for": null, "failed": null, "new": "later",
        });
        let former: Former = serde_json::from_value(answer).unwrap();
        let shown = former.shown();
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(
            lines[0],
            "     3  2027-01-15T08:01:00Z  aaaaaaaaaaaa  schema 1  kv 1.0.0, gone back to from bbbbbbbbbbbb, live"
        );
        assert!(!lines[1].contains('\u{1b}'), "{}", lines[1]);
        assert!(
            lines[2].ends_with("kv 0.9.0, no longer kept"),
            "{}",
            lines[2]
        );
        assert_eq!(
            lines[3],
            "the ConfigMap shows bbbbbbbbbbbb, which does not go live before it has changed"
        );
        assert_eq!(
            former.generations[0].gone_back_to(1, true),
            "generation 3 is live: kv 1.0.0, the content of generation 1\nwhat the ConfigMap shows does not go live before it has changed\n"
        );
    }
}
