//! `ostrakon serve`: one shard, in a Pod or anywhere else.

use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;

use bytesize::ByteSize;

use super::{Exit, Failure, address, ordinal};
use crate::kubernetes::{ACCOUNT, Given, Place};
use crate::per_shard::PerShard;
use crate::store::OpenError;
use crate::{app, cluster, telemetry};

/// Run one shard until SIGTERM, SIGINT or a drain.
///
/// The guest and the settings are read from the ConfigMap's directory and swapped when it changes.
/// Each flag can be given by its environment variable instead; the flag counts more.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ostrakon serve --config-dir config --data-dir data --listen 127.0.0.1:8080 --admin 127.0.0.1:9090 --ordinal 0")]
pub(super) struct Arguments {
    /// The mounted ConfigMap: guest.wasm (or guest.wasm.zst), ostrakon.toml, the guest's settings.
    #[arg(long, env = "OSTRAKON_CONFIG_DIR", value_name = "DIR")]
    config_dir: PathBuf,
    /// Where the data is kept; made if it is not there. One process at a time.
    #[arg(long, env = "OSTRAKON_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// The mounted Secret; the guest sees its values by name.
    #[arg(long, env = "OSTRAKON_SECRETS_DIR", value_name = "DIR")]
    secrets_dir: Option<PathBuf>,
    /// The address for clients: HTTP/1.1, and h2 with prior knowledge.
    #[arg(
        long,
        env = "OSTRAKON_LISTEN",
        value_name = "ADDRESS",
        value_parser = address,
        default_value = "0.0.0.0:8080"
    )]
    listen: SocketAddr,
    /// The address for operators: /livez /readyz /startupz /status /metrics /drain.
    #[arg(
        long,
        env = "OSTRAKON_ADMIN",
        value_name = "ADDRESS",
        value_parser = address,
        default_value = "0.0.0.0:9090"
    )]
    admin: SocketAddr,
    /// Where the peers are, `{}` standing for the ordinal, `{1}` for the same counted from 1; this makes the shard one of several.
    #[arg(long, env = "OSTRAKON_PEERS", value_name = "HOST:PORT")]
    peers: Option<PerShard>,
    /// The address for peers, where there are any; without a certificate or token, a loopback one.
    #[arg(
        long,
        env = "OSTRAKON_PEER_LISTEN",
        value_name = "ADDRESS",
        value_parser = address,
        default_value = "127.0.0.1:7070"
    )]
    peer_listen: SocketAddr,
    /// The shard's ordinal [default: the number at the end of `POD_NAME` or of the host name]
    #[arg(long, env = "OSTRAKON_ORDINAL", value_name = "N", value_parser = number)]
    ordinal: Option<u32>,
    /// The StatefulSet that this Pod is of, where settings go by it or Events are posted [default: what is before the ordinal in `POD_NAME` or the host name]
    #[arg(long, env = "OSTRAKON_STATEFULSET", value_name = "NAME")]
    statefulset: Option<String>,
    /// The mounted ServiceAccount: token, ca.crt, namespace.
    #[arg(long, env = "OSTRAKON_SERVICE_ACCOUNT", value_name = "DIR", default_value = ACCOUNT)]
    service_account: PathBuf,
    /// The most memory for the store's pages.
    #[arg(
        long,
        env = "OSTRAKON_STORE_CACHE",
        value_name = "SIZE",
        value_parser = size,
        default_value = "64MiB"
    )]
    store_cache: ByteSize,
    /// What is logged: a level, or target=level pairs; `log.filter` of the settings counts more.
    #[arg(
        long,
        env = "OSTRAKON_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    log: String,
    /// The process that started this one: it is killed when that one ends.
    #[arg(long, value_name = "PID", hide = true)]
    with_parent: Option<u32>,
    /// How log lines are written.
    #[arg(
        long,
        env = "OSTRAKON_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "auto"
    )]
    log_format: telemetry::Format,
}

fn number(text: &str) -> Result<u32, String> {
    let number = text.parse();
    number.map_err(|_| "write a number from 0, such as 2".to_owned())
}

fn size(text: &str) -> Result<ByteSize, String> {
    let size = text.parse();
    size.map_err(|_| "write bytes, or a size such as 64MiB".to_owned())
}

impl Arguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        if let Some(parent) = self.with_parent {
            end_with(parent)?;
        }
        let format = self.log_format;
        let options = self.options()?;
        let filter =
            telemetry::init(format, &options.log_filter).map_err(Failure::with(Exit::Usage))?;
        app::serve(&options, Some(filter)).map_err(|error| Failure::new(exit_of(&error), error))
    }

    fn options(self) -> Result<app::Options, Failure> {
        let ordinal = match self.ordinal {
            Some(ordinal) => ordinal,
            None => ordinal::of_this_pod().map_err(Failure::with(Exit::Usage))?,
        };
        let set = |name| env::var(name).ok();
        let place = Place::find(Given {
            host: set("KUBERNETES_SERVICE_HOST"),
            port: set("KUBERNETES_SERVICE_PORT"),
            account: self.service_account,
            pod: ordinal::pod_name(),
            pod_uid: set("POD_UID"),
            namespace: set("POD_NAMESPACE"),
            stateful_set: self.statefulset,
        });
        Ok(app::Options {
            place,
            config_dir: self.config_dir,
            data_dir: self.data_dir,
            secrets_dir: self.secrets_dir,
            listen: self.listen,
            admin: self.admin,
            ordinal,
            cluster: self.peers.map(|peers| cluster::Options {
                listen: self.peer_listen,
                peers,
            }),
            // More than the address space is as good as all of it.
            store_cache_bytes: usize::try_from(self.store_cache.as_u64()).unwrap_or(usize::MAX),
            log_filter: self.log,
        })
    }
}

/// Lets this process end with the one that started it, however that ends.
fn end_with(parent: u32) -> Result<(), Failure> {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, getppid, set_parent_process_death_signal};

        set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|error| Failure::new(Exit::Internal, std::io::Error::from(error)))?;
        // It may have ended before that.
        if getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned()) != Some(parent) {
            return Err(Failure::new(
                Exit::Unavailable,
                format!("process {parent} did not start this one, or has ended"),
            ));
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = parent;
    Ok(())
}

fn exit_of(error: &app::Error) -> Exit {
    use app::Error;

    match error {
        Error::Configuration { .. } | Error::NoSecrets(_) | Error::Credentials(_) => Exit::Usage,
        Error::Bind { .. } => Exit::Unavailable,
        Error::Store(OpenError::InUse(_)) => Exit::InUse,
        Error::Store(_) | Error::Data { .. } | Error::Volume(_) | Error::Place(_) => Exit::Io,
        Error::Engine(_) | Error::System(_) => Exit::Internal,
        Error::Undrained { .. } | Error::PartitionsLeft | Error::Forced => Exit::CutOff,
    }
}
