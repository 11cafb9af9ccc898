//! An instance of a guest, and its calls.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use ostrakon_base::digest::Digest;
use ostrakon_contract::contract::{Access, Description, Part, Reply, Request, Route, Target};
use ostrakon_observe::metrics::Export;
use ostrakon_observe::trace::{Operation, Trace};
use ostrakon_store::{Group, Migration, Snapshot, Transaction};
use wasmtime::Store;

use super::bindings::ostrakon::shard::types as wit;
use super::bindings::{Service, ServicePre};
use super::context::{Call, Context, Data, Environment, Read};
use super::copies::Copies;
use super::engine::Engine;
use super::failure::Failure;
use super::grace::Time;
use super::log::{GuestLog, cut};
use super::meter;
use super::reply;

/// An instance may keep memory for its next request up to twice its initial memory plus this many
/// bytes.
const SPARE_MEMORY: usize = 8 << 20;

/// The prefix of the only imports that can wait.
const WASI: &str = "wasi:";

/// The limit on handles that an instance may create, of its own resources and the host's. Each
/// takes a few bytes of the host's memory.
const MAX_COMPONENT_HANDLES: usize = 10_000;

#[derive(Clone, Debug)]
pub enum ReadData {
    /// One partition, by its key.
    Partition(Vec<u8>, Arc<Snapshot>),
    /// A partition of another shard: nothing is found.
    Elsewhere(Vec<u8>, Arc<Snapshot>),
    Shard(Arc<Snapshot>),
}

/// An instance with its own memory. It runs one call at a time.
pub(super) struct Instance {
    engine: Engine,
    store: Store<Context>,
    service: Service,
    /// Whether its calls may wait, in an import of WASI: such calls need a stack of their own. Their
    /// futures are boxed, since every request's future would otherwise have room for them.
    may_wait: bool,
    /// The memory after instantiation, in bytes.
    initial_memory: usize,
    /// The number of shards that calls are answered among.
    pub(super) shards: u32,
    /// The time that calls are told; none if each takes its own.
    pub(super) now: Option<u64>,
    /// The limit on bytes copied in each call.
    pub(super) copies: Copies,
    pub(super) requests: u64,
}

impl Instance {
    /// Instantiates the component within `deadline`, since a component can run code then.
    pub(super) async fn new(
        engine: &Engine,
        pre: &ServicePre<Context>,
        environment: Arc<Environment>,
        log: Arc<GuestLog>,
        deadline: Duration,
    ) -> Result<Self, Failure> {
        let shards = environment.identity.shards;
        let most = meter::most(&environment.settings);
        let mut store = Store::new(&engine.wasmtime, Context::new(environment, log));
        store.limiter(|context| &mut context.limiter);
        store.set_hostcall_fuel(most);
        store.set_max_component_handles(MAX_COMPONENT_HANDLES);
        store.epoch_deadline_callback(|mut store| Ok(store.data_mut().call.time.overrun()));
        store.set_epoch_deadline(Engine::ticks(deadline));
        let service = {
            let _calling = engine.calling();
            let instantiated = tokio::time::timeout(deadline, pre.instantiate_async(&mut store));
            match instantiated.await {
                Ok(Ok(service)) => service,
                Ok(Err(error)) => {
                    let context = store.data();
                    let settings = &context.environment.settings;
                    return Err(Failure::of(error, context.limiter.denied, settings));
                }
                Err(_) => return Err(Failure::Deadline),
            }
        };
        let initial_memory = store.data().limiter.used;
        let component = pre.instance_pre().component().component_type();
        let mut imports = component.imports(&engine.wasmtime);
        let may_wait = imports.any(|(name, _)| name.starts_with(WASI));
        Ok(Self {
            engine: engine.clone(),
            store,
            service,
            may_wait,
            initial_memory,
            shards,
            now: None,
            copies: Copies::ANY,
            requests: 0,
        })
    }

    pub(super) async fn describe(&mut self, deadline: Duration) -> Result<Description, Failure> {
        let (_, described) = self
            .call(
                Export::Describe,
                About::Nothing,
                Data::None,
                deadline,
                async |service, store| service.call_describe(store).await,
            )
            .await;
        let description = described?;
        Ok(Description {
            name: description.name,
            version: description.version,
            sharding: description.sharding,
            schema: description.schema,
        })
    }

    pub(super) async fn check(
        &mut self,
        deadline: Duration,
    ) -> Result<Result<(), String>, Failure> {
        self.call(
            Export::Check,
            About::Nothing,
            Data::None,
            deadline,
            async |service, store| service.call_check(store).await,
        )
        .await
        .1
        .map(shorten)
    }

