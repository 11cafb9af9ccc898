//! `ostrakon rollout`: a generation on its way to all partitions of all shards.

use std::fmt::Write as _;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use clap::Subcommand;
use http::Method;
use humantime_serde::re::humantime::{format_duration, format_rfc3339_seconds};
use ostrakon_base::printable::Printable;
use ostrakon_network::http::client::Question;
use serde::Deserialize;

use super::client::{Port, Token};
use super::{Exit, Failure, say, say_aside, time};

/// How often it is asked whether the roll-out is over.
const EVERY: Duration = Duration::from_millis(500);

/// See and steer a new generation while it serves a part of the partitions, or is watched.
///
/// Ask shard 0, or the shard that is alone.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ostrakon rollout status --wait               for a pipeline: ends when all is live and watched
  ostrakon rollout pause                       stay in this step
  ostrakon rollout promote                     take the next step now
  ostrakon rollout promote --full              serve all partitions now
  kubectl exec kv-0 -- ostrakon rollout abort  go back to what was live")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(StatusArguments),
    Pause(PauseArguments),
    Resume(ResumeArguments),
    Promote(PromoteArguments),
    Abort(AbortArguments),
}

/// Show which generation is in its steps, or watched, and what that waits for.
#[derive(Debug, clap::Args)]
struct StatusArguments {
    /// Wait until a new generation serves all partitions and has been watched. The exit code is 64 if
    /// all shards went back from one meanwhile.
    #[arg(long)]
    wait: bool,
    /// With `--wait`: the `mark` of `ostrakon rollout status --json` before the ConfigMap changed. It is
    /// waited until a later generation is live, or what the ConfigMap shows was refused since. A
    /// generation's number will do, too: then only what is refused from now on counts.
    #[arg(long, value_name = "MARK", requires = "wait")]
    after: Option<Mark>,
    #[command(flatten)]
    port: Port,
    /// Print the shard's JSON.
    #[arg(long, env = "OSTRAKON_JSON")]
    json: bool,
    /// How long to wait for each answer.
    #[arg(long, env = "OSTRAKON_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = time)]
    timeout: Duration,
}

/// Stay in the step, until it is resumed, promoted or aborted.
///
/// It is watched meanwhile, and all shards go back if the new generation does worse.
#[derive(Debug, clap::Args)]
struct PauseArguments {
    #[command(flatten)]
    order: OrderArguments,
}

/// Go on with the steps after a pause.
#[derive(Debug, clap::Args)]
struct ResumeArguments {
    #[command(flatten)]
    order: OrderArguments,
}

/// Take the next step now, or end the watch over what serves all partitions.
#[derive(Debug, clap::Args)]
struct PromoteArguments {
    /// Serve all partitions, without the steps between.
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    order: OrderArguments,
}

/// Go back to what was live.
///
/// What the ConfigMap shows does not go live before it has changed.
#[derive(Debug, clap::Args)]
struct AbortArguments {
    #[command(flatten)]
    order: OrderArguments,
}

#[derive(Debug, clap::Args)]
struct OrderArguments {
    #[command(flatten)]
    port: Port,
    #[command(flatten)]
    token: Token,
    /// How long to wait for the answer.
    #[arg(long, env = "OSTRAKON_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = time)]
    timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("all shards went back from generation {generation}: {why}")]
    WentBack { generation: u64, why: String },
    #[error("generation {generation} stays live though {why}: it cannot be gone back: {failed}")]
    Stays {
        generation: u64,
        why: String,
        failed: String,
    },
    #[error(
        "what the ConfigMap shows, {0}, does not go live before it has changed: it was gone back from"
    )]
    Held(String),
    #[error("what the ConfigMap shows is refused: {0}")]
    Refused(String),
    #[error("the answer is not about a roll-out: are this command and the shard of one version?")]
    NotARollout(#[source] serde_json::Error),
}

/// What was live, and when that was: `3`, or `3@1764592872`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    generation: u64,
    /// By the shard's clock.
    unix_time: Option<u64>,
}

impl FromStr for Mark {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (generation, unix_time) = match text.split_once('@') {
            Some((generation, unix_time)) => (generation, Some(unix_time)),
            None => (text, None),
        };
        let number = |text: &str| {
            let number = text.parse();
            number.map_err(|_| "not the `mark` of `ostrakon rollout status --json`, such as 3@1764592872, nor a generation's number")
        };
        Ok(Self {
            generation: number(generation)?,
            unix_time: unix_time.map(number).transpose()?,
        })
    }
}

