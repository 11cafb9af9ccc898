//! The operators' port: health, state, metrics and draining. It has a thread and a runtime of
//! its own, so that it answers however busy the shard is.

mod plan;
mod rollback;
mod rollout;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, ORIGIN};
use http::{Method, Request, Response, StatusCode, request};
use ostrakon_network::bearer::LiveTokens;
use ostrakon_network::http::{self as server, Caller, Handler, Limits, Refusal, Server, refusals};
use ostrakon_observe::metrics::{Exposition, Listener, Metrics};
use ostrakon_volumes::volume;
use tokio::sync::watch;

use crate::drain::{Drain, Outcome};
use crate::readiness::Readiness;
pub(crate) use plan::NoAnswer;
pub(crate) use rollout::Order;

/// Few clients use this port, and only a component makes a long body, which is never longer
/// than a volume can hold. What these limits let clients hold in memory is a row of the table in
/// deploy/README.md.
const LIMITS: Limits = Limits {
    // An upper limit: lower where few descriptors are available.
    max_connections: 64,
    max_header_bytes: 16 * 1024,
    max_heads_bytes: 2 * 1024 * 1024,
    max_body_bytes: volume::MAX_BYTES,
    max_bodies_bytes: 2 * volume::MAX_BYTES,
    first_byte_timeout: Duration::from_secs(5),
    header_timeout: Duration::from_secs(5),
    body_timeout: Duration::from_secs(5),
    idle_timeout: Duration::from_mins(2),
    // A probe that arrives when all places are taken gets one at once: a client that is slow to
    // take its response gives way.
    answer_patience: Duration::ZERO,
};
/// Every path of the port, with its methods: requests are dispatched by this table.
const ENDPOINTS: [(&str, &[Method], Endpoint); 16] = [
    ("/livez", READ, Endpoint::Live),
    ("/readyz", READ, Endpoint::Ready),
    ("/startupz", READ, Endpoint::Started),
    ("/status", READ, Endpoint::Status),
    ("/metrics", READ, Endpoint::Metrics),
    ("/plan", &[Method::GET, Method::POST], Endpoint::Plan),
    (REHEARSE, &[Method::POST], Endpoint::Rehearse),
    ("/history", READ, Endpoint::History),
    ("/rollback", &[Method::POST], Endpoint::Rollback),
    ("/rollout", READ, Endpoint::Rollout),
    ("/rollout/pause", POST, Endpoint::Order(Order::Pause)),
    ("/rollout/resume", POST, Endpoint::Order(Order::Resume)),
    (
        "/rollout/promote",
        POST,
        Endpoint::Order(Order::Promote { full: false }),
    ),
    ("/rollout/abort", POST, Endpoint::Order(Order::Abort)),
    (
        "/compact",
        &[Method::GET, Method::HEAD, Method::POST, Method::DELETE],
        Endpoint::Compact,
    ),
    ("/drain", &[Method::POST], Endpoint::Drain),
];
const REHEARSE: &str = "/rehearse";
const READ: &[Method] = &[Method::GET, Method::HEAD];
const POST: &[Method] = &[Method::POST];

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Live,
    Ready,
    Started,
    Status,
    Metrics,
    Plan,
    Rehearse,
    History,
    Rollback,
    Rollout,
    Order(Order),
    Compact,
    Drain,
}

/// The endpoint at a path, and its methods.
fn endpoint(path: &str) -> Option<(&'static [Method], Endpoint)> {
    let mut endpoints = ENDPOINTS.into_iter();
    endpoints.find_map(|(at, methods, endpoint)| (at == path).then_some((methods, endpoint)))
}