    pub(super) async fn owner(
        &mut self,
        partition: &[u8],
        shards: u32,
        deadline: Duration,
    ) -> Result<u32, Failure> {
        // `owner` is pure: a guest that asks for the number of shards gets its argument.
        let now = std::mem::replace(&mut self.shards, shards);
        let may_wait = self.may_wait;
        let (_, owner) = self
            .call(
                Export::Owner,
                About::Nothing,
                Data::None,
                deadline,
                async |service, store| {
                    if may_wait {
                        return Box::pin(service.call_owner(store, partition, shards)).await;
                    }
                    let owner = service.func_owner().call(store, (partition, shards));
                    owner.map(|(owner,)| owner)
                },
            )
            .await;
        self.shards = now;
        owner
    }

    pub(super) async fn route(
        &mut self,
        request: &Arc<Request>,
        deadline: Duration,
    ) -> Result<Route, Failure> {
        let (method, path) = (request.method.as_str(), request.path.as_str());
        let may_wait = self.may_wait;
        let (_, routed) = self
            .call(
                Export::Route,
                About::Request(request),
                Data::None,
                deadline,
                async |service, store| {
                    if may_wait {
                        return Box::pin(service.call_route(store, method, path)).await;
                    }
                    let routed = service.func_route().call(store, (method, path));
                    routed.map(|(route,)| route)
                },
            )
            .await;
        let relaxed = std::mem::take(&mut self.store.data_mut().relaxed);
        let route = routed?;
        let target = match route.target {
            wit::Target::Partition(key) => {
                let max = self
                    .store
                    .data()
                    .environment
                    .settings
                    .store
                    .max_partition_key_bytes;
                if key.is_empty() || key.len() > max {
                    return Err(Failure::PartitionKey(key.len(), max));
                }
                Target::Partition(key)
            }
            wit::Target::Here => Target::Here,
            wit::Target::Everywhere => Target::Everywhere,
        };
        // Only a request to a partition can write.
        let access = match (route.access, &target) {
            (wit::Access::Write, Target::Partition(_)) => Access::Write,
            _ => Access::Read,
        };
        Ok(Route {
            target,
            access,
            relaxed,
        })
    }

    /// Answers a request that only reads.
    pub(super) async fn read(
        &mut self,
        request: &Arc<Request>,
        data: ReadData,
        deadline: Duration,
    ) -> Result<Reply, Failure> {
        let data = match data {
            ReadData::Partition(partition, snapshot) => {
                let is_elsewhere = false;
                Data::Partition(
                    Read {
                        partition,
                        is_elsewhere,
                    },
                    snapshot,
                )
            }
            ReadData::Elsewhere(partition, snapshot) => {
                let is_elsewhere = true;
                Data::Partition(
                    Read {
                        partition,
                        is_elsewhere,
                    },
                    snapshot,
                )
            }
            ReadData::Shard(snapshot) => Data::Shard(snapshot),
        };
        self.handle(request, data, deadline).await.1
    }

    /// Answers a request that may write. Returns the group, with the request's writes if there is
    /// a reply that does not ask to discard them.
    pub(super) async fn write(
        &mut self,
        request: &Arc<Request>,
        transaction: Transaction,
        deadline: Duration,
    ) -> (Group, Result<Reply, Failure>) {
        let data = Data::Transaction(Box::new(transaction));
        let (data, replied) = self.handle(request, data, deadline).await;
        let Data::Transaction(transaction) = data else {
            unreachable!("a call ends with the data it began with");
        };
        let group = match &replied {
            Ok(reply) if !reply.discard => transaction.commit(),
            _ => transaction.discard(),
        };
        (group, replied)
    }

    async fn handle(
        &mut self,
        request: &Arc<Request>,
        data: Data,
        deadline: Duration,
    ) -> (Data, Result<Reply, Failure>) {
        let (method, path) = (request.method.as_str(), request.path.as_str());
        let (export, body, may_wait) = (Export::Handle, &request.body, self.may_wait);
        let (data, replied) = self
            .call(
                export,
                About::Request(request),
                data,
                deadline,
                async |service, store| {
                    if may_wait {
                        return Box::pin(service.call_handle(store, method, path, body)).await;
                    }
                    let replied = service.func_handle().call(store, (method, path, body));
                    replied.map(|(response,)| response)
                },
            )
            .await;
        let max = self.store.data().environment.settings.guest.max_reply_bytes;
        (
            data,
            replied.and_then(|response| reply::check(response, max)),
        )
    }

