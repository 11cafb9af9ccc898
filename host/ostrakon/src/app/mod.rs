//! One shard: starting, running and ending it.

mod baking;
mod credentials;
mod error;
mod former;
mod kubernetes;
mod options;
mod performer;
mod phases;
mod place;
mod public;
mod status;
mod threads;
mod way_back;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::runtime;
use tokio::sync::{oneshot, watch};

pub(crate) use error::Error;
pub(crate) use options::Options;

use baking::Baking;
use credentials::{ClientsPort, Credentials, OperatorsPort, PeersPort};
use former::Former;
use ostrakon_base::blocking::Blocking;
use ostrakon_base::digest::Digest;
use ostrakon_base::signals::Signals;
use ostrakon_cluster::Rehearser;
use ostrakon_cluster::plan::Planner;
use ostrakon_cluster::{self as cluster, Cluster, Guests};
use ostrakon_engine::{Compiler, Engine, Identity};
use ostrakon_kubernetes::Kubernetes;
use ostrakon_network::bearer::LiveTokens;
use ostrakon_observe::metrics::{Listener, Metrics};
use ostrakon_observe::telemetry::{Backlog, Filter, Log};
use ostrakon_observe::trace::Tracer;
use ostrakon_otlp::Exporter;
use ostrakon_peers as peers;
use ostrakon_protocol::{Incarnation, Ordinal, Stopped};
use ostrakon_settings::settings::Settings;
use ostrakon_shard::service::{Boxed, Others, Service};
use ostrakon_shard::swap::history::History;
use ostrakon_shard::swap::{Alone, Controller, Kept, Refused, Status, Step};
use ostrakon_shard::writer::{self, Change, Changed, Live, Writer};
use ostrakon_volumes::volume::{Files, Observation, Watcher};
use performer::{LiveSettings, Performer};
use phases::{
    Data, Mounted, Ports, become_ready, data, follow_missing, follow_stopped, run_drain,
    unreadable, watch_public,
};
use place::Place;
use public::Public;
use status::{Parts, Shard};
use way_back::WayBack;

use crate::admin::{self, Admin};
use crate::drain::{Drain, End, Outcome, until_told};
use crate::heap;
use crate::readiness::Readiness;

/// How long an ended writer may take to close the store.
const CLOSING: Duration = Duration::from_secs(5);
/// How long it may take until a shard of several is shown something else than what it refuses.
const TURNING: Duration = Duration::from_secs(3);
/// How long peers may take to close their connections: one that hangs must not keep this shard
/// beyond the grace period that its drain's deadline fits into.
const PEERS_CLOSING: Duration = Duration::from_secs(2);

/// Runs a shard until it is told to end, and drains it. The settings change the filter of
/// `log`.
///
/// # Errors
/// When it cannot start, or ends with requests in flight.
pub(crate) fn serve(options: &Options, log: Option<&Log>) -> Result<(), Error> {
    let runtime = threads::start(options.threads)?;
    let log = log
        .map(|log| (log.filter.clone(), log.lines.clone()))
        .unzip();
    let ended = runtime.block_on(run(options, log));
    // Nothing that still runs on it matters to a client.
    runtime.shutdown_background();
    ended
}

/// The handles to change the log's filter and to see its backlog.
type Logging = (Option<Filter>, Option<Backlog>);

async fn run(options: &Options, log: Logging) -> Result<(), Error> {
    let compiler = OnceLock::new();
    let ended = serve_until_told(options, log, &compiler).await;
    if let (Some(compiler), false) = (compiler.get(), matches!(ended, Err(Error::Forced))) {
        // Running compiles have been given up by now. A leftover note of one would say that
        // this process died of it.
        let _ = tokio::time::timeout(CLOSING, compiler.rest()).await;
    }
    ended
}