/// What had come out when the command began.
struct Past {
    went_back: Option<u64>,
    refused: Option<u64>,
    held: Option<String>,
}

/// The answer of `/rollout`.
#[derive(Debug, Deserialize)]
struct Standing {
    release: Option<Generation>,
    refused: Option<Refused>,
    candidate: Option<String>,
    making: Option<serde_json::Value>,
    #[serde(default)]
    pending: bool,
    #[serde(default)]
    shards: Vec<OfShard>,
    not_held: Option<String>,
    held: Option<String>,
    watch: Option<Watch>,
    went_back: Option<WentBack>,
}

#[derive(Debug, Deserialize)]
struct Generation {
    number: u64,
}

#[derive(Debug, Deserialize)]
struct Refused {
    step: String,
    reason: String,
    unix_time: u64,
    will_retry: bool,
}

#[derive(Debug, Deserialize)]
struct OfShard {
    shard: u32,
    state: String,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Watch {
    generation: u64,
    digest: String,
    percent: f64,
    first: Option<Vec<String>>,
    steps: Vec<String>,
    paused: bool,
    answered: u64,
    failed: u64,
    waits_s: f64,
    waits_requests: u64,
    waits_for_shards: Vec<u32>,
}

#[derive(Debug, Deserialize)]
struct WentBack {
    generation: u64,
    digest: String,
    why: String,
    unix_time: u64,
    failed: Option<String>,
}

/// The answer to an order.
#[derive(Debug, Deserialize)]
struct Obeyed {
    generation: u64,
    /// Whether a restart finds it.
    #[serde(default)]
    stored: bool,
}

impl Arguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Status(arguments) => arguments.run(),
            Command::Pause(PauseArguments { order }) => {
                order.run("/rollout/pause", "stays in its step")
            }
            Command::Resume(ResumeArguments { order }) => {
                order.run("/rollout/resume", "goes on with its steps")
            }
            Command::Promote(PromoteArguments { full: false, order }) => {
                order.run("/rollout/promote", "takes its next step")
            }
            Command::Promote(PromoteArguments { full: true, order }) => {
                order.run("/rollout/promote?full=true", "goes on to all partitions")
            }
            Command::Abort(AbortArguments { order }) => {
                order.run("/rollout/abort", "is gone back from, in all shards")
            }
        }
    }
}

impl OrderArguments {
    fn run(self, path: &str, what: &str) -> Result<(), Failure> {
        let question = Question {
            authorization: self.token.read()?,
            ..Question::default()
        };
        let body = self.port.send(Method::POST, path, question, self.timeout)?;
        let Obeyed { generation, stored } = serde_json::from_slice(&body).map_err(not_a_rollout)?;
        if !stored {
            say_aside("shard 0 has not stored this yet: if it starts again before, say it again");
        }
        say(&format!("generation {generation} {what}\n"))
    }
}

fn not_a_rollout(error: serde_json::Error) -> Failure {
    Failure::new(Exit::Unavailable, Error::NotARollout(error))
}

impl StatusArguments {
    fn run(self) -> Result<(), Failure> {
        let mut told = String::new();
        let mut before = None;
        loop {
            let question = Question::default();
            let body = self
                .port
                .send(Method::GET, "/rollout", question, self.timeout)?;
            let standing: Standing = serde_json::from_slice(&body).map_err(not_a_rollout)?;
            if !self.wait {
                return if self.json {
                    say(&String::from_utf8_lossy(&body))
                } else {
                    say(&standing.shown())
                };
            }
            // What had failed before does not count.
            let before = before.get_or_insert_with(|| standing.past());
            if let Some(error) = standing.failed(before, self.after) {
                return Err(Failure::new(Exit::Usage, error));
            }
            if standing.is_at_rest() && standing.is_after(self.after) {
                return say(&standing.shown());
            }
            let line = standing.line();
            if line != told {
                say_aside(&line);
                told = line;
            }
            thread::sleep(EVERY);
        }
    }
}