/// The parts of the shard that the port shows. Called on the port's own thread, so the methods
/// must neither wait nor run a guest on it.
pub(crate) trait Subject: Send + Sync + 'static {
    /// Whether the process can go on; if it cannot, a restart is the only cure. The check must
    /// not cover the guest, load or other shards, because a restart does not cure these.
    ///
    /// # Errors
    /// What is broken.
    fn live(&self) -> Result<(), String>;

    fn status(&self) -> serde_json::Value;

    /// What would move among `shards` shards, by the live guest or by this component.
    ///
    /// # Errors
    /// When the answer cannot be determined.
    fn plan(
        &self,
        shards: u32,
        component: Option<Bytes>,
    ) -> impl Future<Output = Result<serde_json::Value, NoAnswer>> + Send;

    /// Has content tried with live requests, in all shards.
    ///
    /// # Errors
    /// When it cannot be tried.
    fn rehearse(
        &self,
        body: Bytes,
    ) -> impl Future<Output = Result<serde_json::Value, NoAnswer>> + Send;

    /// Which generations there were.
    ///
    /// # Errors
    /// When that is not known yet.
    fn history(&self) -> Result<serde_json::Value, NoAnswer>;

    /// Begins to go back to a former generation: this one, or the one before.
    ///
    /// # Errors
    /// When it cannot be gone back to.
    fn go_back(
        &self,
        to: Option<u64>,
    ) -> impl Future<Output = Result<serde_json::Value, NoAnswer>> + Send;

    /// What goes live next, and what is watched.
    ///
    /// # Errors
    /// When that is not known yet.
    fn rollout(&self) -> Result<serde_json::Value, NoAnswer>;

    /// Does what an operator says to a generation in its steps, or while it is watched.
    ///
    /// # Errors
    /// If there is none that it could be done to.
    fn order(
        &self,
        order: Order,
    ) -> impl Future<Output = Result<serde_json::Value, NoAnswer>> + Send;

    /// How far the last compaction of the data file has come.
    fn compaction(&self) -> serde_json::Value;

    /// Begins a compaction, or stops the one under way.
    ///
    /// # Errors
    /// When it cannot begin.
    fn compact(
        &self,
        begin: bool,
    ) -> impl Future<Output = Result<serde_json::Value, NoAnswer>> + Send;

    /// Sets the metrics that are looked up rather than counted. Called before each rendering.
    fn measure(&self, metrics: &Metrics) {
        let _ = metrics;
    }
}

#[derive(Debug)]
pub(crate) struct Parts<S> {
    pub subject: S,
    pub readiness: Readiness,
    pub drain: Drain,
    pub metrics: Arc<Metrics>,
    /// The tokens of operators on other machines who may change something.
    pub tokens: LiveTokens,
    /// How many connections there are descriptors for.
    pub max_connections: usize,
}

/// The open port. Dropping it closes the port and ends its thread.
#[derive(Debug)]
pub(crate) struct Admin {
    shutdown: Option<watch::Sender<bool>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Serves a bound port on a thread of its own.
    ///
    /// # Errors
    /// When the system refuses a thread or an event queue.
    pub(crate) fn start<S: Subject>(server: Server, parts: Parts<S>) -> io::Result<Self> {
        let (shutdown, down) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("admin".into())
            .spawn(move || {
                let metrics = Arc::clone(&parts.metrics);
                let limits = Arc::new(ArcSwap::from_pointee(Limits {
                    max_connections: LIMITS.max_connections.min(parts.max_connections),
                    ..LIMITS
                }));
                let port = (Listener::Admin, server::plain());
                let mut cut = down.clone();
                runtime.block_on(async {
                    tokio::select! {
                        ended = server.run(Arc::new(parts), limits, metrics, port, down) => {
                            if let Err(error) = ended {
                                tracing::error!(%error, "the admin port ended");
                            }
                        }
                        // Connections are cut: a scrape is not worth waiting for.
                        _ = cut.wait_for(|cut| *cut) => {}
                    }
                });
            })?;
        Ok(Self {
            shutdown: Some(shutdown),
            thread: Some(thread),
        })
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.shutdown.take());
        if let Some(thread) = self.thread.take() {
            // The thread has panicked or ended: either way it is over.
            let _ended = thread.join();
        }
    }
}

impl<S: Subject> Handler for Parts<S> {
    fn refuse(&self, head: &mut request::Parts, caller: &Caller) -> Option<Response<Bytes>> {
        // Every request that does not read changes something or runs the component that it carries.
        let is_taken =
            endpoint(head.uri.path()).is_some_and(|(methods, _)| methods.contains(&head.method));
        let operator = if is_taken && !READ.contains(&head.method) {
            self.admit(&head.headers, caller)
        } else {
            Ok(())
        };
        match operator {
            // Code that rehearses sees the data, and what the Secret has for guests.
            Ok(()) if head.uri.path() == REHEARSE && !is_here(&head.headers, caller) => {
                Some(plan::told(Err(NoAnswer {
                    status: StatusCode::FORBIDDEN,
                    why: "a rehearsal runs code on the live data, so it is allowed only from the same machine: use kubectl exec, or kubectl port-forward".to_owned(),
                })))
            }
            Ok(()) => plan::refuse(head),
            Err(refusal) => Some(refusal.response()),
        }
    }

