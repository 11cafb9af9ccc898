//! A guest that can be called, and its pool of instances.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ostrakon_base::digest::Digest;
use ostrakon_contract::contract::{Description, Part, Reply, Request, Route};
use ostrakon_observe::metrics::{DropReason, Export, Label as _, Metrics};
use ostrakon_settings::settings::Settings;
use ostrakon_store::{Group, Migration, Transaction};
use tokio::runtime::Handle;

use super::bindings::ServicePre;
use super::bound::Bound;
use super::clock;
use super::component::Linked;
use super::context::{Context, Environment};
use super::copies::Copies;
use super::engine::Engine;
use super::failure::Failure;
use super::instance::{Instance, ReadData};
use super::log::GuestLog;

/// The limit on the length of a guest's name and version, in bytes.
const MAX_NAME: usize = 64;

/// Why a linked component cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Instantiate(Failure),
    #[error(transparent)]
    Describe(Failure),
    /// The description violates the contract.
    #[error("{0}")]
    Description(String),
    #[error(transparent)]
    Check(Failure),
    /// `check` rejected the settings.
    #[error("{0}")]
    Refused(String),
    /// `owner` failed, or gave a wrong result.
    #[error("{0}")]
    Owner(String),
}

/// A guest with its settings. Its instances are reused: a new instance per request would cost
/// many times the call.
pub struct Guest {
    engine: Engine,
    pre: ServicePre<Context>,
    environment: Arc<Environment>,
    log: Arc<GuestLog>,
    description: Description,
    /// A std mutex: held only for a push or a pop.
    ///
    /// Boxed, since an instance has kilobytes that should not be moved each time.
    #[expect(clippy::vec_box, reason = "see above")]
    idle: Mutex<Vec<Box<Instance>>>,
    max_idle: usize,
}

impl fmt::Debug for Guest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Guest")
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}

impl Guest {
    /// Instantiates a component with its settings, and calls its `describe` and `check`. `label`
    /// distinguishes its log lines from those of other generations.
    ///
    /// # Errors
    /// If the component cannot serve.
    pub async fn check(
        linked: &Linked,
        environment: Environment,
        label: String,
    ) -> Result<Self, CheckError> {
        let deadline = environment.settings.guest.check_deadline;
        let lines = environment.settings.guest.log_lines_per_second;
        let log = GuestLog::new(label, lines, Arc::clone(&environment.metrics));
        let (environment, log) = (Arc::new(environment), Arc::new(log));
        let (engine, pre) = (linked.engine.clone(), linked.pre.clone());
        let new = Instance::new(
            &engine,
            &pre,
            Arc::clone(&environment),
            Arc::clone(&log),
            deadline,
        );
        let mut instance = new.await.map_err(CheckError::Instantiate)?;
        let described = instance.describe(deadline).await;
        let description = described.map_err(CheckError::Describe)?;
        if description.name.is_empty()
            || description.name.len() > MAX_NAME
            || description.version.len() > MAX_NAME
        {
            return Err(CheckError::Description(format!(
                "`describe` gives a name of {} bytes and a version of {}: a name must have 1 to {MAX_NAME}, a version at most {MAX_NAME}",
                description.name.len(),
                description.version.len(),
            )));
        }
        let checked = instance.check(deadline).await;
        checked
            .map_err(CheckError::Check)?
            .map_err(CheckError::Refused)?;
        check_owner(&mut instance, deadline).await?;
        environment.metrics.instance_created();
        let workers = Handle::current().metrics().num_workers();
        Ok(Self {
            engine,
            pre,
            environment,
            log,
            description,
            idle: Mutex::new(vec![Box::new(instance)]),
            // Each worker thread calls one instance at a time; the writer and slow reads have one
            // each.
            max_idle: 2 * workers + 2,
        })
    }