impl Standing {
    fn past(&self) -> Past {
        Past {
            went_back: self.went_back.as_ref().map(|back| back.unix_time),
            refused: self.refused.as_ref().map(|refused| refused.unix_time),
            held: self.held.clone(),
        }
    }

    /// Whether nothing is on its way, or watched.
    fn is_at_rest(&self) -> bool {
        let is_made = self.candidate.is_none() && self.making.is_none();
        is_made && self.watch.is_none() && !self.pending
    }

    /// Whether a later generation is live than the one that was live before, if that is said.
    fn is_after(&self, after: Option<Mark>) -> bool {
        let live = self.release.as_ref().map(|live| live.number);
        after.is_none_or(|after| live > Some(after.generation))
    }

    /// What has failed since the command began or, if it is said since when, since then.
    fn failed(&self, before: &Past, after: Option<Mark>) -> Option<Error> {
        let is_since = |unix_time: u64| {
            let since = after.and_then(|after| after.unix_time);
            since.is_some_and(|since| unix_time >= since)
        };
        let is_new = |back: &&WentBack| {
            let is_later = after.is_some_and(|after| back.generation > after.generation);
            is_later || is_since(back.unix_time) || before.went_back != Some(back.unix_time)
        };
        if let Some(back) = self.went_back.as_ref().filter(is_new) {
            let (generation, why) = (back.generation, Printable(&back.why).to_string());
            return Some(match &back.failed {
                None => Error::WentBack { generation, why },
                Some(failed) => Error::Stays {
                    generation,
                    why,
                    failed: Printable(failed).to_string(),
                },
            });
        }
        let is_new = |it: &&Refused| {
            let is_other = before.refused != Some(it.unix_time);
            (is_other || is_since(it.unix_time)) && !it.will_retry
        };
        if let Some(refused) = self.refused.as_ref().filter(is_new) {
            let reason = Printable(&refused.reason);
            return Some(Error::Refused(format!("step {}: {reason}", refused.step)));
        }
        let refused = self.refused_by().map(Error::Refused);
        refused.or_else(|| {
            Some(Error::Held(
                short(self.held_since(before, after)?).to_string(),
            ))
        })
    }

    /// What the ConfigMap shows and an operator went back from meanwhile.
    fn held_since(&self, before: &Past, after: Option<Mark>) -> Option<&str> {
        let held = self.held.as_deref().filter(|_| self.is_at_rest())?;
        let is_new = match after {
            Some(_) => self.is_after(after),
            None => before.held.as_deref() != Some(held),
        };
        is_new.then_some(held)
    }

    /// Which shard refuses what is to go live, and why.
    fn refused_by(&self) -> Option<String> {
        let mut shards = self.shards.iter();
        let refused = shards.find(|shard| shard.state == "refused")?;
        let reason = refused.reason.as_deref().unwrap_or("no reason given");
        Some(format!("shard {}: {}", refused.shard, Printable(reason)))
    }

    /// Where it stands, in one line that changes when something happens.
    fn line(&self) -> String {
        match &self.watch {
            Some(watch) => watch.what(),
            None if self.candidate.is_none() => "waits for what the ConfigMap shows".to_owned(),
            None => self.prepared().trim_end().to_owned(),
        }
    }

    fn prepared(&self) -> String {
        let mut shown = String::new();
        if let Some(candidate) = &self.candidate {
            let waits = self.shards.iter().filter(|it| it.state != "prepared");
            let waits = waits.map(|it| {
                let reason = it.reason.as_deref().map(|reason| format!(": {reason}"));
                let state = format!("shard {} is {}", it.shard, it.state);
                format!("{state}{}", reason.unwrap_or_default())
            });
            let mut waits: Vec<_> = waits.collect();
            waits.extend(self.not_held.clone());
            let _ = writeln!(
                shown,
                "content {} is to go live: {}",
                short(candidate),
                Printable(&waits.join("; "))
            );
        }
        shown
    }

