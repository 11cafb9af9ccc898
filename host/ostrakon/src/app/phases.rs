//! The phases of a start, each of which gives what the next ones need, and the tasks that run
//! from then on.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use ostrakon_base::causes::with_causes;
use ostrakon_base::stored::Unreadable;
use ostrakon_cluster::Cluster;
use ostrakon_engine::{Attempts, Cache, Compiler};
use ostrakon_network::descriptors::{self, Shares};
use ostrakon_network::http::Server;
use ostrakon_observe::metrics::Metrics;
use ostrakon_protocol::Stopped;
use ostrakon_settings::settings::Settings;
use ostrakon_shard::swap::{DefaultGuest, Kept};
use ostrakon_shard::writer::{self, Live, Writer};
use ostrakon_store::{self as store, Missing, OpenError, Store};
use ostrakon_volumes::secrets::Secrets;
use ostrakon_volumes::volume::{self, Files, ReadError, Watcher};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Error, Options};
use crate::drain::{Drain, Timing};
use crate::readiness::Readiness;

/// The ports that clients and operators use. Nothing is accepted on them yet.
pub(super) struct Ports {
    pub(super) public: Server,
    pub(super) admin: Server,
    /// How the open files are shared out among the ports.
    pub(super) shares: Shares,
}

impl Ports {
    pub(super) fn open(options: &Options) -> Result<Self, Error> {
        let open_files = descriptors::Limit::raise();
        let shares = open_files.shares(options.cluster.is_some());
        let bind =
            |address| Server::bind(address).map_err(|source| Error::Bind { address, source });
        let (public, admin) = (bind(options.listen)?, bind(options.admin)?);
        tracing::info!(
            shard = options.ordinal,
            listen = %public.local_addr(),
            admin = %admin.local_addr(),
            version = env!("CARGO_PKG_VERSION"),
            "starting"
        );
        tracing::info!(
            limit = open_files.now,
            soft_limit_found = open_files.found,
            most_client_connections = shares.public,
            "open files"
        );
        Ok(Self {
            public,
            admin,
            shares,
        })
    }
}

/// What is in the data directory.
pub(super) struct Data {
    pub(super) store: Store,
    pub(super) kept: Kept,
    pub(super) cache: Cache,
    pub(super) compiler: Compiler,
    /// The generation that was live here last.
    pub(super) last: Option<Live>,
    /// The files of the generation that was live last.
    pub(super) last_good: Option<Files>,
    /// Why they are not there though one was: the end of a refusal's text.
    pub(super) unkept: String,
}

impl Data {
    /// Opens the data directory. The compiler is left where whoever ends the process finds it.
    pub(super) async fn open(
        options: &Options,
        metrics: &Arc<Metrics>,
        compiling: &OnceLock<Compiler>,
    ) -> Result<Self, Error> {
        let store = store::Options {
            check: options.check,
            metrics: Arc::clone(metrics),
            ..store::Options::new(&options.data_dir, options.store_cache_bytes)
        };
        let opening = tokio::task::spawn_blocking(move || -> Result<_, OpenError> {
            let found = Store::find(store)?;
            // Before the file is opened, which changes it: a later version may have written it.
            Ok(match writer::read_record(found.record()) {
                Ok(last) => Ok((found.open()?, last)),
                Err(unreadable) => Err(unreadable),
            })
        });
        let opened = opening.await.expect("opening the store does not panic")?;
        let (store, last) = opened.map_err(|source| unreadable(options, source))?;
        let data = |source| data(options, source);
        let kept = Kept::open(&options.data_dir).map_err(data)?;
        let cache = Cache::open(&options.data_dir).map_err(data)?;
        let attempts = Attempts::open(&options.data_dir).map_err(data)?;
        let compiler = Compiler::in_children(Some(attempts), Some(Arc::clone(metrics)));
        let compiler = compiling.get_or_init(|| compiler).clone();
        let last_good = last.as_ref().map(|live| kept.load(live.digest));
        let last_good = last_good.transpose();
        let (last_good, unkept) = match last_good {
            Ok(last_good) => (last_good, String::new()),
            Err(error) => {
                let error = with_causes(&error);
                tracing::warn!(
                    %error,
                    "the generation that served last is not there: the shard starts on what the \
                     ConfigMap holds, and on nothing else"
                );
                (
                    None,
                    format!("; what served last is not there either: {error}"),
                )
            }
        };
        Ok(Self {
            store,
            kept,
            cache,
            compiler,
            last,
            last_good,
            unkept,
        })
    }
}

