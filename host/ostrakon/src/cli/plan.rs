//! `ostrakon plan`: shows what another number of shards, or another guest, would move.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use http::Method;
use ostrakon_base::printable::Printable;
use ostrakon_base::regular;
use ostrakon_cluster::plan::{Outcome, share};
use ostrakon_network::http::client::Question;
use ostrakon_settings::settings::MAX_SHARDS;
use ostrakon_shard::survey::Amount;
use ostrakon_volumes::volume::MAX_BYTES;

use super::client::{Port, Token};
use super::progress::grouped;
use super::{Exit, Failure, say, say_aside, time};

/// Show what another number of shards, or another guest, would move, without moving anything.
///
/// Each shard counts its data in the background with a guest's `owner`: that of the live guest,
/// or that of a component, which is checked with the live generation's settings, asked, and
/// dropped. No key leaves its shard. All shards must be running.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ostrakon plan --shards 5
  ostrakon plan --shards 3 --guest new.wasm
  ostrakon plan --shards 5 --json | jq .moved")]
pub(super) struct Arguments {
    /// The number of shards to plan for.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SHARDS)))]
    shards: u32,
    /// A component whose `owner` is asked instead of the live guest's, plain or packed by zstd.
    #[arg(long, value_name = "FILE")]
    guest: Option<PathBuf>,
    #[command(flatten)]
    port: Port,
    #[command(flatten)]
    token: Token,
    /// Print the shard's JSON.
    #[arg(long, env = "OSTRAKON_JSON")]
    json: bool,
    /// How long to wait for the answer.
    #[arg(long, env = "OSTRAKON_TIMEOUT", value_name = "TIME", default_value = "2m", value_parser = time)]
    timeout: Duration,
}

/// The input or the answer cannot be used.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} has more than {} MiB: no ConfigMap has room for it; make it with `ostrakon build`", MAX_BYTES >> 20)]
    Long { path: PathBuf },
    #[error("the answer is not a plan: are this command and the shard of one version?")]
    NotAPlan(#[source] serde_json::Error),
}

impl Arguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        let path = format!("/plan?shards={}", self.shards);
        // Read in any case: a file that cannot be read is a mistake, even if it is not needed.
        let authorization = self.token.read()?;
        let answer = match &self.guest {
            None => self.port.ask(Method::GET, &path, self.timeout)?,
            Some(guest) => {
                let question = Question {
                    body: component(guest)?,
                    authorization,
                };
                self.port
                    .send(Method::POST, &path, question, self.timeout)?
            }
        };
        if self.json {
            return say(&String::from_utf8_lossy(&answer));
        }
        let outcome = serde_json::from_slice::<Outcome>(&answer);
        let outcome =
            outcome.map_err(|source| Failure::new(Exit::Unavailable, Error::NotAPlan(source)))?;
        say(&shown(&outcome))?;
        for warning in &outcome.warnings {
            say_aside(&format!("warning: {warning}"));
        }
        Ok(())
    }
}

/// The bytes of a component that a ConfigMap has room for.
pub(super) fn component(path: &Path) -> Result<Bytes, Failure> {
    let read = regular::read(path, MAX_BYTES).map_err(|source| {
        let path = path.to_owned();
        if source.kind() == io::ErrorKind::FileTooLarge {
            Failure::new(Exit::Usage, Error::Long { path })
        } else {
            Failure::new(Exit::Io, Error::Read { path, source })
        }
    })?;
    Ok(read.into())
}

fn shown(outcome: &Outcome) -> String {
    let Outcome { total, moved, .. } = outcome;
    let guest = &outcome.guest;
    let mut text = format!(
        "from {} to {}, by `owner` of {} {} (sharding {}):\n\
         {} of {} partitions move ({}), and {} of {} ({})\n",
        shards(outcome.shards_now),
        shards(outcome.shards_then),
        Printable(&guest.name),
        Printable(&guest.version),
        guest.sharding,
        grouped(moved.partitions),
        grouped(total.partitions),
        percent(moved.partitions, total.partitions),
        ByteSize(moved.bytes),
        ByteSize(total.bytes),
        percent(moved.bytes, total.bytes),
    );
    if outcome.moving {
        text.push_str(
            "partitions move now: they are counted where they are at the moment, some of them twice; ask again when they have moved\n",
        );
    }
    let moves = outcome.moves.iter().map(|one| {
        let (from, to) = (one.from.to_string(), one.to.to_string());
        [
            vec![from, to],
            cells(one.amount),
            vec![percent(one.amount.partitions, total.partitions)],
        ]
        .concat()
    });
    if !outcome.moves.is_empty() {
        text.push('\n');
        text.push_str(&table(
            &["from", "to", "partitions", "bytes", "of all"],
            moves,
        ));
    }
    let each = outcome.shards.iter().map(|shard| {
        [
            vec![shard.shard.to_string()],
            cells(shard.now),
            cells(shard.then),
        ]
        .concat()
    });
    text.push('\n');
    text.push_str(&table(
        &[
            "shard",
            "partitions now",
            "bytes now",
            "partitions then",
            "bytes then",
        ],
        each,
    ));
    text
}

fn shards(count: u32) -> String {
    if count == 1 {
        return "1 shard".to_owned();
    }
    format!("{count} shards")
}

fn cells(amount: Amount) -> Vec<String> {
    vec![
        grouped(amount.partitions),
        ByteSize(amount.bytes).to_string(),
    ]
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.1} %", 100.0 * share(part, whole))
}

/// Columns as wide as needed, numbers aligned to the right.
fn table(heads: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let heads = heads.iter().map(|head| (*head).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(heads).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
    rows.iter().fold(String::new(), |mut text, row| {
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = if at == 0 { "" } else { "  " };
            write!(text, "{gap}{cell:>width$}").expect("writing to a string cannot fail");
        }
        text.push('\n');
        text
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plan_is_a_sentence_and_two_tables() {
        let outcome = json!({
            "shards_now": 1, "shards_then": 2, "moving": false,
            "guest": { "name": "kv", "version": "0.1.0", "sharding": 2 },
            "total": { "partitions": 4000, "bytes": 4096 },
            "moved": { "partitions": 1000, "bytes": 3072 },
            "moves": [{ "from": 0, "to": 1, "partitions": 1000, "bytes": 3072 }],
            "shards": [
                {
                    "shard": 0, "now": { "partitions": 4000, "bytes": 4096 },
                    "then": { "partitions": 3000, "bytes": 1024 },
                },
                {
                    "shard": 1, "now": { "partitions": 0, "bytes": 0 },
                    "then": { "partitions": 1000, "bytes": 3072 },
                },
            ],
            "warnings": [],
        });
        let mut outcome: Outcome = serde_json::from_value(outcome).unwrap();
        assert_eq!(
            shown(&outcome),
            "from 1 shard to 2 shards, by `owner` of kv 0.1.0 (sharding 2):\n\
             1,000 of 4,000 partitions move (25.0 %), and 3.0 KiB of 4.0 KiB (75.0 %)\n\
             \n\
             from  to  partitions    bytes  of all\n   \
                0   1       1,000  3.0 KiB  25.0 %\n\
             \n\
             shard  partitions now  bytes now  partitions then  bytes then\n    \
                 0           4,000    4.0 KiB            3,000     1.0 KiB\n    \
                 1               0        0 B            1,000     3.0 KiB\n"
        );
        outcome.moving = true;
        assert!(shown(&outcome).contains("\npartitions move now: "));
    }
}