    async fn call(&self, request: Request<Bytes>, _: &Caller) -> Response<Bytes> {
        // A connection with many requests takes turns with the others, which may be probes.
        tokio::task::yield_now().await;
        let Some((methods, endpoint)) = endpoint(request.uri().path()) else {
            return refusals::NOT_FOUND.response();
        };
        if !methods.contains(request.method()) {
            return not_allowed(methods);
        }
        match endpoint {
            Endpoint::Live => probe(self.subject.live()),
            Endpoint::Ready => probe(self.readiness.check()),
            Endpoint::Started => probe(if self.readiness.is_started() {
                Ok(())
            } else {
                Err("the shard is starting")
            }),
            Endpoint::Status => {
                let status = format!("{:#}\n", self.subject.status());
                answer(StatusCode::OK, JSON, status)
            }
            Endpoint::Metrics => self.metrics(request.headers()),
            Endpoint::Plan => self.plan(request).await,
            Endpoint::Rehearse => plan::told(self.subject.rehearse(request.into_body()).await),
            Endpoint::History => plan::told(self.subject.history()),
            Endpoint::Rollback => plan::told(match rollback::to(request.uri()) {
                Ok(to) => self.subject.go_back(to).await,
                Err(no_answer) => Err(no_answer),
            }),
            Endpoint::Rollout => plan::told(self.subject.rollout()),
            Endpoint::Order(order) => plan::told(match rollout::with(order, request.uri()) {
                Ok(order) => self.subject.order(order).await,
                Err(no_answer) => Err(no_answer),
            }),
            Endpoint::Compact => self.compact(request.method()).await,
            Endpoint::Drain => self.drain().await,
        }
    }
}

impl<S: Subject> Parts<S> {
    fn metrics(&self, headers: &HeaderMap) -> Response<Bytes> {
        self.subject.measure(&self.metrics);
        self.metrics
            .readiness(self.readiness.check().is_ok(), self.drain.has_begun());
        self.metrics.requests_in_flight(self.drain.in_flight());
        let accept = headers.get_all(ACCEPT).into_iter();
        let asked = Exposition::accepted(accept.filter_map(|value| value.to_str().ok()));
        answer(
            StatusCode::OK,
            asked.content_type(),
            self.metrics.show(asked),
        )
    }

    async fn plan(&self, request: Request<Bytes>) -> Response<Bytes> {
        let shards = match plan::shards(request.uri()) {
            Ok(shards) => shards,
            Err(no_plan) => return plan::told(Err(no_plan)),
        };
        let posted = *request.method() == Method::POST;
        let component = posted.then(|| request.into_body());
        plan::told(self.subject.plan(shards, component).await)
    }

    async fn compact(&self, method: &Method) -> Response<Bytes> {
        plan::told(if READ.contains(method) {
            Ok(self.subject.compaction())
        } else {
            self.subject.compact(*method == Method::POST).await
        })
    }
}

impl<S> Parts<S> {
    /// Admits callers that have a token or are on the same machine, such as a preStop hook: a
    /// caller that can drain a shard can take its service away.
    fn admit(&self, headers: &HeaderMap, caller: &Caller) -> Result<(), Refusal> {
        match &*self.tokens.load() {
            _ if is_here(headers, caller) => Ok(()),
            Some(tokens) => tokens.check(headers),
            None => Err(refusals::FORBIDDEN),
        }
    }

    /// Drains the shard, and answers once it has drained.
    async fn drain(&self) -> Response<Bytes> {
        self.drain.begin();
        match self.drain.outcome().await {
            Outcome::Complete => answer(StatusCode::OK, TEXT, "drained\n"),
            Outcome::PartitionsLeft => {
                let text = "the drain's deadline passed with partitions to hand over\n";
                answer(StatusCode::GATEWAY_TIMEOUT, TEXT, text)
            }
            Outcome::DeadlinePassed { in_flight } => {
                let text =
                    format!("the drain's deadline passed with {in_flight} requests in flight\n");
                answer(StatusCode::GATEWAY_TIMEOUT, TEXT, text)
            }
        }
    }
}

/// Whether the caller is a program on the same machine.
fn is_here(headers: &HeaderMap, caller: &Caller) -> bool {
    // A browser names the page it asks for: any page could make it send requests to its own
    // machine.
    caller.is_here() && !headers.contains_key(ORIGIN)
}

fn probe(result: Result<(), impl std::fmt::Display>) -> Response<Bytes> {
    match result {
        Ok(()) => answer(StatusCode::OK, TEXT, "ok\n"),
        Err(why) => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
    }
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn not_allowed(methods: &[Method]) -> Response<Bytes> {
    let mut response = refusals::METHOD_NOT_ALLOWED.response();
    let names: Vec<_> = methods.iter().map(Method::as_str).collect();
    let names = HeaderValue::try_from(names.join(", ")).expect("a method is a word");
    response.headers_mut().insert(ALLOW, names);
    response
}

#[cfg(test)]
mod tests;