async fn serve_until_told(
    options: &Options,
    log: Logging,
    compiler: &OnceLock<Compiler>,
) -> Result<(), Error> {
    let mut signals = Signals::new()?;
    let app = tokio::select! {
        biased;
        started = App::start(options, log, compiler) => started?,
        signal = signals.recv() => {
            // Nothing was served, and the data on the disk is whole at every moment.
            tracing::info!(signal, "told to end before it was ready");
            return Ok(());
        }
    };
    let told = tokio::select! {
        biased;
        told = until_told(&app.drain, async || signals.recv().await) => told,
        stopped = app.until_over() => {
            tokio::select! {
                biased;
                () = async { app.drain.outcome().await; app.end().await; } => {}
                _ = signals.recv() => return Err(Error::Forced),
            }
            return Err(Error::Stopped(stopped));
        }
    };
    match told {
        End::Forced => Err(Error::Forced),
        End::Drained(outcome) => {
            let forced = app.end();
            tokio::select! {
                biased;
                () = forced => {}
                _ = signals.recv() => return Err(Error::Forced),
            }
            match outcome {
                Outcome::Complete => Ok(()),
                Outcome::PartitionsLeft => Err(Error::PartitionsLeft),
                Outcome::DeadlinePassed { in_flight } => Err(Error::Undrained { in_flight }),
            }
        }
    }
}

/// A shard that serves.
///
/// | task | ends | its failure |
/// | --- | --- | --- |
/// | the public port's server | by `shutdown` | logged; the shard is not live |
/// | the swap controller | by `shutdown` | a panic is a bug: no more swaps |
/// | the drain | once, or with the runtime | none |
/// | the shard's part among others | by `peers_shutdown`, after those above | none: see `cluster` |
/// | exporting spans, where they are | by `end`, last | none: see `otlp` |
/// | giving back memory that was freed | with the runtime | none |
/// | following the secrets | with their watcher | none |
/// | following the credentials of each port | with the runtime | a refusal is shown in the status |
/// | following where the data file is | with the writer | none |
/// | following the StatefulSet, posting Events, seeing what they are about | with the runtime | a failure is retried, and shown |
struct App {
    drain: Drain,
    shutdown: watch::Sender<bool>,
    peers_shutdown: watch::Sender<bool>,
    server: tokio::task::JoinHandle<()>,
    controller: tokio::task::JoinHandle<()>,
    cluster: Option<tokio::task::JoinHandle<()>>,
    among: Option<Cluster>,
    writer: Writer,
    writer_thread: JoinHandle<()>,
    exporter: Option<Exporter>,
    _admin: Admin,
    _watchers: (Watcher, Option<Watcher>),
}

