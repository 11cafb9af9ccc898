//! A person's commands to a set, from its prompt or from `ostrakon dev ctl`.

use std::fmt::Write as _;
use std::str::FromStr;

use ostrakon_base::printable::Printable;

use super::handle::{Handle, Refusal};
use super::news::Standing;

pub(super) const HELP: &str = "\
scale N         change the number of shards; data moves, and nothing is lost
restart         restart all shards, one after another, the last first
kill N          kill shard N with SIGKILL; it is restarted
pause N         halt shard N with SIGSTOP, like a machine that hangs
resume N        let shard N continue
status [--json] show the state of all shards
stop            end all shards, the last first; so do quit, exit and Ctrl-C
help            show this list";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// An empty line.
    Nothing,
    /// Changes the number of shards to this one.
    Scale(u32),
    Restart,
    Kill(u32),
    /// Halts the shard's process with SIGSTOP.
    Pause(u32),
    Resume(u32),
    Status {
        json: bool,
    },
    /// Ends all shards, the last first.
    Stop,
    Help,
}

/// Why a text is not a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoOrder {
    #[error(
        "there is no command {0:?}: write scale, restart, kill, pause, resume, status, stop or help"
    )]
    Unknown(String),
    /// The arguments are wrong. The text shows the right ones.
    #[error("write {0}")]
    Arguments(&'static str),
}

impl FromStr for Order {
    type Err = NoOrder;

    fn from_str(line: &str) -> Result<Self, NoOrder> {
        let words: Vec<_> = line.split_whitespace().collect();
        let Some((&command, arguments)) = words.split_first() else {
            return Ok(Self::Nothing);
        };
        let number = |usage| match arguments {
            [number] => number.parse().map_err(|_| NoOrder::Arguments(usage)),
            _ => Err(NoOrder::Arguments(usage)),
        };
        let alone = |order, usage| match arguments {
            [] => Ok(order),
            _ => Err(NoOrder::Arguments(usage)),
        };
        match command {
            "scale" => number("`scale N`, with N the number of shards").map(Self::Scale),
            "kill" => number("`kill N`, with N a shard from 0").map(Self::Kill),
            "pause" => number("`pause N`, with N a shard from 0").map(Self::Pause),
            "resume" => number("`resume N`, with N a shard from 0").map(Self::Resume),
            "restart" => alone(Self::Restart, "`restart`, which restarts all shards"),
            "status" if arguments == ["--json"] => Ok(Self::Status { json: true }),
            "status" => alone(Self::Status { json: false }, "`status` or `status --json`"),
            "stop" | "quit" | "exit" => alone(Self::Stop, "`stop`, which ends all shards"),
            "help" | "?" => alone(Self::Help, "`help`"),
            _ => Err(NoOrder::Unknown(command.to_owned())),
        }
    }
}

impl Order {
    /// Carries the command out and returns its output. With `wait`, returns once it is done;
    /// otherwise a long command is only begun, and its events report the progress.
    pub(super) async fn carry_out(self, handle: &Handle, wait: bool) -> Result<String, Refusal> {
        Ok(match self {
            Self::Nothing => String::new(),
            Self::Help => HELP.to_owned(),
            Self::Status { json: false } => table(&handle.standing().await?),
            Self::Status { json: true } => {
                let standing = handle.standing().await?;
                serde_json::to_string(&standing).expect("numbers and texts can be encoded")
            }
            Self::Kill(shard) => {
                let pid = handle.kill(shard).await?;
                format!("shard {shard}, process {pid}: killed")
            }
            Self::Pause(shard) => {
                let pid = handle.pause(shard).await?;
                format!("shard {shard}, process {pid}: halted until `resume {shard}`")
            }
            Self::Resume(shard) => {
                let pid = handle.resume(shard).await?;
                format!("shard {shard}, process {pid}: resumed")
            }
            Self::Scale(shards) => {
                handle.scale(shards)?;
                if !wait {
                    return Ok(String::new());
                }
                match handle.settled().await?.wanted {
                    wanted if wanted == shards => have_everything(shards),
                    wanted => format!("{wanted} shards are wanted now, and have everything"),
                }
            }
            Self::Restart => {
                handle.restart()?;
                if !wait {
                    return Ok(String::new());
                }
                let shards = handle.settled().await?.wanted;
                format!("{shards} shards were restarted")
            }
            Self::Stop => {
                handle.stop();
                if wait {
                    handle.ended().await;
                }
                String::new()
            }
        })
    }
}

