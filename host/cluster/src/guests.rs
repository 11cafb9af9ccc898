//! Finds the guests whose `owner` functions count.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use ostrakon_base::blocking::Blocking;
use ostrakon_base::digest::Digest;
use ostrakon_contract::contract::Description;
use ostrakon_engine::{
    Cache, CheckError, CompileError, Compiler, Engine, Environment, Failure, Guest, Identity,
    Limits, LinkError, Purpose,
};
use ostrakon_observe::metrics::Metrics;
use ostrakon_protocol::{Ordinal, Placement, Plan};
use ostrakon_shard::swap::history::History;
use ostrakon_shard::swap::{Candidate, Kept, Rejection};
use ostrakon_shard::writer::{Change, ChangeError, Live, Owners};
use ostrakon_volumes::secrets::Secrets;
use ostrakon_volumes::volume::Files;

use super::Cluster;
use super::message::{PeerRequest, PeerResponse};

/// The means to make guests that do not serve, and only say who owns a partition.
#[derive(Clone)]
pub struct Guests {
    pub engine: Engine,
    /// The compiled components.
    pub cache: Cache,
    pub compiler: Compiler,
    /// The generations that served.
    pub kept: Kept,
    /// The generations that the stored plan names.
    pub of_plan: Kept,
    /// Which generations there were.
    pub history: History,
    /// Counts the calls.
    pub metrics: Arc<Metrics>,
    pub identity: Identity,
    pub blocking: Blocking,
    /// For content that rehearses; other guests get none.
    pub secrets: Secrets,
    /// The data directory.
    pub directory: PathBuf,
}

impl fmt::Debug for Guests {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Guests").finish_non_exhaustive()
    }
}

/// Why a generation's guest cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    #[error("no shard that can be asked has the generation {0}")]
    Nowhere(Digest),
    /// The files do not form a generation.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The component does not fit the contract.
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Check(#[from] CheckError),
}

impl Guests {
    /// Notes a generation that has gone live.
    pub(super) async fn note(&self, live: &Live, described: &Description) {
        let (history, entry) = (self.history.clone(), live.entry(described));
        self.blocking.run(move || history.note(entry)).await;
    }

    /// The files of a generation in the data directory.
    fn load(&self, digest: Digest) -> Option<Files> {
        let of_plan = || self.of_plan.find(digest);
        self.kept.find(digest).or_else(of_plan)
    }

    /// Makes a guest that does not serve: it gets no secret, and nothing of it is kept.
    /// Dropping the future ends the work.
    ///
    /// # Errors
    /// When the guest would be refused.
    pub async fn make(&self, files: &Files, purpose: Purpose) -> Result<Guest, MakeError> {
        // Placement is a pure function, so it gets no secret.
        self.make_of(files, purpose, Secrets::default()).await
    }

    /// Makes a guest that answers requests without effect, with the Secret.
    ///
    /// # Errors
    /// When the guest would be refused.
    pub(super) async fn make_with_secrets(
        &self,
        files: &Files,
        purpose: Purpose,
    ) -> Result<Guest, MakeError> {
        self.make_of(files, purpose, self.secrets.clone()).await
    }

    async fn make_of(
        &self,
        files: &Files,
        purpose: Purpose,
        secrets: Secrets,
    ) -> Result<Guest, MakeError> {
        let files = files.clone();
        let candidate = self.blocking.run(move || Candidate::new(&files)).await?;
        let compiling = self.compiler.compile(
            &self.engine,
            Some(&self.cache),
            candidate.component_digest,
            &candidate.component,
            purpose,
            Limits::of(&candidate.settings),
        );
        let linked = compiling.await?.link(&self.engine)?;
        let environment = Environment {
            settings: candidate.settings,
            identity: self.identity,
            files: candidate.files,
            secrets,
            metrics: Arc::clone(&self.metrics),
        };
        let label = candidate.digest.short();
        Ok(Guest::check(&linked, environment, label).await?)
    }
}