impl App {
    /// Opens all parts in order, and returns when a generation is live.
    #[expect(
        clippy::too_many_lines,
        reason = "one list of the parts in the order of opening; each part needs those above it"
    )]
    async fn start(
        options: &Options,
        (filter, log): Logging,
        compiling: &OnceLock<Compiler>,
    ) -> Result<Self, Error> {
        let Ports {
            public,
            admin,
            shares,
        } = Ports::open(options)?;
        tokio::spawn(heap::give_back());
        let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")));
        metrics.swap_steps(Step::ALL.map(Step::name));
        let readiness = Readiness::default();
        let drain = Drain::new(readiness.clone());
        let shard = Shard {
            ordinal: options.ordinal,
            readiness: readiness.clone(),
            drain: drain.clone(),
            store_file: options.data_dir.join("shard.redb"),
            public_has_failed: Arc::default(),
            log,
            parts: Arc::new(ArcSwapOption::empty()),
        };
        let has_failed = Arc::clone(&shard.public_has_failed);
        let operators = LiveTokens::default();
        let admin = Admin::start(
            admin,
            admin::Parts {
                subject: shard.clone(),
                readiness: readiness.clone(),
                drain: drain.clone(),
                metrics: Arc::clone(&metrics),
                tokens: Arc::clone(&operators),
                max_connections: shares.admin,
            },
        )?;

        let Data {
            store,
            kept,
            cache,
            compiler,
            last,
            last_good,
            unkept,
        } = Data::open(options, &metrics, compiling).await?;
        let Mounted {
            config,
            default_guest,
            secrets,
            secrets_watcher,
        } = Mounted::watch(options, &metrics)?;
        let clients = ClientsPort::new(options.https_only);
        let clients = Credentials::start(clients, &secrets, &metrics)?;
        let operators = Credentials::start(OperatorsPort(operators), &secrets, &metrics)?;
        let runtime = runtime::Handle::current();
        let ordinal = options.cluster.as_ref().map(|_| Ordinal(options.ordinal));
        let started = Writer::start(store, ordinal, runtime, Arc::clone(&metrics));
        let (writer, writer_thread) = started.map_err(|error| match error {
            writer::StartError::Unreadable(source) => unreadable(options, source),
            writer::StartError::System(error) => error.into(),
        })?;

        let settings = Arc::new(Settings::default());
        let limits = performer::limits(&settings, shares.public);
        let limits = Arc::new(ArcSwap::from_pointee(limits));
        let settings = Arc::new(ArcSwap::new(settings));
        let engine = Engine::new()?;
        let history = History::read(&options.data_dir);
        let guests = Guests {
            blocking: Blocking::OnThreads,
            engine: engine.clone(),
            cache: cache.clone(),
            compiler: compiler.clone(),
            kept: kept.clone(),
            of_plan: Kept::of_plan(&options.data_dir).map_err(|source| data(options, source))?,
            history: history.clone(),
            metrics: Arc::clone(&metrics),
            identity: Identity {
                ordinal: options.ordinal,
                shards: 1,
            },
            secrets: secrets.clone(),
            directory: options.data_dir.clone(),
        };
        let kubernetes = options.pod_identity.as_ref().ok();
        let kubernetes = kubernetes
            .map(|pod_identity| Kubernetes::new(pod_identity.clone(), Arc::clone(&metrics)));
        let (cluster, peers) = match &options.cluster {
            None => None,
            Some(cluster) => {
                let guests = guests.clone();
                let peers = PeersPort::new(cluster.listen);
                let peers = Credentials::start(peers, &secrets, &metrics)?;
                let replicas = kubernetes.as_ref().map(Kubernetes::replicas);
                let replicas = replicas.unwrap_or_else(|| watch::Sender::default().subscribe());
                let greeting = shares.greeting;
                let data_dir = &options.data_dir;
                let part = among_others(
                    options.ordinal,
                    (cluster, greeting),
                    data_dir,
                    (&writer, last.as_ref()),
                    guests,
                    &peers,
                    replicas,
                );
                Some((part.await?, peers))
            }
        }
        .unzip();
        let among = cluster.as_ref().map(|(cluster, _)| cluster.clone());
        let place = match among.clone() {
            Some(cluster) => Place::Among(cluster),
            None => Place::Alone(Alone::new(last.as_ref())),
        };
        if options.keep_requests > 0 {
            writer.stage().keep_last(options.keep_requests);
        }
        let performer = Performer {
            engine,
            cache,
            compiler,
            drain: drain.clone(),
            kept: kept.clone(),
            writer: writer.clone(),
            secrets: secrets.clone(),
            identity: Identity {
                ordinal: options.ordinal,
                shards: 1,
            },
            metrics: Arc::clone(&metrics),
            live: LiveSettings {
                settings: Arc::clone(&settings),
                limits: Arc::clone(&limits),
                most_connections: shares.public,
                filter,
                default_filter: options.log_filter.clone(),
            },
            place: place.clone(),
            history: history.clone(),
            directory: options.data_dir.clone(),
            no_pod_identity: options.pod_identity.as_ref().err().cloned(),
        };
        let last_digest = last_good.as_ref().map(Files::digest);
        let volume = config.observations();
        let (observations, directing): (_, Boxed<'static, ()>) = match &place {
            Place::Among(cluster) => {
                cluster.restores(last_digest);
                let (observations, directing) = cluster.directed(volume, default_guest.clone());
                (observations, Box::pin(directing))
            }
            Place::Alone(alone) => {
                let kept = (kept.clone(), history.clone());
                let writer = (writer.clone(), Arc::clone(&metrics));
                let directed = alone.directed(volume, default_guest.clone(), kept, writer);
                let (observations, directing) = directed;
                (observations, Box::pin(directing))
            }
        };
        let shown = observations.clone();
        let mut controller = Controller::new(Arc::new(performer), observations, last_good)
            .with_default_guest(default_guest.clone(), last.is_some());
        if among.is_some() {
            controller = controller.of_several(options.ordinal > 0);
        }
        // Only now: what it shows is seen from here on.
        tokio::spawn(directing);
        let baking = Baking::new(
            place.clone(),
            writer.clone(),
            (history.clone(), kept.clone()),
            Arc::clone(&metrics),
            options.keep_requests > 0,
        );
        tokio::spawn(baking.clone().run(drain.clone()));
        let way_back = WayBack {
            writer: writer.clone(),
            metrics: Arc::clone(&metrics),
            ordinal: options.ordinal,
            directory: options.data_dir.clone(),
        };
        tokio::spawn(way_back.run(drain.clone()));
        let swap = controller.status();
        let parts = Parts {
            writer: writer.clone(),
            swap: swap.clone(),
            secrets,
            credentials: status::Ports {
                clients: clients.clone(),
                operators,
                peers,
            },
            rehearser: Rehearser::new(writer.clone(), guests.clone(), among.clone()),
            planner: Planner::new(writer.clone(), guests, among.clone()),
            cluster: among.clone(),
            former: Former {
                history,
                kept,
                place,
                baking: baking.clone(),
            },
            kubernetes: kubernetes.clone(),
            runtime: runtime::Handle::current(),
        };
        shard.parts.store(Some(Arc::new(parts)));
        readiness.set_started();
        let (shutdown, down) = watch::channel(false);
        let (peers_shutdown, peers_down) = watch::channel(false);
        let controller = tokio::spawn(controller.run(told(down.clone())));
        if let Some(kubernetes) = kubernetes {
            kubernetes::Part {
                kubernetes,
                ordinal: options.ordinal,
                settings: Arc::clone(&settings),
                swap: swap.clone(),
                writer: writer.clone(),
                drain: drain.clone(),
                cluster: among.clone(),
                baking,
            }
            .start();
        }
        let others = among.clone();
        let others = others.map(|cluster| Arc::new(cluster) as Arc<dyn Others>);
        let (tracer, exporter) = match &options.otlp {
            None => (Tracer::default(), None),
            Some(otlp) => {
                let counted = Arc::clone(&metrics);
                let (tracer, exporter) = Exporter::start(otlp, options.ordinal, counted)?;
                (tracer, Some(exporter))
            }
        };
        let service = Service::new(
            options.ordinal,
            writer.clone(),
            Arc::clone(&metrics),
            others,
        )
        .traced(tracer);
        tokio::spawn(follow_missing(writer.missing(), readiness.clone()));
        let cluster = if let Some((cluster, listener)) = cluster {
            let stopped = follow_stopped(cluster.stopped(), readiness.clone(), drain.clone());
            tokio::spawn(stopped);
            if options.ordinal > 0 {
                readiness.set_is_told();
            }
            readiness.set_awaits_plan(true);
            readiness.set_awaits_peers(true);
            let running = cluster.run(listener, service.clone(), peers_down);
            Some(tokio::spawn(running))
        } else {
            None
        };
        let digest = |shown: &Observation| {
            let shown = shown.clone().ok()?;
            Some(default_guest.complete(shown).digest())
        };
        let grace = among.as_ref().map_or(Duration::ZERO, |_| TURNING);
        first_generation(swap, last_digest, (shown, digest), grace)
            .await
            .map_err(|refused| Error::Configuration {
                directory: options.config_dir.clone(),
                step: refused.step.name(),
                reason: refused.reason + &unkept,
            })?;

        let handler = Public {
            service,
            drain: drain.clone(),
            metrics: Arc::clone(&metrics),
            clients: clients.clone(),
            settings: Arc::clone(&settings),
        };
        let port = (Listener::Public, clients.port().door());
        let listening = public.run(Arc::new(handler), limits, metrics, port, down);
        let server = tokio::spawn(watch_public(tokio::spawn(listening), has_failed));
        let draining = run_drain(drain.clone(), settings, writer.clone(), among.clone());
        tokio::spawn(draining);
        readiness.set_generation_live();
        tokio::spawn(become_ready(readiness, among.clone()));
        Ok(Self {
            drain,
            shutdown,
            peers_shutdown,
            server,
            controller,
            cluster,
            among,
            writer,
            writer_thread,
            exporter,
            _admin: admin,
            _watchers: (config, secrets_watcher),
        })
    }

    /// Returns once this process is to end so that another takes its place, with the reason.
    async fn until_over(&self) -> Stopped {
        match &self.among {
            Some(cluster) => cluster.until_over().await,
            None => std::future::pending().await,
        }
    }

    /// Closes everything that is open, after the drain.
    async fn end(self) {
        self.shutdown.send_replace(true);
        // The tasks end by the signal just given; a panic was logged when it happened.
        let _ = tokio::time::timeout(CLOSING, async {
            let _ = self.server.await;
            let _ = self.controller.await;
        })
        .await;
        // Peers are answered to the last: clients may take a while to close their connections.
        self.peers_shutdown.send_replace(true);
        if let Some(cluster) = self.cluster {
            let _ = tokio::time::timeout(PEERS_CLOSING, cluster).await;
        }
        // This also closes the store, so that the next start has nothing to recover. The writer
        // must be told to end, because others still hold handles: the admin port, which stays
        // open to the end, and requests that still run after a missed deadline.
        self.writer.end();
        let (closed, closing) = oneshot::channel();
        let thread = self.writer_thread;
        let joined = std::thread::Builder::new()
            .name("closing".to_owned())
            .spawn(move || {
                let _ = thread.join();
                let _ = closed.send(());
            });
        let closed = match joined {
            Ok(_) => tokio::time::timeout(CLOSING, closing).await.is_ok(),
            Err(_) => false,
        };
        if let Some(exporter) = self.exporter {
            exporter.end().await;
        }
        if closed {
            tracing::info!("closed");
        } else {
            tracing::warn!("the store is not closed: the next start recovers it");
        }
    }
}

