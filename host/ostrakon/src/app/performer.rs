//! A swap's actions on the real engine, writer and data directory.

use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ostrakon_base::blocking::Blocking;
use ostrakon_base::digest::Digest;
use ostrakon_cluster::{Agreed, NotAgreed, Way};
use ostrakon_contract::contract::Description;
use ostrakon_engine::{
    Cache, CheckError, CompileError, Compiled, Compiler, Engine, Environment, Failure, Guest,
    Identity, Limits, LinkError, Linked, Purpose,
};
use ostrakon_kubernetes::NoIdentity;
use ostrakon_network::http;
use ostrakon_observe::metrics::Metrics;
use ostrakon_observe::telemetry::Filter;
use ostrakon_protocol::Release;
use ostrakon_settings::settings::{Rehearsal, Settings, Topology};
use ostrakon_shard::rehearsal;
use ostrakon_shard::swap::history::{History, way_back};
use ostrakon_shard::swap::{self, Candidate, Kept, Permitted, Refusal};
use ostrakon_shard::writer::{self, PromoteError, Promotion, Writer};
use ostrakon_volumes::secrets::Secrets;
use tokio::task::spawn_blocking;

use super::place::Place;
use crate::drain::Drain;

/// How long the last requests are tried at most, in development.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// The parts that a swap works on.
pub(super) struct Performer {
    pub(super) engine: Engine,
    pub(super) cache: Cache,
    pub(super) compiler: Compiler,
    pub(super) drain: Drain,
    pub(super) kept: Kept,
    pub(super) writer: Writer,
    pub(super) secrets: Secrets,
    pub(super) identity: Identity,
    pub(super) metrics: Arc<Metrics>,
    pub(super) live: LiveSettings,
    pub(super) place: Place,
    pub(super) history: History,
    /// The data directory.
    pub(super) directory: PathBuf,
    /// Why no StatefulSet can be followed; `None` if one can.
    pub(super) no_pod_identity: Option<NoIdentity>,
}

