//! The command line: the commands, and the process's exit codes.

mod build;
mod check;
mod client;
mod compact;
mod compile;
mod dev;
mod exit;
mod history;
mod inspect;
mod manifest;
mod new;
mod ordinal;
mod otlp;
mod pack;
#[cfg(test)]
mod pages;
mod peers;
mod plan;
mod progress;
mod rehearse;
mod rollout;
mod secretive;
mod serve;
mod status;
mod watch;

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use humantime_serde::re::humantime::parse_duration;

pub(crate) use exit::Exit;

use ostrakon_base::causes::with_causes;
use ostrakon_base::printable::Printable;
use ostrakon_observe::telemetry::Format;

/// Stateful services on Kubernetes whose code changes without a restart.
///
/// One process runs one shard: it owns the network, the volumes and the data. The service's
/// logic is a Wasm component, the guest, which comes in a ConfigMap and is replaced while
/// requests run.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  ostrakon new polls                           write a new guest that builds and runs
  ostrakon dev --guest guest/kv                run three shards here, swap on each save
  ostrakon build guest/kv -o kv.wasm           make a component of a guest's crate
  ostrakon inspect kv.wasm                     see what it is
  ostrakon pack --name kv --guest kv.wasm | kubectl apply --server-side -f -
  ostrakon serve --config-dir /etc/ostrakon/config --data-dir /var/lib/ostrakon
  ostrakon status                              how the shard on this machine is
  ostrakon status --watch                      how far partitions have moved
  ostrakon plan --shards 5                     what more shards would move
  ostrakon rehearse --guest new.wasm           try a guest with live requests
  ostrakon rollout status                      which generation is in its steps, or watched
  ostrakon history                             which generations there were
  ostrakon rollback                            go back to the one before
  ostrakon compact                             give back the space that data no longer needs
  ostrakon check /var/lib/ostrakon             whether a stopped shard's data is whole
  ostrakon drain                               for a preStop hook

Exit codes:
   0  done
   1  a drain's deadline passed, or a second signal ended it: requests were cut off
  64  wrong arguments or configuration: the message says what to change
  65  the data is damaged: the message says what
  69  a port is taken, or nobody answers at an address
  70  this machine cannot run guests, or a failure of ostrakon itself
  74  a file or directory cannot be read or written, or a later version wrote it
  75  the data or state directory is in use by another process
  76  peers said that this process must not go on, and no longer confirm it: start it again";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Arguments>),
    Dev(dev::Arguments),
    New(new::Arguments),
    Build(build::Arguments),
    Compile(compile::Arguments),
    Inspect(inspect::Arguments),
    Pack(pack::Arguments),
    Status(status::Arguments),
    Check(check::Arguments),
    Plan(plan::Arguments),
    Rehearse(rehearse::Arguments),
    Rollout(rollout::Arguments),
    History(history::HistoryArguments),
    Rollback(history::RollbackArguments),
    Compact(compact::Arguments),
    Drain(client::DrainArguments),
}

/// Runs the command of the arguments, and returns how it ended.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output, the rest to standard error; either may be closed.
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                    let _ = error.print();
                    Exit::Done
                }
                _ => {
                    aside(move || {
                        let _ = error.print();
                    });
                    Exit::Usage
                }
            };
        }
    };
    let result = match cli.command {
        Command::Serve(arguments) => arguments.run(),
        Command::Dev(arguments) => arguments.run(),
        Command::New(arguments) => arguments.run(),
        Command::Build(arguments) => arguments.run(),
        Command::Compile(arguments) => return arguments.run(),
        Command::Inspect(arguments) => arguments.run(),
        Command::Pack(arguments) => arguments.run(),
        Command::Status(arguments) => arguments.run(),
        Command::Check(arguments) => arguments.run(),
        Command::Plan(arguments) => arguments.run(),
        Command::Rehearse(arguments) => arguments.run(),
        Command::Rollout(arguments) => arguments.run(),
        Command::History(arguments) => arguments.run(),
        Command::Rollback(arguments) => arguments.run(),
        Command::Compact(arguments) => arguments.run(),
        Command::Drain(arguments) => arguments.run(),
    };
    result.map_or_else(
        |failure| {
            failure.tell();
            failure.exit
        },
        |()| Exit::Done,
    )
}