/// An error of the data directory.
pub(super) fn data(options: &Options, source: io::Error) -> Error {
    Error::Data {
        path: options.data_dir.clone(),
        source,
    }
}

/// A record in the data file that this version cannot read.
pub(super) fn unreadable(options: &Options, source: Unreadable) -> Error {
    Error::record(options.data_dir.join("shard.redb"), source)
}

/// The mounted ConfigMap and Secret, which are watched from now on.
pub(super) struct Mounted {
    pub(super) config: Watcher,
    pub(super) default_guest: DefaultGuest,
    pub(super) secrets: Secrets,
    pub(super) secrets_watcher: Option<Watcher>,
}

impl Mounted {
    pub(super) fn watch(options: &Options, metrics: &Arc<Metrics>) -> Result<Self, Error> {
        let default_guest = match &options.default_guest {
            None => DefaultGuest::default(),
            Some(path) => DefaultGuest::read(path)?,
        };
        let config = Watcher::start(&options.config_dir, volume::Options::default())?;
        let (secrets, secrets_watcher) = match &options.secrets_dir {
            None => (Secrets::default(), None),
            Some(directory) if !directory.is_dir() => {
                return Err(Error::NoSecrets(directory.clone()));
            }
            Some(directory) => {
                let watcher = Watcher::start(directory, volume::Options::default())?;
                let observations = watcher.observations();
                let first = observations.borrow().clone();
                let secrets = Secrets::new(first);
                if let Some(problem) = secrets.problem()
                    && !matches!(*problem, ReadError::Empty(_))
                {
                    return Err(Error::Secrets(problem));
                }
                tokio::spawn(secrets.clone().follow(observations, Arc::clone(metrics)));
                (secrets, Some(watcher))
            }
        };
        Ok(Self {
            config,
            default_guest,
            secrets,
            secrets_watcher,
        })
    }
}

/// A shard whose data file is not where it was is not ready. Ends with the writer.
pub(super) async fn follow_missing(
    mut missing: watch::Receiver<Option<Missing>>,
    readiness: Readiness,
) {
    loop {
        let is_missing = missing.borrow_and_update().is_some();
        readiness.set_store_missing(is_missing);
        if missing.changed().await.is_err() {
            return;
        }
    }
}

/// Once this process must not go on, it is not ready and refuses requests.
pub(super) async fn follow_stopped(
    mut stopped: watch::Receiver<Option<Stopped>>,
    readiness: Readiness,
    drain: Drain,
) {
    if stopped.wait_for(Option::is_some).await.is_ok() {
        readiness.set_stopped();
        drain.begin_refusing();
    }
}

/// Notes that the public port has ended when it was not told to.
pub(super) async fn watch_public(
    listening: JoinHandle<io::Result<()>>,
    has_failed: Arc<AtomicBool>,
) {
    let error = match listening.await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::error!(error, "the public port ended");
    has_failed.store(true, Ordering::Relaxed);
}

/// Drains the shard once it is told to end, by the settings of then.
pub(super) async fn run_drain(
    drain: Drain,
    settings: Arc<ArcSwap<Settings>>,
    writer: Writer,
    cluster: Option<Cluster>,
) {
    let timing = || {
        let drain = settings.load().drain.clone();
        Timing {
            serve_for: drain.serve_for,
            deadline: drain.deadline,
        }
    };
    let hand_over = async {
        if let Some(cluster) = cluster {
            cluster.hand_over().await;
        }
    };
    drain
        .run(timing, async { writer.flush().await }, hand_over)
        .await;
}

/// Makes the shard ready, once it knows its place among the others if there are any.
pub(super) async fn become_ready(readiness: Readiness, cluster: Option<Cluster>) {
    if let Some(cluster) = cluster {
        cluster.until_placed().await;
        readiness.set_awaits_plan(false);
        cluster.until_known().await;
        readiness.set_awaits_peers(false);
    }
    tracing::info!("ready");
}