    /// Joins the parts of all shards. `mine` is the digest of this guest with its settings.
    pub(super) async fn gather(
        &mut self,
        request: &Arc<Request>,
        parts: &[Part],
        mine: Digest,
        deadline: Duration,
    ) -> Result<Reply, Failure> {
        let (method, path) = (request.method.as_str(), request.path.as_str());
        let origins = parts.iter().filter_map(|part| {
            let origin = part.origin.clone()?;
            let same = origin.digest == mine;
            Some((part.shard, (origin, same)))
        });
        let data = Data::Parts(origins.collect());
        let headers: Vec<Vec<wit::HeaderParam<'_>>> = parts
            .iter()
            .map(|part| {
                let headers = part.reply.headers.iter();
                headers
                    .map(|(name, value)| wit::HeaderParam {
                        name: name.as_str(),
                        value: value.as_bytes(),
                    })
                    .collect()
            })
            .collect();
        let parts: Vec<wit::Part<'_>> = parts
            .iter()
            .zip(&headers)
            .map(|(part, headers)| wit::Part {
                shard: part.shard,
                response: wit::ResponseParam {
                    status: part.reply.status.as_u16(),
                    headers,
                    body: &part.reply.body,
                    discard: part.reply.discard,
                },
            })
            .collect();
        let export = Export::Gather;
        let (_, replied) = self
            .call(
                export,
                About::Request(request),
                data,
                deadline,
                async |service, store| service.call_gather(store, method, path, &parts).await,
            )
            .await;
        let max = self.store.data().environment.settings.guest.max_reply_bytes;
        replied.and_then(|response| reply::check(response, max))
    }

    /// Migrates the shard; returns the migration, to be committed or dropped.
    pub(super) async fn migrate(
        &mut self,
        from: u32,
        migration: Migration,
        deadline: Duration,
    ) -> (Migration, Result<Result<(), String>, Failure>) {
        let data = Data::Migration(Box::new(migration));
        let (data, migrated) = self
            .call(
                Export::Migrate,
                About::Nothing,
                data,
                deadline,
                async |service, store| service.call_migrate(store, from).await,
            )
            .await;
        let Data::Migration(migration) = data else {
            unreachable!("a call ends with the data it began with");
        };
        (*migration, migrated.map(shorten))
    }

    /// Writes a line to the guest's log, with the trace of the last call.
    pub(super) fn log(&self, level: tracing::Level, line: &str) {
        self.store.data().lines.write(level, line);
    }

    /// Whether the instance uses more memory than it may keep.
    pub(super) fn has_grown(&self) -> bool {
        self.store.data().limiter.used > 2 * self.initial_memory + SPARE_MEMORY
    }

    /// Runs one call within `deadline` and returns its data. After a failure that is not harmless
    /// the instance must not be called again.
    async fn call<R>(
        &mut self,
        export: Export,
        about: About<'_>,
        data: Data,
        deadline: Duration,
        make: impl AsyncFnOnce(&Service, &mut Store<Context>) -> wasmtime::Result<R>,
    ) -> (Data, Result<R, Failure>) {
        let began = Instant::now();
        let trace = about.trace();
        let mut span = trace.and_then(|trace| trace.span(operation(export)?));
        let context = self.store.data_mut();
        context.lines.set_trace(trace.and_then(Trace::id));
        context.call = Call {
            export: Some(export),
            request: about.visible(),
            shards: self.shards,
            data,
            copies: self.copies,
            time: Time::until(began.checked_add(deadline)),
            now: self.now,
            random: None,
        };
        context.limiter.denied = false;
        self.store.set_epoch_deadline(Engine::ticks(deadline));
        let called = {
            let _calling = self.engine.calling();
            let mut call = pin!(make(&self.service, &mut self.store));
            match poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await {
                Poll::Ready(called) => Ok(called),
                // Few calls wait for anything; only those need a timer.
                Poll::Pending => {
                    let left = deadline.saturating_sub(began.elapsed());
                    Box::pin(tokio::time::timeout(left, call)).await
                }
            }
        };
        let context = self.store.data_mut();
        let denied = context.limiter.denied;
        let call = std::mem::replace(&mut context.call, Call::none(self.shards));
        context
            .environment
            .metrics
            .guest_call(export, began.elapsed());
        let result = match called {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) => Err(Failure::of(error, denied, &context.environment.settings)),
            Err(_) => Err(Failure::Deadline),
        };
        if let (Some(span), Err(failure)) = (&mut span, &result) {
            span.fail(failure.to_string());
        }
        (call.data, result)
    }
}

/// A guest's reason, cut to the length of a log line.
fn shorten(said: Result<(), String>) -> Result<(), String> {
    said.map_err(|reason| cut(&reason).to_owned())
}

/// The request that a call concerns.
enum About<'a> {
    Nothing,
    Request(&'a Arc<Request>),
}

impl About<'_> {
    fn trace(&self) -> Option<&Trace> {
        match self {
            Self::Nothing => None,
            Self::Request(request) => Some(&request.trace),
        }
    }

    fn visible(&self) -> Option<Arc<Request>> {
        match self {
            Self::Nothing => None,
            Self::Request(request) => Some(Arc::clone(request)),
        }
    }
}

/// The operation of a call that belongs to a request. The other exports are called for none.
fn operation(export: Export) -> Option<Operation> {
    match export {
        Export::Route => Some(Operation::GuestRoute),
        Export::Handle => Some(Operation::GuestHandle),
        Export::Gather => Some(Operation::GuestGather),
        Export::Describe | Export::Check | Export::Owner | Export::Migrate => None,
    }
}