/// Why a command failed, and the exit code.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    source: Box<dyn std::error::Error>,
    log: Option<(Format, Option<u32>)>,
}

impl Failure {
    fn new(exit: Exit, source: impl Into<Box<dyn std::error::Error>>) -> Self {
        Self {
            exit,
            source: source.into(),
            log: None,
        }
    }

    /// Marks the failure as that of a process with a log of this format, and of this shard, if
    /// it is known.
    fn of_a_log(mut self, format: Format, shard: Option<u32>) -> Self {
        self.log = Some((format, shard));
        self
    }

    /// Prints the failure, as the last line.
    fn tell(&self) {
        let (format, shard) = self.log.unwrap_or((Format::Human, None));
        write_aside(format.last_line(shard, &self.line()));
    }

    /// The failure and its causes, in one line.
    fn line(&self) -> String {
        with_causes(&*self.source)
    }

    /// Makes a failure of any error, for `map_err`.
    fn with<E: std::error::Error + 'static>(exit: Exit) -> impl FnOnce(E) -> Self {
        move |source| Self::new(exit, source)
    }
}

/// Writes to standard output. If that fails, the command fails.
fn say(text: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        // The reader has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Failure::with(Exit::Io)),
    }
}

/// A time to wait, such as `250ms`; more than nothing.
fn time(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("write a time of more than 0, such as 250ms, 5s or 2m".to_owned()),
    }
}

/// An address and port; `localhost` is 127.0.0.1.
fn address(text: &str) -> Result<SocketAddr, String> {
    let address = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    let address = address.parse();
    address.map_err(|_| "write an IP address and a port, such as 127.0.0.1:8080".to_owned())
}

/// Whether a text is a host name or IP address, and a port.
fn is_authority(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let of_a_host = |c: char| c.is_ascii_alphanumeric() || "-._:[]%".contains(c);
        let is_port = port.parse().is_ok_and(|port: u16| port > 0);
        is_port && !host.is_empty() && host.chars().all(of_a_host)
    })
}

/// How long writing a line to standard error may take.
const ASIDE: Duration = Duration::from_secs(1);

/// Writes a line to standard error, where hints and errors go. The process ends even if nothing
/// reads its last line.
fn say_aside(line: &str) {
    write_aside(format!("{}\n", Printable(line)));
}

fn write_aside(line: String) {
    aside(move || {
        // If standard error is closed, there is no reader.
        let _ = io::stderr().write_all(line.as_bytes());
    });
}

