//! `ostrakon serve`: one shard, in a Pod or anywhere else.

use std::env;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread;

use bytesize::ByteSize;
use ostrakon_cluster as cluster;
use ostrakon_kubernetes::{ACCOUNT, Given, PodIdentity};
use ostrakon_observe::telemetry;
use ostrakon_protocol::Ordinal;
use ostrakon_settings::per_shard::{PerShard, Same};
use ostrakon_settings::settings::MAX_SHARDS;
use ostrakon_store::OpenError;

use super::secretive::keep_secrets;
use super::{Exit, Failure, address, is_authority, ordinal, otlp};
use crate::app;

const MAX_THREADS: usize = 1024;

/// Run one shard until SIGTERM, SIGINT, SIGHUP or a drain.
///
/// The guest and the settings are read from the ConfigMap's directory and swapped when it
/// changes. Each flag can be given by its environment variable instead; the flag takes
/// precedence.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ostrakon serve --config-dir config --data-dir data --listen 127.0.0.1:8080 --admin 127.0.0.1:9090")]
pub(super) struct Arguments {
    /// The mounted ConfigMap's directory: guest.wasm (or guest.wasm.zst), ostrakon.toml, the
    /// guest's settings.
    #[arg(long, env = "OSTRAKON_CONFIG_DIR", value_name = "DIR")]
    config_dir: PathBuf,
    /// The component that serves where the ConfigMap has neither guest.wasm nor guest.wasm.zst.
    #[arg(long, env = "OSTRAKON_DEFAULT_GUEST", value_name = "FILE")]
    default_guest: Option<PathBuf>,
    /// The data directory; created if it is missing. Only one process may use it at a time.
    #[arg(long, env = "OSTRAKON_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// The mounted Secret's directory; the guest sees its values by name.
    #[arg(long, env = "OSTRAKON_SECRETS_DIR", value_name = "DIR")]
    secrets_dir: Option<PathBuf>,
    /// The address for clients: HTTP/1.1 and h2; HTTPS where the Secret has `tls.crt`.
    #[arg(
        long,
        env = "OSTRAKON_LISTEN",
        value_name = "ADDRESS",
        value_parser = address,
        default_value = "0.0.0.0:8080"
    )]
    listen: SocketAddr,
    /// Refuse to start, instead of speaking plain HTTP, where the Secret has no certificate.
    #[arg(long, env = "OSTRAKON_HTTPS_ONLY")]
    https_only: bool,
    /// The address for operators: /livez /readyz /startupz /status /plan /metrics /drain.
    #[arg(
        long,
        env = "OSTRAKON_ADMIN",
        value_name = "ADDRESS",
        value_parser = address,
        default_value = "0.0.0.0:9090"
    )]
    admin: SocketAddr,
    /// The peers' addresses, with `{}` for the ordinal, or `{1}` for the ordinal counted from
    /// 1; this makes the shard one of several.
    #[arg(long, env = "OSTRAKON_PEERS", value_name = "HOST:PORT", value_parser = peers)]
    peers: Option<PerShard>,
    /// The address for peers, where there are any; without a certificate or token, a loopback
    /// address.
    #[arg(
        long,
        env = "OSTRAKON_PEER_LISTEN",
        value_name = "ADDRESS",
        value_parser = address,
        default_value = "127.0.0.1:7070"
    )]
    peer_listen: SocketAddr,
    /// The shard's ordinal [default: the number at the end of `POD_NAME` or of the host name; 0 for a
    /// shard that is alone, outside of Kubernetes]
    #[arg(long, env = "OSTRAKON_ORDINAL", value_name = "N", value_parser = number)]
    ordinal: Option<u32>,
    /// The StatefulSet of this Pod, where settings follow it or Events are posted [default: the
    /// part before the ordinal in `POD_NAME` or the host name]
    #[arg(long, env = "OSTRAKON_STATEFULSET", value_name = "NAME")]
    statefulset: Option<String>,
    /// The mounted ServiceAccount's directory: token, ca.crt, namespace.
    #[arg(long, env = "OSTRAKON_SERVICE_ACCOUNT", value_name = "DIR", default_value = ACCOUNT)]
    service_account: PathBuf,
    /// The number of threads that answer requests: each may have two instances of the guest
    /// [default: the processors that this process may use]
    #[arg(long, env = "OSTRAKON_THREADS", value_name = "N", value_parser = threads)]
    threads: Option<NonZeroUsize>,
    /// The most memory for the store's pages.
    #[arg(
        long,
        env = "OSTRAKON_STORE_CACHE",
        value_name = "SIZE",
        value_parser = size,
        default_value = "64MiB"
    )]
    store_cache: ByteSize,
    /// Read the whole data file first, and refuse to start where it is damaged.
    #[arg(long, env = "OSTRAKON_CHECK")]
    check: bool,
    /// The log filter: a level, or target=level pairs; `log.filter` of the settings takes
    /// precedence.
    #[arg(
        long,
        env = "OSTRAKON_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    log: String,
    /// For development: keep so many of the last requests in memory, and try each new generation with
    /// them; the log says what differs, and shows data.
    #[arg(
        long,
        env = "OSTRAKON_KEEP_REQUESTS",
        value_name = "N",
        default_value_t = 0,
        overrides_with = "keep_requests"
    )]
    keep_requests: usize,
    /// The process that started this one: this process is killed when that one ends.
    #[arg(long, value_name = "PID", hide = true)]
    with_parent: Option<u32>,
    #[command(flatten)]
    otlp: otlp::Exporting,
    /// The format of log lines.
    #[arg(
        long,
        env = "OSTRAKON_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "auto"
    )]
    log_format: telemetry::Format,
}