/// Takes the shard's place among others, and binds its peer port.
async fn among_others(
    ordinal: u32,
    (options, most_greeting): (&cluster::Options, usize),
    data_dir: &Path,
    (writer, stored): (&Writer, Option<&Live>),
    guests: Guests,
    credentials: &Credentials<PeersPort>,
    replicas: watch::Receiver<cluster::Replicas>,
) -> Result<(Cluster, tokio::net::TcpListener), Error> {
    let address = options.listen;
    let bound = tokio::net::TcpListener::bind(address).await;
    let listener = bound.map_err(|source| Error::Bind { address, source })?;
    let started = writer.change(Change::Start(Incarnation::default())).await?;
    let Changed::Started(Incarnation(incarnation), store) = started else {
        unreachable!("a start gives the process its number");
    };
    let identity = peers::Identity {
        ordinal,
        incarnation,
        store,
    };
    let mut endpoint = peers::Endpoint::new(identity, credentials.port().subscribe());
    endpoint.settings.max_greeting = endpoint.settings.max_greeting.min(most_greeting);
    let known = (writer.clone(), stored);
    let cluster = Cluster::new(options, endpoint, known, guests, replicas);
    cluster.recall(data_dir);
    Ok((cluster, listener))
}

/// Returns when told to shut down, or when the sender is gone.
async fn told(mut down: watch::Receiver<bool>) {
    let _ = down.wait_for(|down| *down).await;
}

/// Waits until a generation is live, or until it is clear that none can be: neither the last
/// good one nor what is shown. What is shown can take `grace` to follow a refusal.
async fn first_generation(
    mut swap: watch::Receiver<Status>,
    last_good: Option<Digest>,
    (mut shown, digest): (
        watch::Receiver<Observation>,
        impl Fn(&Observation) -> Option<Digest>,
    ),
    grace: Duration,
) -> Result<(), Refused> {
    loop {
        let refused = {
            let status = swap.borrow_and_update();
            if status.live.is_some() {
                return Ok(());
            }
            let refused = status.refused.clone();
            refused.filter(|_| status.candidate.is_none())
        };
        let Some(refused) = refused else {
            swap.changed().await.expect("the controller runs");
            continue;
        };
        let now = digest(&shown.borrow_and_update());
        if last_good.is_some() && refused.digest == last_good && now != last_good {
            // What is shown comes next.
            swap.changed().await.expect("the controller runs");
            continue;
        }
        let turns = async {
            tokio::select! {
                Ok(()) = swap.changed() => {}
                Ok(()) = shown.changed() => {}
            }
        };
        if grace.is_zero() || tokio::time::timeout(grace, turns).await.is_err() {
            return Err(refused);
        }
    }
}