    /// A guest of the same component with the same settings, for a rehearsal: its instances are its
    /// own, and nothing counts in the host's metrics. `label` distinguishes its log lines; without one
    /// it logs nothing.
    #[must_use]
    pub fn double(&self, label: Option<String>) -> Self {
        let metrics = Arc::new(Metrics::new(""));
        let lines = self.settings().guest.log_lines_per_second;
        let log = match label {
            Some(label) => GuestLog::new(label, lines, Arc::clone(&metrics)),
            None => GuestLog::silent(Arc::clone(&metrics)),
        };
        let Environment {
            settings,
            identity,
            files,
            secrets,
            metrics: _,
        } = &*self.environment;
        let environment = Environment {
            settings: Arc::clone(settings),
            identity: *identity,
            files: Arc::clone(files),
            secrets: secrets.clone(),
            metrics,
        };
        Self {
            engine: self.engine.clone(),
            pre: self.pre.clone(),
            environment: Arc::new(environment),
            log: Arc::new(log),
            description: self.description.clone(),
            idle: Mutex::default(),
            max_idle: 1,
        }
    }

    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The runtime's settings of the guest's generation.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.environment.settings
    }

    /// The ordinal of a partition's owner among `shards` shards, as this guest assigns it.
    ///
    /// # Errors
    /// If the guest fails, or gives a shard that does not exist.
    pub async fn owner(self: &Arc<Self>, partition: &[u8], shards: u32) -> Result<u32, Failure> {
        self.owning(shards).await?.owner(partition).await
    }

    /// Prepares to look up the owners of many partitions among `shards` shards.
    ///
    /// # Errors
    /// If an instance is needed and cannot be created.
    pub async fn owning(self: &Arc<Self>, shards: u32) -> Result<Owning, Failure> {
        // The only possible owner is shard 0.
        let lease = if shards == 1 {
            None
        } else {
            Some(self.lease(shards).await?)
        };
        Ok(Owning { lease, shards })
    }

    /// Leases an instance to call, until the lease is dropped, for answers among `shards` shards.
    ///
    /// # Errors
    /// If a new instance is needed and cannot be created.
    ///
    /// # Panics
    /// If a thread has panicked while it took or returned an instance.
    pub async fn lease(self: &Arc<Self>, shards: u32) -> Result<Lease, Failure> {
        let idle = self
            .idle
            .lock()
            .expect("no holder of this lock panics")
            .pop();
        let mut instance = match idle {
            Some(instance) => instance,
            // Boxed: it is rarely needed, and its future is large.
            None => Box::pin(self.create()).await?,
        };
        instance.shards = shards;
        instance.now = None;
        Ok(Lease {
            guest: Arc::clone(self),
            instance: Some(instance),
            fate: None,
        })
    }

    async fn create(&self) -> Result<Box<Instance>, Failure> {
        let instance = Instance::new(
            &self.engine,
            &self.pre,
            Arc::clone(&self.environment),
            Arc::clone(&self.log),
            self.environment.settings.guest.read_deadline,
        );
        let instance = Box::new(instance.await?);
        self.environment.metrics.instance_created();
        Ok(instance)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let idle = self.idle.get_mut().map_or(0, |idle| idle.len());
        for _ in 0..idle {
            self.environment
                .metrics
                .instance_dropped(DropReason::Generation);
        }
    }
}

/// Checks that `owner` gives valid shards before it decides where data lives.
async fn check_owner(instance: &mut Instance, deadline: Duration) -> Result<(), CheckError> {
    for (partition, shards) in [(&b"a"[..], 1), (b"ostrakon", 3), (b"\xff\x00", 7)] {
        let owner = instance.owner(partition, shards, deadline).await;
        let owner = owner.map_err(|failure| CheckError::Owner(failure.to_string()))?;
        if owner >= shards {
            return Err(CheckError::Owner(format!(
                "`owner` gives shard {owner} of {shards} shards: it must be below their number"
            )));
        }
    }
    Ok(())
}

/// The exclusive use of an instance. A call that fails or is cut off makes the lease drop the
/// instance.
pub struct Lease {
    guest: Arc<Guest>,
    instance: Option<Box<Instance>>,
    /// Why the instance must not be reused.
    fate: Option<DropReason>,
}

/// Looks up the owners of partitions, one after another, with one instance.
#[derive(Debug)]
pub struct Owning {
    /// None if there is only one shard.
    lease: Option<Lease>,
    shards: u32,
}

impl Owning {
    /// As for [`Guest::owner`].
    ///
    /// # Errors
    /// As for [`Guest::owner`].
    pub async fn owner(&mut self, partition: &[u8]) -> Result<u32, Failure> {
        match &mut self.lease {
            Some(lease) => lease.owner(partition, self.shards).await,
            None => Ok(0),
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Lease").finish_non_exhaustive()
    }
}

impl Lease {
    /// Has the guest told the request's instant in each call of this lease, also where it writes.
    pub fn at_the_instant_of(&mut self, request: &Request) {
        if let Some(instance) = &mut self.instance {
            instance.now = Some(request.kept.instant(clock::now));
        }
    }

    /// Asks the guest where a request belongs.
    ///
    /// # Errors
    /// If the guest fails.
    pub async fn route(&mut self, request: &Arc<Request>, bound: Bound) -> Result<Route, Failure> {
        #[cfg(feature = "bench-native")]
        if let Some(call) = super::native::Call::of(request) {
            return Ok(call.route());
        }
        let routed = self.begin_within(bound).route(request, bound.time()).await;
        self.end(routed.as_ref().err(), Export::Route, bound);
        routed
    }

    /// The ordinal of a partition's owner among `shards` shards.
    ///
    /// # Errors
    /// If the guest fails, or gives a shard that does not exist.
    pub async fn owner(&mut self, partition: &[u8], shards: u32) -> Result<u32, Failure> {
        let deadline = self.guest.settings().guest.write_deadline;
        let owner = self.begin().owner(partition, shards, deadline).await;
        let owner = owner.and_then(|owner| {
            let out_of_range = || Failure::Trap(format!("`owner` gave {owner} of {shards} shards"));
            (owner < shards).then_some(owner).ok_or_else(out_of_range)
        });
        self.end(
            owner.as_ref().err(),
            Export::Owner,
            Bound::Deadline(deadline),
        );
        owner
    }