/// The parts of the live generation's settings that are in force outside the guest.
#[derive(Debug)]
pub(super) struct LiveSettings {
    pub(super) settings: Arc<ArcSwap<Settings>>,
    pub(super) limits: Arc<ArcSwap<http::Limits>>,
    /// How many client connections there are descriptors for.
    pub(super) most_connections: usize,
    pub(super) filter: Option<Filter>,
    /// The command line's log filter, for settings without one.
    pub(super) default_filter: String,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(
        "cluster.topology is \"statefulset\", and {0}; where there is no StatefulSet, set cluster.topology to \"settings\""
    )]
    NoStatefulSet(NoIdentity),
    #[error("cluster.topology is \"statefulset\": start the shard with --peers, or leave it out")]
    NoPeers,
    #[error(
        "the guest's schema is {schema}, and the data's is {stored}: two schemas cannot share the data, so it cannot go live in steps; leave rollout.steps and rollout.first out for this guest, and try it with `ostrakon rehearse` before"
    )]
    TwoSchemas { schema: u32, stored: u32 },
    #[error(transparent)]
    Rehearsal(#[from] rehearsal::Refused),
    #[error(transparent)]
    NotAgreed(#[from] NotAgreed),
    #[error("the generation cannot be kept in the data directory")]
    Keep(#[source] io::Error),
    #[error(transparent)]
    Promote(#[from] PromoteError),
}

impl swap::Performer for Performer {
    type Compiled = Compiled;
    type Linked = (Linked, Compiled);
    type Checked = (Arc<Guest>, Compiled);
    type Agreed = Permission;
    type Error = Error;

    fn begins(&self, candidate: &Candidate) {
        match &self.place {
            Place::Among(cluster) => cluster.begins(&candidate.source),
            Place::Alone(alone) => alone.observes(candidate.digest),
        }
    }

    fn shows_live(&self, digest: Digest) {
        match &self.place {
            Place::Among(cluster) => cluster.shows_live(digest),
            Place::Alone(alone) => alone.observes(digest),
        }
    }

    async fn compile(&self, candidate: &Candidate) -> Result<Compiled, Error> {
        let compiling = self.compiler.compile(
            &self.engine,
            Some(&self.cache),
            candidate.component_digest,
            &candidate.component,
            Purpose::Serve,
            Limits::of(&candidate.settings),
        );
        tokio::select! {
            compiled = compiling => Ok(compiled?),
            // The drain has begun: never answers, because this shard must not serve another
            // generation.
            () = self.drain.begun() => pending().await,
        }
    }

    async fn link(&self, _: &Candidate, compiled: Compiled) -> Result<(Linked, Compiled), Error> {
        Ok((compiled.link(&self.engine)?, compiled))
    }

    async fn check(
        &self,
        candidate: &Candidate,
        (linked, compiled): (Linked, Compiled),
    ) -> Result<((Arc<Guest>, Compiled), Description), Error> {
        self.check_topology(&candidate.settings)?;
        let environment = Environment {
            settings: Arc::clone(&candidate.settings),
            identity: Identity {
                shards: self.shards(),
                ..self.identity
            },
            files: Arc::clone(&candidate.files),
            secrets: self.secrets.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        let guest = Guest::check(&linked, environment, candidate.digest.short()).await?;
        let description = guest.description().clone();
        let has_steps = !candidate.settings.rollout.steps_before_all().is_empty();
        if let Some(stored) = self.writer.schema().filter(|_| has_steps)
            && description.schema > stored
            && self.place.is_to_try(candidate.digest)
        {
            let schema = description.schema;
            return Err(Error::TwoSchemas { schema, stored });
        }
        Ok(((Arc::new(guest), compiled), description))
    }

    async fn rehearse(
        &self,
        candidate: &Candidate,
        (guest, compiled): (Arc<Guest>, Compiled),
        migrate_from: Option<u32>,
    ) -> Result<(Arc<Guest>, Compiled), Error> {
        let settings = &candidate.settings.rehearsal;
        let (stage, metrics) = (self.writer.stage(), Arc::clone(&self.metrics));
        let live = self.writer.views().get();
        let Some(live) = live.filter(|_| self.place.is_to_try(candidate.digest)) else {
            return Ok((guest, compiled));
        };
        let of = |settings: Rehearsal| rehearsal::Candidate {
            guest: Arc::clone(&guest),
            digest: candidate.digest,
            settings,
            ordinal: self.identity.ordinal,
            directory: self.directory.clone(),
            migrate_from,
        };
        if !settings.time.is_zero() {
            tokio::select! {
                rehearsed = stage.rehearse(of(settings.clone()), live, metrics) => rehearsed?,
                // It is live in the other shards by now.
                () = self.place.until_not_to_try(candidate.digest) => {}
            }
        } else if stage.keeps_last() && migrate_from.is_none() {
            let settings = Rehearsal {
                time: LAST_REQUESTS,
                show_data: true,
                ..settings.clone()
            };
            stage.try_last(of(settings), live, metrics).await;
        }
        Ok((guest, compiled))
    }

    async fn agree(
        &self,
        candidate: &Candidate,
        (guest, compiled): (Arc<Guest>, Compiled),
    ) -> Result<((Arc<Guest>, Compiled), Permission), Error> {
        let rollout = &candidate.settings.rollout;
        let (digest, steps) = (candidate.digest, rollout.steps_before_all());
        if !steps.is_empty() {
            // A start must find what serves some of the partitions.
            let (kept, files) = (self.kept.clone(), candidate.source.clone());
            let keeping = Blocking::OnThreads.run(move || kept.keep_tried(&files));
            keeping.await.map_err(Error::Keep)?;
            let (compiled, engine, cache) =
                (compiled.clone(), self.engine.clone(), self.cache.clone());
            // A start is to find it quickly.
            drop(spawn_blocking(move || compiled.keep(&engine, &cache)));
        }
        let permission = match &self.place {
            Place::Among(cluster) => {
                let way = Way {
                    barrier: (!rollout.barrier.is_zero()).then_some(rollout.barrier),
                    steps,
                    wait: Some(rollout.wait),
                    guest: Some(Arc::clone(&guest)),
                };
                Permission::Among(cluster.agree(digest, way).await?)
            }
            Place::Alone(alone) => {
                Permission::Alone(alone.agree(digest, steps, Arc::clone(&guest)).await)
            }
        };
        Ok(((guest, compiled), permission))
    }

    fn stored_schema(&self) -> Option<u32> {
        self.writer.schema()
    }

    /// The writer determines by itself, in the same transaction, which schema to migrate from.
    async fn promote(
        &self,
        candidate: &Candidate,
        (guest, compiled): (Arc<Guest>, Compiled),
        agreed: Permission,
        migrate_from: Option<u32>,
    ) -> Result<u64, Error> {
        let _paused = match self.place.cluster() {
            Some(cluster) if migrate_from.is_some() => Some(cluster.pause().await),
            _ => None,
        };
        // Before it is live: a start must find the generation that the record names.
        let (kept, files) = (self.kept.clone(), candidate.source.clone());
        let keeping = Blocking::OnThreads.run(move || {
            let was_kept = kept.has(files.digest());
            kept.keep(&files).map(|()| was_kept)
        });
        let was_kept = keeping.await.map_err(Error::Keep)?;
        let description = guest.description().clone();
        let promotion = Promotion {
            guest,
            digest: candidate.digest,
            component: candidate.component_digest,
            release: agreed.release(),
            held: None,
        };
        let promoted = self.writer.promote(promotion).await;
        agreed.came_to(&promoted);
        let kept = self.kept.clone();
        let (digest, most) = (candidate.digest, candidate.settings.rollout.keep);
        let live = match promoted {
            Ok(live) => live,
            Err(error) => {
                // If it may have been stored, a start needs it.
                if !was_kept && !matches!(error, PromoteError::NotStored(_)) {
                    Blocking::OnThreads.run(move || kept.forget(digest)).await;
                }
                return Err(error.into());
            }
        };
        self.live.put_in_force(&candidate.settings);
        let Description { name, version, .. } = &description;
        self.metrics.swap_live(live.number, name, version);
        let (history, entry) = (self.history.clone(), live.entry(&description));
        let noting = Blocking::OnThreads.run(move || {
            history.note(entry);
            let back = way_back(&history.generations(), None);
            kept.prune(most, back.ok().map(|entry| entry.digest));
        });
        noting.await;
        let (engine, cache) = (self.engine.clone(), self.cache.clone());
        // Nothing waits for it, and the process may end before it does.
        drop(spawn_blocking(move || compiled.keep(&engine, &cache)));
        Ok(live.number)
    }

    fn refused(&self, refusal: &Refusal) {
        self.metrics.swap_refused(refusal.step.name());
        self.place.refuses(refusal);
    }

    fn went_live(&self, took: Duration) {
        self.metrics.swap_took(took);
    }
}

/// The permission to go live. Dropping it gives it up.
pub(super) enum Permission {
    Among(Agreed),
    Alone(Permitted),
}

impl Permission {
    fn release(&self) -> Option<Release> {
        match self {
            Self::Among(agreed) => agreed.release(),
            Self::Alone(permitted) => permitted.release(),
        }
    }

    /// Notes what became of it.
    fn came_to(self, promoted: &Result<writer::Live, PromoteError>) {
        match (self, promoted) {
            (Self::Among(agreed), Ok(live)) => agreed.is_live(live.number),
            (Self::Among(agreed), Err(error)) => agreed.failed(error),
            (Self::Alone(permitted), Ok(live)) => permitted.is_live(live),
            (Self::Alone(_), Err(_)) => {}
        }
    }
}

impl swap::Failure for Error {
    /// An operation that the disk refused may succeed later.
    fn is_transient(&self) -> bool {
        match self {
            Self::Compile(error) => error.is_transient(),
            Self::Keep(_) | Self::Promote(PromoteError::NotStored(_)) => true,
            Self::Promote(PromoteError::Failed { failure, .. }) => {
                matches!(failure, Failure::Store(_))
            }
            _ => false,
        }
    }
}

impl Performer {
    /// Whether the number of shards can come from the source that the settings name.
    fn check_topology(&self, settings: &Settings) -> Result<(), Error> {
        match (
            settings.cluster.topology,
            self.place.cluster(),
            &self.no_pod_identity,
        ) {
            (Topology::Settings, _, _) | (Topology::StatefulSet, Some(_), None) => Ok(()),
            (Topology::StatefulSet, None, _) => Err(Error::NoPeers),
            (Topology::StatefulSet, _, Some(why)) => Err(Error::NoStatefulSet(why.clone())),
        }
    }

    /// The number of shards, as far as this shard knows it.
    fn shards(&self) -> u32 {
        let view = self.writer.views().get();
        view.map_or(self.identity.shards, |view| view.shards())
    }
}

impl LiveSettings {
    fn put_in_force(&self, settings: &Arc<Settings>) {
        let limits = limits(settings, self.most_connections);
        if limits.max_connections < settings.http.max_connections {
            tracing::warn!(
                max_connections = settings.http.max_connections,
                applies = limits.max_connections,
                "http.max_connections cannot be reached: raise the limit on open files, or lower it"
            );
        }
        self.limits.store(Arc::new(limits));
        self.settings.store(Arc::clone(settings));
        if let Some(filter) = &self.filter {
            let directives = settings.log.filter.as_ref().unwrap_or(&self.default_filter);
            if let Err(error) = filter.set(directives) {
                tracing::warn!(%error, "the log filter stays as it was");
            }
        }
    }
}

/// The limits of the settings on clients' requests, with no more connections than there can be.
pub(super) fn limits(settings: &Settings, most_connections: usize) -> http::Limits {
    let http = &settings.http;
    http::Limits {
        max_connections: http.max_connections.min(most_connections),
        max_header_bytes: http.max_header_bytes,
        max_heads_bytes: http.max_heads_bytes,
        max_body_bytes: http.max_body_bytes,
        max_bodies_bytes: http.max_bodies_bytes,
        first_byte_timeout: http.idle_timeout,
        header_timeout: http.header_timeout,
        body_timeout: http.body_timeout,
        idle_timeout: http.idle_timeout,
        answer_patience: http.body_timeout,
    }
}