/// The output when no data is moving.
pub(super) fn have_everything(shards: u32) -> String {
    match shards {
        1 => "1 shard has everything".to_owned(),
        shards => format!("{shards} shards have everything"),
    }
}

/// The state of a set as a table for people.
fn table(standing: &Standing) -> String {
    let mut text = String::new();
    let head = [
        "shard",
        "address",
        "process",
        "state",
        "restarts",
        "generation",
        "entries",
    ];
    let rows = standing.shards.iter().map(|shard| {
        let seen = shard.observation.as_ref();
        let live = seen.and_then(|seen| seen.generation.as_ref());
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        [
            shard.ordinal.to_string(),
            shard.address.to_string(),
            or_none(shard.pid.map(|pid| pid.to_string())),
            shard.state.to_owned(),
            shard.restarts.to_string(),
            or_none(live.map(|live| format!("{}, {}", live.generation, Printable(&live.name)))),
            or_none(seen.map(|seen| seen.store.entries.to_string())),
        ]
    });
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned))
        .chain(rows)
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let coordinator = standing
        .shards
        .first()
        .and_then(|shard| shard.observation.as_ref());
    let placed = match coordinator.and_then(|seen| seen.topology) {
        Some(topology) if topology.stable => have_everything(topology.shards),
        Some(topology) => format!(
            "data moves from {} shards to {}",
            topology.shards_before, topology.shards
        ),
        None => "the location of the data is unknown".to_owned(),
    };
    let _ = write!(text, "{} shards are wanted; {placed}", standing.wanted);
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ostrakon_test_support::pages::{code, rows};

    use super::*;

    fn check(line: &str, expected: Result<Order, &str>) {
        let parsed = line.parse::<Order>().map_err(|error| error.to_string());
        assert_eq!(parsed, expected.map_err(str::to_owned), "{line:?}");
    }

    /// The first word of each command.
    fn words<'a>(commands: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
        let words = commands.into_iter();
        words
            .filter_map(|command| command.split(' ').next())
            .collect()
    }

    #[test]
    fn the_reference_and_the_help_have_exactly_these_commands() {
        let all = [
            Order::Scale(1),
            Order::Restart,
            Order::Kill(1),
            Order::Pause(1),
            Order::Resume(1),
            Order::Status { json: true },
            Order::Stop,
            Order::Help,
        ];
        // One more is noticed here.
        let all = all.map(|order| match order {
            Order::Nothing => "",
            Order::Scale(_) => "scale",
            Order::Restart => "restart",
            Order::Kill(_) => "kill",
            Order::Pause(_) => "pause",
            Order::Resume(_) => "resume",
            Order::Status { .. } => "status",
            Order::Stop => "stop",
            Order::Help => "help",
        });
        assert_eq!(words(HELP.lines()), BTreeSet::from(all), "help");
        let rows = rows(include_str!("../../README.md"), "| command at the prompt |");
        let shown: Vec<_> = rows.iter().flat_map(|row| code(row[0])).collect();
        for command in &shown {
            let parsed = command.replace('N', "1").parse::<Order>();
            assert!(parsed.is_ok(), "{command}: {parsed:?}");
        }
        let mut shown = words(shown);
        shown.insert("help");
        assert_eq!(shown, BTreeSet::from(all), "host/README.md");
    }

    #[test]
    fn commands_are_words_with_space_between() {
        check("", Ok(Order::Nothing));
        check("  \t", Ok(Order::Nothing));
        check(" scale  5 ", Ok(Order::Scale(5)));
        check("kill 0", Ok(Order::Kill(0)));
        check("pause 1", Ok(Order::Pause(1)));
        check("resume 1", Ok(Order::Resume(1)));
        check("restart", Ok(Order::Restart));
        check("status", Ok(Order::Status { json: false }));
        check("status --json", Ok(Order::Status { json: true }));
        for end in ["stop", "quit", "exit"] {
            check(end, Ok(Order::Stop));
        }
        check("help", Ok(Order::Help));
    }

    #[test]
    fn what_is_no_command_is_told_what_to_write() {
        check(
            "sclae 5",
            Err(
                "there is no command \"sclae\": write scale, restart, kill, pause, resume, status, stop or help",
            ),
        );
        for line in ["scale", "scale x", "scale -1", "scale 1 2"] {
            check(line, Err("write `scale N`, with N the number of shards"));
        }
        check("kill", Err("write `kill N`, with N a shard from 0"));
        check(
            "restart 1",
            Err("write `restart`, which restarts all shards"),
        );
        check("status now", Err("write `status` or `status --json`"));
    }
}