fn number(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number < MAX_SHARDS);
    number.ok_or_else(|| format!("write a number from 0 to {}, such as 2", MAX_SHARDS - 1))
}

fn peers(text: &str) -> Result<PerShard, String> {
    let peers: PerShard = text.parse().map_err(|error: Same| error.to_string())?;
    is_authority(&peers.of(Ordinal(0)))
        .then_some(peers)
        .ok_or_else(|| "write a host and a port, such as kv-{}.kv-peers:7070".to_owned())
}

/// As many as this process may use, by its affinity and its cgroup's quota.
fn processors() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let threads = text.parse().ok();
    let threads = threads.filter(|threads: &NonZeroUsize| threads.get() <= MAX_THREADS);
    threads.ok_or_else(|| format!("write a number from 1 to {MAX_THREADS}"))
}

fn size(text: &str) -> Result<ByteSize, String> {
    let size = text.parse();
    size.map_err(|_| "write bytes, or a size such as 64MiB".to_owned())
}

impl Arguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        let format = self.log_format;
        let mut shard = self.ordinal;
        self.serve(&mut shard)
            .map_err(|failure| failure.of_a_log(format, shard))
    }

    /// `shard` is set as soon as the ordinal is known.
    fn serve(self, shard: &mut Option<u32>) -> Result<(), Failure> {
        // Before any secret is read.
        keep_secrets().map_err(Failure::with(Exit::Internal))?;
        if let Some(parent) = self.with_parent {
            end_with(parent)?;
        }
        let format = self.log_format;
        let options = self.options()?;
        *shard = Some(options.ordinal);
        let log = telemetry::init(format, &options.log_filter, options.ordinal);
        let log = log.map_err(|error| {
            let exit = match error {
                telemetry::Error::System(_) => Exit::Internal,
                _ => Exit::Usage,
            };
            Failure::new(exit, error)
        })?;
        app::serve(&options, Some(&log)).map_err(|error| Failure::new(exit_of(&error), error))
    }

    fn options(self) -> Result<app::Options, Failure> {
        let is_set = |name| env::var_os(name).is_some();
        let ordinal = match self.ordinal {
            Some(ordinal) => ordinal,
            // Alone on a desk, a shard needs no number.
            None if self.peers.is_none()
                && !is_set("KUBERNETES_SERVICE_HOST")
                && !is_set("POD_NAME") =>
            {
                ordinal::of_this_pod().unwrap_or(0)
            }
            None => ordinal::of_this_pod().map_err(Failure::with(Exit::Usage))?,
        };
        let set = |name| env::var(name).ok();
        let pod_identity = PodIdentity::find(Given {
            host: set("KUBERNETES_SERVICE_HOST"),
            port: set("KUBERNETES_SERVICE_PORT"),
            account: self.service_account,
            pod: ordinal::pod_name(),
            pod_uid: set("POD_UID"),
            namespace: set("POD_NAMESPACE"),
            stateful_set: self.statefulset,
        });
        Ok(app::Options {
            pod_identity,
            config_dir: self.config_dir,
            default_guest: self.default_guest,
            data_dir: self.data_dir,
            secrets_dir: self.secrets_dir,
            listen: self.listen,
            https_only: self.https_only,
            admin: self.admin,
            ordinal,
            cluster: self.peers.map(|peers| cluster::Options {
                listen: self.peer_listen,
                peers,
            }),
            threads: self.threads.unwrap_or_else(processors),
            // More than the address space means all of it.
            keep_requests: self.keep_requests,
            store_cache_bytes: usize::try_from(self.store_cache.as_u64()).unwrap_or(usize::MAX),
            check: self.check,
            otlp: self.otlp.options()?,
            log_filter: self.log,
        })
    }
}

/// Has this process killed when the one that started it ends, however that happens.
pub(super) fn end_with(parent: u32) -> Result<(), Failure> {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, getppid, set_parent_process_death_signal};

        set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|error| Failure::new(Exit::Internal, std::io::Error::from(error)))?;
        // The parent may have ended before the call.
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

/// The exit code for a data directory that cannot be opened.
pub(super) fn exit_of_store(error: &OpenError) -> Exit {
    match error {
        OpenError::InUse(_) => Exit::InUse,
        error if error.is_damage() => Exit::Damaged,
        _ => Exit::Io,
    }
}

fn exit_of(error: &app::Error) -> Exit {
    use app::Error;

    match error {
        Error::Configuration { .. }
        | Error::DefaultGuest(_)
        | Error::NoSecrets(_)
        | Error::Clients(_)
        | Error::Operators(_)
        | Error::Peers(_) => Exit::Usage,
        Error::Bind { .. } => Exit::Unavailable,
        Error::Store(error) => exit_of_store(error),
        Error::Record { .. } => Exit::Damaged,
        Error::Data { .. } | Error::Secrets(_) | Error::Volume(_) | Error::Membership(_) => {
            Exit::Io
        }
        Error::Stopped(_) => Exit::Stopped,
        Error::Engine(_) | Error::System(_) => Exit::Internal,
        Error::Undrained { .. } | Error::PartitionsLeft | Error::Forced => Exit::CutOff,
    }
}
