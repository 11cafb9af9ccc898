//! `ostrakon dev`: a StatefulSet on this machine.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use ostrakon_dev::{
    self as dev, Addresses, Backoff, CallError, Error, MAX_SHARDS, Numbers, Propagation, Session,
    Source, StartError, StateDirectoryError,
};
use ostrakon_toolchain::search;

use super::build::CompiledFor;
use super::{Exit, Failure, say, time};

/// Run a StatefulSet on this machine: each shard a process with its own address and data.
///
/// Shards start in order and end in reverse order, and a shard that dies is restarted. All
/// shards get one ConfigMap and one Secret, as from the kubelet. With --guest, the guest is
/// built, and on each save it is built and swapped again.
///
/// `scale N` at the prompt changes the number of processes and the number of shards that data
/// is spread over: `cluster.shards` is set in the copies of ostrakon.toml that the shards see;
/// the file itself stays as it is. The number is kept for the next start.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  ostrakon dev --guest guest/kv                build it, run three shards, swap on each save
  ostrakon dev --config-dir config --shards 5  with a guest.wasm in config
  ostrakon dev ctl scale 5                     from another terminal

At the prompt, and for ctl:
  scale N, restart, kill N, pause N, resume N, status [--json], stop, help"
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ctl(Ctl),
}

/// Send a command to a running `ostrakon dev`, and wait until it is done.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ostrakon dev ctl status
  ostrakon dev ctl scale 5")]
struct Ctl {
    /// Its state directory [default: the one in .ostrakon that is in use]
    #[arg(long, env = "OSTRAKON_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
    /// The command, as at the prompt.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct Run {
    /// The directory of a guest's crate, built on each save [default: the working directory]
    #[arg(
        long,
        env = "OSTRAKON_GUEST",
        value_name = "DIR",
        conflicts_with = "config_dir"
    )]
    guest: Option<PathBuf>,
    /// A directory with the ConfigMap's files, including guest.wasm; published on each save.
    #[arg(long, env = "OSTRAKON_CONFIG_DIR", value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// A directory with the Secret's files [default: secrets in the state directory]
    #[arg(long, env = "OSTRAKON_SECRETS_DIR", value_name = "DIR")]
    secrets_dir: Option<PathBuf>,
    /// The directory for data, logs and settings [default: .ostrakon/NAME, here or above]
    #[arg(long, env = "OSTRAKON_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
    /// The number of shards [default: the last number, at first 3]
    #[arg(long, env = "OSTRAKON_SHARDS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SHARDS)))]
    shards: Option<u32>,
    /// The first shard's address, a loopback address that ends in .1; the next shard has .2,
    /// and so on.
    #[arg(
        long,
        env = "OSTRAKON_ADDRESS",
        value_name = "ADDRESS",
        default_value = "127.0.0.1"
    )]
    address: Ipv4Addr,
    /// The port for clients.
    #[arg(long, env = "OSTRAKON_PORT", default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// The port for operators.
    #[arg(long, env = "OSTRAKON_ADMIN_PORT", default_value_t = 9090, value_parser = clap::value_parser!(u16).range(1..))]
    admin_port: u16,
    /// The port for peers.
    #[arg(long, env = "OSTRAKON_PEER_PORT", default_value_t = 7070, value_parser = clap::value_parser!(u16).range(1..))]
    peer_port: u16,
    /// The delay after which shards see a change: one time for each, 0s,5s,30s, or a range,
    /// 0s..60s.
    #[arg(
        long,
        env = "OSTRAKON_PROPAGATION",
        value_name = "TIMES",
        default_value = "0s"
    )]
    propagation: Propagation,
    /// How long a shard may take to end before it is killed.
    #[arg(long, env = "OSTRAKON_GRACE", value_name = "TIME", default_value = "30s", value_parser = time)]
    grace: Duration,
    /// The shards' log filter; each logs to shard-N/log in the state directory.
    #[arg(
        long,
        env = "OSTRAKON_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    log: String,
    #[command(flatten)]
    target: CompiledFor,
    /// Another directory in which a save triggers a build; can be given more than once.
    #[arg(long, value_name = "DIR")]
    watch: Vec<PathBuf>,
    /// More arguments for each shard's `ostrakon serve`.
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            Some(Command::Ctl(ctl)) => ctl.run(),
            None => self.run.run(),
        }
    }
}

impl Ctl {
    fn run(self) -> Result<(), Failure> {
        let said = dev::call(self.state.as_deref(), &self.words.join(" "));
        match said {
            Ok(said) if said.is_empty() => Ok(()),
            Ok(said) => say(&format!("{said}\n")),
            Err(error) => {
                let exit = match error {
                    CallError::Misunderstood(_) | CallError::Several(_) => Exit::Usage,
                    _ => Exit::Unavailable,
                };
                Err(Failure::new(exit, error))
            }
        }
    }
}

impl Run {
    fn run(self) -> Result<(), Failure> {
        let addresses = Addresses::new(self.address, self.port, self.admin_port, self.peer_port);
        let addresses = addresses.ok_or_else(|| {
            let reason = "--address must be a loopback address that ends in .1, such as 127.0.5.1";
            Failure::new(Exit::Usage, reason)
        })?;
        let binary = std::env::current_exe().map_err(Failure::with(Exit::Internal))?;
        let source = match (self.guest, self.config_dir) {
            (None, Some(config)) => Source::Config(config),
            (guest, _) => Source::Guest(guest.unwrap_or_else(|| PathBuf::from("."))),
        };
        let session = Session {
            source,
            secrets: self.secrets_dir,
            state: self.state,
            watched: self.watch,
            target: self.target.into(),
            options: dev::Options {
                binary,
                shards: self.shards,
                addresses,
                grace: self.grace,
                numbers: Numbers::default(),
                propagation: self.propagation,
                backoff: Backoff::default(),
                log: self.log,
                arguments: [own_arguments(), self.arguments].concat(),
                environment: Vec::new(),
            },
        };
        session
            .run()
            .map_err(|error| Failure::new(exit_of(&error), error))
    }
}

/// What each save is tried with, before the arguments of the command line.
fn own_arguments() -> Vec<OsString> {
    ["--keep-requests", "200"].map(OsString::from).into()
}

fn exit_of(error: &Error) -> Exit {
    match error {
        Error::NoSource { .. }
        | Error::NoCrate(_)
        | Error::Toolchain(search::Error::UnknownWay(_)) => Exit::Usage,
        Error::StateDirectory(error) => match error {
            StateDirectoryError::Other { .. } | StateDirectoryError::NotOurs(_) => Exit::Usage,
            StateDirectoryError::InUse(_) => Exit::InUse,
            StateDirectoryError::Damaged { .. } => Exit::Damaged,
            StateDirectoryError::Newer { .. } | StateDirectoryError::Io { .. } => Exit::Io,
        },
        Error::Ctl { .. } => Exit::Io,
        Error::Start(StartError::Taken { .. }) | Error::Toolchain(_) => Exit::Unavailable,
        Error::Start(StartError::System(_)) | Error::System(_) => Exit::Internal,
    }
}