    /// Answers a request that only reads.
    ///
    /// # Errors
    /// If the guest fails.
    pub async fn read(
        &mut self,
        request: &Arc<Request>,
        data: ReadData,
        bound: Bound,
    ) -> Result<Reply, Failure> {
        #[cfg(feature = "bench-native")]
        if let Some(replied) = super::native::Call::of(request).and_then(|call| call.read(&data)) {
            return replied.map_err(Failure::Store);
        }
        let instance = self.begin_within(bound);
        let replied = instance.read(request, data, bound.time()).await;
        self.end(replied.as_ref().err(), Export::Handle, bound);
        replied
    }

    /// Answers a request that may write, within the write deadline. Returns the group, with the
    /// request's writes if there is a reply that does not ask to discard them.
    pub async fn write(
        &mut self,
        request: &Arc<Request>,
        transaction: Transaction,
    ) -> (Group, Result<Reply, Failure>) {
        #[cfg(feature = "bench-native")]
        let transaction = match super::native::Call::of(request) {
            None => transaction,
            Some(call) => match call.write(transaction) {
                Ok((group, reply)) => return (group, Ok(reply)),
                Err(transaction) => transaction,
            },
        };
        let deadline = self.guest.settings().guest.write_deadline;
        let (group, replied) = self.begin().write(request, transaction, deadline).await;
        self.end(
            replied.as_ref().err(),
            Export::Handle,
            Bound::Deadline(deadline),
        );
        (group, replied)
    }

    /// Joins the parts of all shards. `mine` is the digest of the guest with its settings, by
    /// which parts of other generations are told apart.
    ///
    /// # Errors
    /// If the guest fails.
    pub async fn gather(
        &mut self,
        request: &Arc<Request>,
        parts: &[Part],
        mine: Digest,
        bound: Bound,
    ) -> Result<Reply, Failure> {
        let instance = self.begin_within(bound);
        let replied = instance.gather(request, parts, mine, bound.time()).await;
        self.end(replied.as_ref().err(), Export::Gather, bound);
        replied
    }

    /// Migrates the shard from a schema, within the migrate deadline. Returns the migration, to
    /// be committed or dropped.
    pub async fn migrate(
        &mut self,
        from: u32,
        migration: Migration,
    ) -> (Migration, Result<Result<(), String>, Failure>) {
        let deadline = self.guest.settings().guest.migrate_deadline;
        self.migrate_within(from, migration, deadline).await
    }

    /// As [`Lease::migrate`], within another deadline.
    pub async fn migrate_within(
        &mut self,
        from: u32,
        migration: Migration,
        deadline: Duration,
    ) -> (Migration, Result<Result<(), String>, Failure>) {
        let (migration, migrated) = self.begin().migrate(from, migration, deadline).await;
        self.end(
            migrated.as_ref().err(),
            Export::Migrate,
            Bound::Deadline(deadline),
        );
        (migration, migrated)
    }

    fn begin(&mut self) -> &mut Instance {
        // Remains set if the call's future is dropped before it ends.
        self.fate = Some(DropReason::Deadline);
        let instance = self.instance.as_mut();
        let instance = instance.expect("the instance is there until the lease is dropped");
        instance.copies = Copies::ANY;
        instance
    }

    fn begin_within(&mut self, bound: Bound) -> &mut Instance {
        let instance = self.begin();
        instance.copies = bound.copies();
        instance
    }

    fn end(&mut self, failure: Option<&Failure>, export: Export, bound: Bound) {
        if let (Some(Failure::Deadline), Bound::Budget(_)) = (failure, bound) {
            self.fate = Some(DropReason::Budget);
            return;
        }
        if let Some(failure) = failure {
            // To the guest's log, whose limit on lines includes the guest's own lines.
            let export = Export::VALUES[export.index()];
            let line = format!("`{export}` failed: {failure}");
            if let Some(instance) = &self.instance {
                instance.log(tracing::Level::WARN, &line);
            }
        }
        self.fate = match failure {
            None => None,
            Some(failure) if failure.is_harmless() => None,
            Some(Failure::Deadline) => Some(DropReason::Deadline),
            Some(Failure::Memory(_)) => Some(DropReason::Memory),
            Some(_) => Some(DropReason::Trap),
        };
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut instance) = self.instance.take() else {
            return;
        };
        instance.requests += 1;
        let max_requests = self.guest.settings().guest.max_requests_per_instance;
        let fate = self.fate.or_else(|| {
            if instance.requests >= max_requests {
                Some(DropReason::Requests)
            } else if instance.has_grown() {
                Some(DropReason::Memory)
            } else {
                None
            }
        });
        if fate.is_none() {
            let mut idle = self
                .guest
                .idle
                .lock()
                .expect("no holder of this lock panics");
            if idle.len() < self.guest.max_idle {
                idle.push(instance);
                return;
            }
        }
        let reason = fate.unwrap_or(DropReason::Requests);
        self.guest.environment.metrics.instance_dropped(reason);
    }
}