    fn shown(&self) -> String {
        let mut shown = String::new();
        match &self.watch {
            Some(watch) => shown.push_str(&watch.shown()),
            None if self.candidate.is_some() => shown.push_str(&self.prepared()),
            None => shown.push_str("no generation is in its steps, or watched\n"),
        }
        if let Some(back) = &self.went_back {
            let at = UNIX_EPOCH.checked_add(Duration::from_secs(back.unix_time));
            let at = format_rfc3339_seconds(at.unwrap_or(UNIX_EPOCH));
            let WentBack {
                generation, why, ..
            } = back;
            let digest = short(&back.digest);
            let what = match &back.failed {
                None => "all shards went back from",
                Some(_) => "there was no way back from",
            };
            let _ = writeln!(
                shown,
                "at {at}, {what} generation {generation} ({digest}): {}",
                Printable(why)
            );
            if let Some(failed) = &back.failed {
                let _ = writeln!(shown, "  {}", Printable(failed));
            }
        }
        if let Some(held) = &self.held {
            let _ = writeln!(
                shown,
                "the ConfigMap shows {}, which does not go live before it has changed",
                short(held)
            );
        }
        shown
    }
}

impl Watch {
    fn what(&self) -> String {
        let generation = format!("generation {} ({})", self.generation, short(&self.digest));
        let first = self.first.as_deref().unwrap_or_default();
        let first: Vec<_> = first.iter().map(|it| format!("{it:?}")).collect();
        let first = match first.join(", ") {
            first if first.is_empty() => String::new(),
            first => format!("the partitions that begin with {first}"),
        };
        let paused = if self.paused { ", paused" } else { "" };
        let serves = match (self.percent, self.first.is_some(), first.is_empty()) {
            (_, false, _) => "all partitions, and is watched".to_owned(),
            (0.0, true, false) => first,
            (percent, true, true) => format!("{percent}% of the partitions"),
            (percent, true, false) => format!("{first}, and {percent}% of the others"),
        };
        let steps = self.steps.join(", ");
        let steps = match self.first {
            Some(_) => format!(" (steps: {steps})"),
            None => String::new(),
        };
        format!("{generation} serves {}{steps}{paused}", Printable(&serves))
    }

    fn shown(&self) -> String {
        let mut shown = self.what() + "\n";
        let Self {
            answered, failed, ..
        } = self;
        let _ = writeln!(shown, "  {answered} requests answered, {failed} failed");
        let mut waits = Vec::new();
        if self.paused {
            waits.push("an operator".to_owned());
        }
        if self.waits_s > 0.0 {
            let time = Duration::try_from_secs_f64(self.waits_s).unwrap_or_default();
            waits.push(format_duration(time).to_string());
        }
        if self.waits_requests > 0 {
            waits.push(format!("{} more requests", self.waits_requests));
        }
        let shards = self.waits_for_shards.iter();
        waits.extend(shards.map(|shard| format!("shard {shard}")));
        if !waits.is_empty() {
            let _ = writeln!(shown, "  waits for {}", waits.join(", "));
        }
        shown
    }
}

