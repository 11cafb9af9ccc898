//! `ostrakon rehearse`: tries a guest with the live requests of all shards.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use ostrakon_base::printable::Printable;
use ostrakon_cluster::{Content, ask_to_rehearse};
use ostrakon_network::http::client::Question;
use ostrakon_settings::settings::{Differ, Rehearsal, Share};
use ostrakon_volumes::volume::Files;
use serde::Deserialize;

use super::client::Port;
use super::plan::component;
use super::progress::grouped;
use super::{Exit, Failure, say, time};

/// How long the answer may take beside the rehearsal: the shards compile the guest.
const PATIENCE: Duration = Duration::from_mins(2);

/// Try a guest with the live requests of all shards, without any effect.
///
/// Each shard runs a share of its requests a second time, by the live guest and by this one, on the
/// data that the request saw. What they answer and write is compared, and thrown away. The ConfigMap
/// is not changed, and nothing goes live. Exit code 64 if the guest would be refused. Only from the
/// machine of the shard, because the guest sees its data.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kubectl port-forward kv-0 9090 &
  ostrakon rehearse --guest new.wasm
  ostrakon rehearse --guest new.wasm --share 100% --for 1m --differ nothing
  ostrakon rehearse --config-dir deploy/config --differ /news --differ /feed")]
pub(super) struct Arguments {
    /// The guest's component, plain or packed by zstd. Without --config-dir it is tried with the live
    /// generation's settings.
    #[arg(long, value_name = "FILE", required_unless_present = "config_dir")]
    guest: Option<PathBuf>,
    /// A directory with settings, and with the component if --guest is not given, as in the ConfigMap.
    #[arg(long, value_name = "DIRECTORY")]
    config_dir: Option<PathBuf>,
    /// How long to take requests; up to 5 min.
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = time)]
    length: Duration,
    /// The number of requests in each shard after which it is enough.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    requests: u64,
    /// The share of live requests to take.
    #[arg(long, value_name = "PERCENT", default_value = "10%")]
    share: Share,
    /// What may differ: `anything` that does not fail, `nothing`, or answers to paths that begin so.
    #[arg(long, value_name = "WHAT", default_value = "anything")]
    differ: Vec<String>,
    /// Show whole paths, and the beginnings of bodies and values where they differ.
    #[arg(long)]
    show_data: bool,
    #[command(flatten)]
    port: Port,
    /// Print the shards' JSON.
    #[arg(long, env = "OSTRAKON_JSON")]
    json: bool,
}

/// The input or the answer cannot be used.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(
        "--differ is {0:?}: give `anything`, `nothing`, or the beginning of a path, such as /news"
    )]
    Differ(String),
    #[error("the answer is not of a rehearsal: are this command and the shard of one version?")]
    NotFound(#[source] serde_json::Error),
    #[error("it would be refused in {0}")]
    Refused(String),
    #[error("it was not tried in {0}")]
    NotTried(String),
    #[error(
        "no request came in {0:?}: nothing is known; take requests for longer, or a larger share"
    )]
    NoRequest(Duration),
}

#[derive(Debug, Deserialize)]
struct Answer {
    shards: Vec<OfShard>,
}