impl Cluster {
    /// Adopts a plan and its guests. The guests are on the disk before the plan, and as long as
    /// it is: a start must find them without any peer.
    pub(super) async fn take(&self, plan: Plan) -> Result<(), ChangeError> {
        let owners = self.owners(&plan).await?;
        let mut found = Vec::new();
        for digest in named(&plan) {
            if let Some(files) = self.find(digest).await {
                found.push(files);
            } else {
                tracing::warn!(
                    %digest,
                    "no shard that can be asked has a generation that the plan names: another one with \
                     its sharding takes its place"
                );
            }
        }
        let of_plan = &self.0.guests.of_plan;
        // One plan must not remove what another needs.
        let _one_after_another = self.0.learning.taking.lock().await;
        let keep = {
            let of_plan = of_plan.clone();
            move || found.iter().try_for_each(|files| of_plan.keep(files))
        };
        let blocking = self.0.guests.blocking;
        blocking.run(keep).await.map_err(ChangeError::Unkept)?;
        self.change(Change::Learn(plan, owners)).await?;
        self.finds_plan();
        if let Some(plan) = self.plan() {
            let of_plan = of_plan.clone();
            blocking.run(move || of_plan.retain(&named(&plan))).await;
        }
        Ok(())
    }

    /// The guests whose `owner` functions count under a plan.
    pub(super) async fn owners(&self, plan: &Plan) -> Result<Owners, ChangeError> {
        let to = self.owner(&plan.to).await?;
        let from = if plan.from.places_as(&plan.to) {
            Arc::clone(&to)
        } else {
            self.owner(&plan.from).await?
        };
        Ok(Owners { from, to })
    }

    pub(super) async fn owner(&self, placement: &Placement) -> Result<Arc<Guest>, ChangeError> {
        let view = self.0.writer.views().get();
        if let Some(view) = &view {
            // Two generations with the same sharding version place partitions alike.
            if view.guest.description().sharding == placement.sharding {
                return Ok(Arc::clone(&view.guest));
            }
            // Guests found earlier are still valid.
            if let Some((plan, owners)) = view.membership.as_ref().and_then(|membership| {
                Some((membership.shard.plan()?.clone(), membership.owners.clone()?))
            }) {
                for (known, guest) in [(plan.from, owners.from), (plan.to, owners.to)] {
                    if known.owner == placement.owner {
                        return Ok(guest);
                    }
                }
            }
        }
        let made = self.make(placement.owner).await;
        made.map(Arc::new)
            .map_err(|error| ChangeError::Owner(Failure::Trap(error.to_string())))
    }

    async fn make(&self, digest: Digest) -> Result<Guest, MakeError> {
        let guests = &self.0.guests;
        let files = self.find(digest).await.ok_or(MakeError::Nowhere(digest))?;
        tracing::debug!(%digest, "a generation's guest is made for its owners");
        guests.make(&files, Purpose::Serve).await
    }

    /// The files of a generation in the data directory, or of the candidate, for a peer.
    pub(super) fn files(&self, digest: Digest) -> Option<BTreeMap<String, Bytes>> {
        let files = self.offered(digest).or_else(|| self.0.guests.load(digest));
        Some(BTreeMap::clone(files?.contents()))
    }

    /// The files of a generation, from the data directory or from another shard.
    pub(super) async fn find(&self, digest: Digest) -> Option<Files> {
        match self.0.guests.load(digest) {
            Some(files) => Some(files),
            None => self.fetch(digest).await,
        }
    }

    /// Asks other shards for a generation.
    async fn fetch(&self, digest: Digest) -> Option<Files> {
        let shards = self.plan().map_or(1, |plan| plan.shards());
        for shard in (0..shards).map(Ordinal).filter(|shard| *shard != self.0.me) {
            if let Ok(PeerResponse::Generation { files: Some(files) }) =
                self.ask(shard, &PeerRequest::Generation { digest }).await
            {
                let files = Files::new(files);
                // The digest proves that this is the generation, whoever sent it.
                if files.digest() == digest {
                    return Some(files);
                }
            }
        }
        None
    }
}

/// The generations that a plan names, each once.
fn named(plan: &Plan) -> Vec<Digest> {
    let mut named = vec![plan.from.owner, plan.to.owner];
    named.dedup();
    named
}