fn short(digest: &str) -> Printable<'_> {
    Printable(digest.get(..12).unwrap_or(digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(answer: serde_json::Value) -> Standing {
        serde_json::from_value(answer).unwrap()
    }

    fn watch(percent: f64, first: Option<&[&str]>) -> serde_json::Value {
        serde_json::json!({
            "generation": 8, "digest": "a".repeat(64), "percent": percent, "first": first,
            "steps": ["1%", "10%", "100%"], "paused": false, "answered": 1234, "failed": 1,
            "waits_s": 90.0, "waits_requests": 5, "waits_for_shards": [2], "new": "later",
        })
    }

    #[test]
    fn a_step_is_shown_with_what_it_waits_for() {
        let shown = standing(serde_json::json!({ "watch": watch(10.0, Some(&[])) })).shown();
        assert_eq!(
            shown,
            "generation 8 (aaaaaaaaaaaa) serves 10% of the partitions (steps: 1%, 10%, 100%)\n  1234 requests answered, 1 failed\n  waits for 1m 30s, 5 more requests, shard 2\n"
        );
        let of = |percent, first| standing(serde_json::json!({ "watch": watch(percent, first) }));
        let line = of(0.0, Some(&["test/", "own/"])).line();
        assert!(
            line.contains("serves the partitions that begin with \"test/\", \"own/\" (steps"),
            "{line}"
        );
        let line = of(10.0, Some(&["test/"])).line();
        assert!(line.contains("\"test/\", and 10% of the others"), "{line}");
        let line = of(100.0, None).line();
        assert!(
            line.ends_with("serves all partitions, and is watched"),
            "{line}"
        );
    }

    #[test]
    fn what_was_gone_back_from_is_told_with_why() {
        let answer = serde_json::json!({
            "held": "b".repeat(64),
            "went_back": {
                "generation": 9, "digest": "b".repeat(64), "why": "it \u{1b}traps", "by_operator": false,
                "unix_time": 1_800_000_000, "failed": null,
            },
        });
        assert_eq!(
            standing(answer).shown(),
            "no generation is in its steps, or watched\nat 2027-01-15T08:00:00Z, all shards went back from generation 9 (bbbbbbbbbbbb): it \\u{1b}traps\nthe ConfigMap shows bbbbbbbbbbbb, which does not go live before it has changed\n"
        );
    }

    fn failed(now: &serde_json::Value, before: &serde_json::Value, after: &str) -> Option<String> {
        let (now, before) = (standing(now.clone()), standing(before.clone()).past());
        let after = (!after.is_empty()).then(|| after.parse().unwrap());
        Some(now.failed(&before, after)?.to_string())
    }

    #[test]
    fn what_is_refused_since_the_mark_has_failed() {
        let refused = |unix_time: u64, will_retry| {
            serde_json::json!({
                "release": { "number": 3 },
                "refused": {
                    "step": "verify", "reason": "no", "unix_time": unix_time, "will_retry": will_retry,
                },
            })
        };
        let (nothing, now) = (serde_json::json!({}), refused(100, false));
        let told = Some("what the ConfigMap shows is refused: step verify: no".to_owned());
        assert_eq!(failed(&now, &nothing, ""), told);
        // It was refused before the command began, and before or after the ConfigMap changed.
        assert_eq!(failed(&now, &now, "3"), None);
        assert_eq!(failed(&now, &now, "3@101"), None);
        assert_eq!(failed(&now, &now, "3@100"), told);
        assert_eq!(failed(&refused(100, true), &nothing, "3@100"), None);
    }

    #[test]
    fn what_was_gone_back_from_has_failed_whoever_did_it() {
        let nothing = serde_json::json!({ "release": { "number": 3 } });
        let held = |number: u64| serde_json::json!({ "release": { "number": number }, "held": "b".repeat(64) });
        let told = "what the ConfigMap shows, bbbbbbbbbbbb, does not go live before it has changed: it was gone back from";
        assert_eq!(failed(&held(5), &nothing, "3").as_deref(), Some(told));
        assert_eq!(failed(&held(5), &nothing, "").as_deref(), Some(told));
        // It was before: what is to take its place has not been seen yet.
        assert_eq!(failed(&held(5), &held(5), "5"), None);
        assert_eq!(failed(&held(5), &held(5), ""), None);
        let mut back = nothing.clone();
        back["went_back"] = serde_json::json!({
            "generation": 4, "digest": "b".repeat(64), "why": "it traps", "unix_time": 100, "failed": null,
        });
        let told = "all shards went back from generation 4: it traps";
        assert_eq!(failed(&back, &back, "3").as_deref(), Some(told));
        assert_eq!(failed(&back, &back, "4"), None);
        back["went_back"]["failed"] = "generation 3 is no longer kept".into();
        let told = "generation 4 stays live though it traps: it cannot be gone back: generation 3 is no longer kept";
        assert_eq!(failed(&back, &nothing, "").as_deref(), Some(told));
    }

    #[test]
    fn a_mark_is_a_number_with_a_time_or_without() {
        let mark = |generation, unix_time| {
            Ok(Mark {
                generation,
                unix_time,
            })
        };
        assert_eq!("3".parse(), mark(3, None));
        assert_eq!("3@1764592872".parse(), mark(3, Some(1_764_592_872)));
        for wrong in ["", "@", "3@", "@4", "3@4@5", "-1", "3 @4"] {
            assert!(wrong.parse::<Mark>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_prepared_yet_is_told_by_shard() {
        let standing = standing(serde_json::json!({
            "candidate": "c".repeat(64),
            "shards": [
                { "shard": 0, "state": "prepared", "step": null, "reason": null },
                { "shard": 1, "state": "refused", "step": "check", "reason": "no" },
            ],
        }));
        assert_eq!(
            standing.shown(),
            "content cccccccccccc is to go live: shard 1 is refused: no\n"
        );
        assert_eq!(standing.refused_by().as_deref(), Some("shard 1: no"));
    }
}