#[derive(Debug, Deserialize)]
struct OfShard {
    shard: u32,
    findings: Option<Found>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Found {
    outcome: String,
    requests: u64,
    same: u64,
    differ: u64,
    failed: u64,
    both_failed: u64,
    unsteady: u64,
    left_out: u64,
    live_us: u64,
    candidate_us: u64,
    examples: Vec<Example>,
    migration: Option<Migration>,
    why: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Example {
    difference: String,
    method: String,
    path: String,
    detail: String,
}

#[derive(Debug, Deserialize)]
struct Migration {
    from: u32,
    to: u32,
    not_tried: Option<String>,
    took_ms: u64,
    entries: u64,
    changed: u64,
    largest_partition_bytes: u64,
}

impl Arguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        let rehearsal = Rehearsal {
            time: self.length,
            requests: self.requests,
            share: self.share,
            differ: differ(&self.differ)?,
            show_data: self.show_data,
        };
        rehearsal.check().map_err(Failure::with(Exit::Usage))?;
        let question = Question {
            body: ask_to_rehearse(&self.content()?, &rehearsal),
            ..Question::default()
        };
        let patience = self.length + PATIENCE;
        let body = self
            .port
            .send(Method::POST, "/rehearse", question, patience)?;
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|source| Failure::new(Exit::Unavailable, Error::NotFound(source)))?;
        if self.json {
            say(&String::from_utf8_lossy(&body))?;
        } else {
            say(&answer.shown())?;
        }
        answer.judged(self.length)
    }

    fn content(&self) -> Result<Content, Failure> {
        let guest = self.guest.as_deref().map(component).transpose()?;
        let Some(directory) = &self.config_dir else {
            let guest = guest.expect("clap demands one of both");
            return Ok(Content::Component(guest));
        };
        let files = Files::read(directory).map_err(Failure::with(Exit::Io))?;
        let files = match guest {
            Some(guest) => ostrakon_shard::swap::with_component(&files, guest),
            None => files,
        };
        Ok(Content::Files(BTreeMap::clone(files.contents())))
    }
}

fn differ(words: &[String]) -> Result<Differ, Failure> {
    match words {
        [word] if word == "anything" => Ok(Differ::Anything),
        [word] if word == "nothing" => Ok(Differ::Nothing),
        paths => match paths.iter().find(|path| !path.starts_with('/')) {
            Some(wrong) => Err(Failure::new(Exit::Usage, Error::Differ(wrong.clone()))),
            None => Ok(Differ::Paths(paths.to_vec())),
        },
    }
}

impl Answer {
    /// Fails if a shard would refuse it, or has not tried it.
    fn judged(&self, length: Duration) -> Result<(), Failure> {
        let named = |shards: Vec<&OfShard>| {
            let names = shards.iter().map(|of| format!("shard {}", of.shard));
            names.collect::<Vec<_>>().join(", ")
        };
        let of = |is: fn(&OfShard) -> bool| -> Vec<&OfShard> {
            self.shards.iter().filter(|of| is(of)).collect()
        };
        let refused = of(|of| matches!(&of.findings, Some(found) if found.outcome == "refused"));
        if !refused.is_empty() {
            return Err(Failure::new(Exit::Usage, Error::Refused(named(refused))));
        }
        let not_tried = of(|of| of.findings.is_none());
        if !not_tried.is_empty() {
            let error = Error::NotTried(named(not_tried));
            return Err(Failure::new(Exit::Unavailable, error));
        }
        let is_empty = |found: &Found| found.requests == 0 && found.migration.is_none();
        let found = self.shards.iter().filter_map(|of| of.findings.as_ref());
        if found.clone().all(is_empty) {
            return Err(Failure::new(Exit::Unavailable, Error::NoRequest(length)));
        }
        Ok(())
    }

    fn shown(&self) -> String {
        let mut text = String::new();
        for of in &self.shards {
            let _ = write!(text, "shard {}: ", of.shard);
            match (&of.findings, &of.error) {
                (Some(found), _) => found.show(&mut text),
                (None, why) => {
                    let why = why.as_deref().unwrap_or("it says nothing");
                    let _ = writeln!(text, "not tried: {}", Printable(why));
                }
            }
        }
        text
    }
}

