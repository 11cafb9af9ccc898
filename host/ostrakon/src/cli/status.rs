//! `ostrakon status`: shows the state of a shard, and the progress of a change.

use std::fmt::Write;
use std::io::IsTerminal as _;
use std::thread;
use std::time::Duration;

use http::Method;
use ostrakon_base::printable::Printable;
use serde_json::Value;

use super::client::Port;
use super::peers;
use super::progress::Progress;
use super::watch::Watch;
use super::{Exit, Failure, say, time};

/// Show a shard's state: its generation, what was refused and why, its store and writer.
///
/// While partitions move, the coordinator, shard 0, shows the progress of all shards, and each
/// other shard shows its own.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ostrakon status
  ostrakon status --watch
  ostrakon status --json | jq .refused")]
pub(super) struct Arguments {
    #[command(flatten)]
    port: Port,
    /// Print the shard's JSON.
    #[arg(long, env = "OSTRAKON_JSON")]
    json: bool,
    /// Show the progress of moving partitions repeatedly, until Ctrl-C. With --json, one line
    /// each time.
    #[arg(long)]
    watch: bool,
    /// The interval between two queries: at least 10 ms.
    #[arg(long, env = "OSTRAKON_INTERVAL", value_name = "TIME", default_value = "1s", value_parser = interval, requires = "watch")]
    interval: Duration,
    /// How long to wait for the answer.
    #[arg(long, env = "OSTRAKON_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = time)]
    timeout: Duration,
}

/// Parses an interval that is no busy loop.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = time(text).ok();
    let interval = interval.filter(|time| *time >= Duration::from_millis(10));
    interval.ok_or_else(|| "give at least 10ms, such as 500ms or 1s".to_owned())
}

/// The address is not that of a shard's admin port.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{address} is not the admin port of a shard: it answers something else; give --admin")]
    OtherJson { address: String },
    #[error("{address} is not the admin port of a shard: its status is not JSON; give --admin")]
    NotAStatus {
        address: String,
        #[source]
        source: serde_json::Error,
    },
}

impl Arguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.watch {
            return self.watch();
        }
        let mut status = self.ask()?;
        if self.json {
            return say(&format!("{status:#}\n"));
        }
        let problems = peers::problems(&status);
        let mut rows = peers::rows(&status, false);
        if !rows.is_empty() {
            rows.insert_str(0, "\nthe other shards:\n");
        }
        if let Some(status) = status.as_object_mut() {
            status.remove("problems");
        }
        let mut topology = status.get_mut("topology").and_then(Value::as_object_mut);
        let mut take = |part: &str| topology.as_mut().and_then(|topology| topology.remove(part));
        let _rows = take("peers");
        let progress = take("progress");
        let progress = progress.and_then(|progress| Progress::of(&progress));
        let moving = progress.filter(|progress| progress.moving);
        let progress = moving.map_or_else(String::new, |progress| {
            format!(
                "\npartitions on their way, by the shard that gives them:\n{}",
                progress.shown()
            )
        });
        say(&format!("{problems}{}{rows}{progress}", table(&status)))
    }

    /// Shows the status repeatedly; a query that fails may succeed the next time.
    fn watch(&self) -> Result<(), Failure> {
        let on_terminal = std::io::stdout().is_terminal();
        let mut watch = Watch::default();
        loop {
            let asked = self.ask();
            let shown = match (&asked, self.json, on_terminal) {
                (Ok(status), true, _) => format!("{status}\n"),
                (Err(failure), true, _) => {
                    format!("{}\n", serde_json::json!({ "error": failure.line() }))
                }
                (_, false, true) => watch.screen(&asked),
                (_, false, false) => watch.lines(&asked),
            };
            say(&shown)?;
            thread::sleep(self.interval);
        }
    }

    fn ask(&self) -> Result<Value, Failure> {
        let body = self.port.ask(Method::GET, "/status", self.timeout)?;
        let address = || self.port.address().to_owned();
        let status: Value = serde_json::from_slice(&body).map_err(|source| {
            let address = address();
            Failure::new(Exit::Unavailable, Error::NotAStatus { address, source })
        })?;
        if status.get("shard").is_none() {
            return Err(Failure::new(
                Exit::Unavailable,
                Error::OtherJson { address: address() },
            ));
        }
        Ok(status)
    }
}

/// A line for each value, under its path of names.
fn table(status: &Value) -> String {
    let mut rows = Vec::new();
    flatten("", status, &mut rows);
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().fold(String::new(), |mut text, (name, value)| {
        writeln!(text, "{name:<width$}  {value}").expect("writing to a string cannot fail");
        text
    })
}

fn flatten(name: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let name = if name.is_empty() {
                    field.clone()
                } else {
                    format!("{name}.{field}")
                };
                flatten(&name, value, rows);
            }
        }
        Value::Null => rows.push((name.to_owned(), "-".to_owned())),
        Value::String(text) => rows.push((name.to_owned(), Printable(text).to_string())),
        other => rows.push((name.to_owned(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_table_with_a_line_for_each_value() {
        let status = serde_json::json!({
            "shard": 3, "refused": null, "store": { "bytes": 4096 }, "generation": { "name": "kv" }
        });
        assert_eq!(
            table(&status),
            "generation.name  kv\nrefused          -\nshard            3\nstore.bytes      4096\n"
        );
    }
}