fn aside(say: impl FnOnce() + Send + 'static) {
    let (said, saying) = mpsc::channel();
    let spawned = thread::Builder::new().spawn(move || {
        say();
        let _ = said.send(());
    });
    if spawned.is_ok() {
        let _ = saying.recv_timeout(ASIDE);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;
    use ostrakon_test_support::pages::{code, rows, section};

    use super::*;

    const REFERENCE: &str = include_str!("../../../README.md");

    fn first_code(cell: &str) -> &str {
        code(cell).next().unwrap_or_default()
    }

    /// The rows of the table of a command's flags; none if the page says that there are none.
    fn flags_of(name: &str) -> Vec<Vec<&'static str>> {
        let section = section(REFERENCE, &format!("### `{name}`"));
        if section.contains("It has no flags.") {
            return Vec::new();
        }
        rows(section, "| flag | environment | default |")
    }

    /// Checks each flag of a command and of its subcommands: name, variable and default.
    fn check_flags(command: &clap::Command, name: &str) {
        let rows = flags_of(name);
        let shown: BTreeSet<_> = rows
            .iter()
            .map(|cells| first_code(cells[0]).split(' ').next().unwrap_or_default())
            .filter(|flag| *flag != "--")
            .collect();
        let flags = command.get_arguments().filter(|flag| {
            !flag.is_hide_set() && flag.get_long().is_some_and(|long| long != "help")
        });
        let mut all = BTreeSet::new();
        for flag in flags {
            let long = format!("--{}", flag.get_long().expect("each flag has a long name"));
            let row = rows
                .iter()
                .find(|cells| first_code(cells[0]).split(' ').next() == Some(long.as_str()));
            let row = row.unwrap_or_else(|| panic!("{name} {long} is not in host/README.md"));
            let variable = flag.get_env().and_then(|name| name.to_str());
            assert_eq!(
                first_code(row[1]),
                variable.unwrap_or_default(),
                "{name} {long}"
            );
            for default in flag.get_default_values() {
                let default = default.to_str().expect("the default is a text");
                let is_flag = !flag.get_action().takes_values();
                assert!(
                    is_flag || row[2].trim_matches('`') == default,
                    "{name} {long} is {default}, and not {}",
                    row[2]
                );
            }
            if flag.is_required_set() {
                assert_eq!(row[2], "required", "{name} {long}");
            }
            all.insert(long);
        }
        let all: BTreeSet<_> = all.iter().map(String::as_str).collect();
        assert_eq!(shown, all, "{name}");
        for command in command.get_subcommands() {
            if !command.is_hide_set() && command.get_name() != "help" {
                check_flags(command, &format!("{name} {}", command.get_name()));
            }
        }
    }

    #[test]
    fn the_reference_has_exactly_the_flags_of_each_command() {
        let cli = Cli::command();
        for command in cli
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
        {
            check_flags(command, &format!("ostrakon {}", command.get_name()));
        }
    }

    #[test]
    fn the_reference_has_exactly_the_ports_with_their_default_addresses() {
        let cli = Cli::command();
        let serve = cli.find_subcommand("serve").expect("it is a command");
        let all = ["listen", "peer_listen", "admin"].map(|flag| {
            let mut flags = serve.get_arguments();
            let flag = flags.find(|argument| argument.get_id() == flag);
            let defaults = flag.expect("it is a flag").get_default_values();
            format!("`{}`", defaults[0].to_str().expect("it is a text"))
        });
        let shown = rows(REFERENCE, "| port | default | protocol |");
        let names: Vec<_> = shown.iter().map(|row| row[0]).collect();
        assert_eq!(names, ["public", "peer", "admin"], "host/README.md");
        let shown: Vec<_> = shown.iter().map(|row| row[1]).collect();
        assert_eq!(shown, all, "host/README.md");
    }

    #[test]
    fn the_reference_has_exactly_the_variables_that_are_read_beside_flags() {
        let sources = [include_str!("serve.rs"), include_str!("ordinal.rs")];
        let read = sources.iter().flat_map(|source| {
            let calls = ["set(\"", "env::var(\""].into_iter();
            calls.flat_map(|call| source.split(call).skip(1))
        });
        let all = read.filter_map(|rest| rest.split('"').next());
        let rows = rows(REFERENCE, "| variable | meaning |");
        let shown = rows.iter().flat_map(|row| code(row[0]));
        assert_eq!(
            shown.collect::<BTreeSet<_>>(),
            all.collect(),
            "host/README.md, and the variables that are read"
        );
    }

    #[test]
    fn the_reference_and_the_help_have_exactly_the_exit_codes() {
        let all: BTreeSet<_> = Exit::ALL.iter().map(|exit| *exit as u8).collect();
        let shown = rows(section(REFERENCE, "### Exit codes"), "| code | meaning |");
        let shown: BTreeSet<u8> = shown
            .iter()
            .map(|cells| cells[0].parse().expect("the code is a number"))
            .collect();
        assert_eq!(shown, all, "host/README.md");
        let (_, help) = AFTER_HELP
            .split_once("Exit codes:")
            .expect("the help lists the exit codes");
        let helped = help
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        let helped: BTreeSet<u8> = helped
            .map(|code| code.parse().expect("the code is a number"))
            .collect();
        assert_eq!(helped, all, "--help");
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_error_is_one_line_with_its_causes_each_told_once() {
        let cause = io::Error::other("the disk is gone");
        let error = crate::app::Error::System(cause);
        assert_eq!(
            Failure::new(Exit::Io, error).line(),
            "the system refuses a resource that the shard needs: the disk is gone"
        );
    }
}