impl Found {
    fn show(&self, text: &mut String) {
        if let Some(Migration {
            from,
            to,
            not_tried,
            took_ms,
            entries,
            changed,
            largest_partition_bytes,
        }) = &self.migration
        {
            let _ = match not_tried {
                Some(why) => writeln!(
                    text,
                    "from schema {from} to {to}, not tried: {}",
                    Printable(why)
                ),
                None => writeln!(
                    text,
                    "from schema {from} to {to} in {took_ms} ms, about as long as writes will wait; {} of {} entries change, the largest partition then has {} bytes",
                    grouped(*changed),
                    grouped(*entries),
                    grouped(*largest_partition_bytes)
                ),
            };
        } else {
            let _ = writeln!(
                text,
                "{} requests: {} the same, {} different, {} failed, {} failed in both, {} unsteady; {} left out",
                grouped(self.requests),
                grouped(self.same),
                grouped(self.differ),
                grouped(self.failed),
                grouped(self.both_failed),
                grouped(self.unsteady),
                grouped(self.left_out)
            );
        }
        if self.live_us > 0 {
            let _ = writeln!(
                text,
                "  {} µs a request, the live guest {} µs",
                grouped(self.candidate_us),
                grouped(self.live_us)
            );
        }
        for Example {
            difference,
            method,
            path,
            detail,
        } in &self.examples
        {
            let line = format!("{method} {path}: {difference}: {detail}");
            let _ = writeln!(text, "  {}", Printable(&line));
        }
        if let Some(why) = &self.why {
            let _ = writeln!(text, "  it would be refused: {}", Printable(why));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer() -> serde_json::Value {
        json!({ "shards": [
            {
                "shard": 0, "error": null,
                "findings": {
                    "candidate": "a", "live": "b", "outcome": "refused", "requests": 1200, "same": 1190,
                    "differ": 8, "failed": 1, "both_failed": 1, "unsteady": 0, "left_out": 3,
                    "live_us": 30, "candidate_us": 90, "migration": null,
                    "why": "of 1200 live requests, the last fails",
                    "examples": [{
                        "difference": "failure", "method": "GET", "path": "/a/*", "partition": null,
                        "detail": "the guest trapped\u{1b}",
                    }],
                },
            },
            { "shard": 1, "error": "it is away", "findings": null },
        ]})
    }

    #[test]
    fn what_each_shard_found_is_shown_and_judged() {
        let mut answer: Answer = serde_json::from_value(answer()).unwrap();
        let shown = answer.shown();
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(
            lines[0],
            "shard 0: 1,200 requests: 1,190 the same, 8 different, 1 failed, 1 failed in both, 0 unsteady; 3 left out"
        );
        assert_eq!(lines[1], "  90 µs a request, the live guest 30 µs");
        assert!(lines[2].starts_with("  GET /a/*: failure: the guest trapped"));
        assert!(!shown.contains('\u{1b}'), "{shown}");
        assert_eq!(lines[4], "shard 1: not tried: it is away");
        let judged = |answer: &Answer| {
            let failure = answer.judged(Duration::from_secs(1)).unwrap_err();
            (failure.exit, failure.line())
        };
        assert_eq!(
            judged(&answer),
            (Exit::Usage, "it would be refused in shard 0".to_owned())
        );
        answer.shards[0].findings.as_mut().unwrap().outcome = "passed".to_owned();
        assert_eq!(
            judged(&answer),
            (Exit::Unavailable, "it was not tried in shard 1".to_owned())
        );
        answer.shards.pop();
        answer.judged(Duration::from_secs(1)).unwrap();
        answer.shards[0].findings.as_mut().unwrap().requests = 0;
        assert!(judged(&answer).1.starts_with("no request came in 1s"));
    }

    #[test]
    fn what_may_differ_is_a_word_or_paths() {
        let of = |words: &[&str]| {
            differ(
                &words
                    .iter()
                    .map(|word| (*word).to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(of(&["anything"]).unwrap(), Differ::Anything);
        assert_eq!(of(&["nothing"]).unwrap(), Differ::Nothing);
        let paths = Differ::Paths(vec!["/a".to_owned(), "/b".to_owned()]);
        assert_eq!(of(&["/a", "/b"]).unwrap(), paths);
        for wrong in [&["news"][..], &["nothing", "/a"]] {
            assert_eq!(of(wrong).unwrap_err().exit, Exit::Usage, "{wrong:?}");
        }
    }
}
