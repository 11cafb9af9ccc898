//! The status of the shard on the admin port.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::StatusCode;
use ostrakon_base::causes::with_causes;
use ostrakon_base::unix_time::unix_time;
use ostrakon_cluster::plan::{self, Planner};
use ostrakon_cluster::{Cluster, MakeError, RehearsalError, Rehearser};
use ostrakon_kubernetes::Kubernetes;
use ostrakon_observe::metrics::{self, Metrics, StoreSize};
use ostrakon_observe::telemetry::Backlog;
use ostrakon_shard::survey;
use ostrakon_shard::swap::{Status, history};
use ostrakon_shard::writer::{Membership, Writer};
use ostrakon_store::{CompactError, Progress};
use ostrakon_volumes::secrets::Secrets;
use rustix::fs::statvfs;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::credentials::{ClientsPort, Credentials, OperatorsPort, PeersPort};
use super::former::Former;
use crate::admin::{NoAnswer, Order, Subject};
use crate::drain::Drain;
use crate::readiness::Readiness;

/// The shard, for the admin port, which opens before the shard does.
#[derive(Clone)]
pub(super) struct Shard {
    pub(super) ordinal: u32,
    pub(super) readiness: Readiness,
    pub(super) drain: Drain,
    pub(super) store_file: PathBuf,
    /// Whether the public port's server has ended. Relaxed: it guards no other data.
    pub(super) public_has_failed: Arc<AtomicBool>,
    pub(super) parts: Arc<ArcSwapOption<Parts>>,
    /// `None` where the process logs elsewhere.
    pub(super) log: Option<Backlog>,
}

/// The parts that exist once the shard has started.
pub(super) struct Parts {
    pub(super) writer: Writer,
    pub(super) swap: watch::Receiver<Status>,
    pub(super) secrets: Secrets,
    pub(super) credentials: Ports,
    /// `None` where the shard is alone.
    pub(super) cluster: Option<Cluster>,
    /// `None` where there is no API server.
    pub(super) kubernetes: Option<Kubernetes>,
    pub(super) planner: Planner,
    pub(super) rehearser: Rehearser,
    pub(super) former: Former,
    /// Runs the work that must not run on the admin port's thread.
    pub(super) runtime: runtime::Handle,
}

pub(super) struct Ports {
    pub(super) clients: Credentials<ClientsPort>,
    pub(super) operators: Credentials<OperatorsPort>,
    /// `None` where the shard is alone.
    pub(super) peers: Option<Credentials<PeersPort>>,
}

impl Shard {
    /// The store's sizes; zero where they are unknown.
    fn store_size(&self, parts: &Parts) -> StoreSize {
        let metadata = fs::metadata(&self.store_file).ok();
        let bytes = metadata.as_ref().map_or(0, Metadata::len);
        let taken = metadata.map_or(0, |metadata| 512 * metadata.blocks());
        let view = parts.writer.views().get();
        let needed = view.as_ref().map(|view| view.snapshot.space());
        let entries = view.and_then(|view| view.snapshot.entries().ok());
        let filesystem = statvfs(&self.store_file).ok().map(|found| {
            let size = |blocks: u64| blocks.saturating_mul(found.f_frsize);
            (size(found.f_blocks), size(found.f_bavail))
        });
        StoreSize {
            bytes,
            entries: entries.unwrap_or_default(),
            reclaimable: needed.map_or(0, |needed| taken.saturating_sub(needed)),
            filesystem,
        }
    }
}

/// The answer of `/status`.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    shard: u32,
    ready: bool,
    not_ready: Option<String>,
    #[serde(flatten)]
    started: Option<Started>,
}

/// The part of the answer that a shard has once it has started.
#[derive(Default, Serialize)]
struct Started {
    generation: Value,
    candidate: Value,
    refused: Value,
    last_refused: Value,
    rollout: Value,
    rehearsal: Value,
    way_back: Value,
    store: Value,
    writer: Value,
    topology: Value,
    kubernetes: Value,
    waits_for: Value,
    problems: Value,
    secrets: Value,
    public: Value,
    admin: Value,
    peers: Value,
}

impl Shard {
    fn started_parts(&self) -> Result<Arc<Parts>, NoAnswer> {
        self.parts.load_full().ok_or_else(|| NoAnswer {
            status: StatusCode::SERVICE_UNAVAILABLE,
            why: "the shard is starting: try again when it is ready".to_owned(),
        })
    }

    /// Does work that must not run on the admin port's thread, unless the shard drains.
    async fn done<T: Send + 'static>(
        &self,
        parts: &Parts,
        what: &str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, NoAnswer> {
        // A set, because dropping it ends the task: the caller may go away.
        let mut doing = JoinSet::new();
        doing.spawn_on(work, &parts.runtime);
        let done = tokio::select! {
            done = doing.join_next() => done,
            () = self.drain.begun() => {
                let why = "the shard is draining: ask another".to_owned();
                let status = StatusCode::SERVICE_UNAVAILABLE;
                return Err(NoAnswer { status, why });
            }
        };
        done.and_then(Result::ok).ok_or_else(|| NoAnswer {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            why: format!("the host failed to {what}: see its log"),
        })
    }

    fn started(&self, parts: &Parts) -> Started {
        let mut swap = parts.swap.borrow().clone();
        if let (Some(live), Some(view)) = (&mut swap.live, parts.writer.views().get())
            && live.digest == view.digest
        {
            // The number changes without a swap where content is released that is live already.
            live.generation = view.generation;
        }
        let StoreSize {
            bytes,
            entries,
            reclaimable,
            ..
        } = self.store_size(parts);
        let store_problem = parts.writer.store_problem();
        let awaited = parts.cluster.as_ref().map(Cluster::awaited);
        let awaited = awaited.iter().flatten().map(|shard| shard.0);
        let problems = parts.cluster.as_ref().map(Cluster::problems);
        let secrets_problem = parts.secrets.problem().map(|problem| problem.to_string());
        let ports = &parts.credentials;
        Started {
            generation: json!(swap.live),
            candidate: json!(swap.candidate),
            refused: json!(swap.refused),
            last_refused: json!(swap.last_refused),
            rollout: parts.former.rollout(),
            rehearsal: json!(parts.writer.stage().findings()),
            way_back: json!(parts.writer.stage().way_back()),
            store: json!({
                "bytes": bytes,
                "entries": entries,
                "reclaimable_bytes": reclaimable,
                "problem": store_problem,
            }),
            writer: json!({
                "depth": parts.writer.depth(),
                "last_commit": parts.writer.last_commit().map(unix_seconds),
            }),
            topology: placed(parts),
            kubernetes: json!(parts.kubernetes.as_ref().map(Kubernetes::status)),
            waits_for: json!(awaited.collect::<Vec<_>>()),
            problems: json!(problems.unwrap_or_default()),
            secrets: json!({ "problem": secrets_problem }),
            public: ports.clients.status(),
            admin: ports.operators.status(),
            peers: json!(ports.peers.as_ref().map(Credentials::status)),
        }
    }
}

impl Subject for Shard {
    fn live(&self) -> Result<(), String> {
        match &*self.parts.load() {
            Some(parts) if !parts.writer.is_alive() => {
                Err("the writer's thread has ended".to_owned())
            }
            _ if self.public_has_failed.load(Ordering::Relaxed) => {
                Err("the public port has ended".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn status(&self) -> Value {
        let ready = self.readiness.check();
        let parts = self.parts.load();
        json!(Report {
            version: env!("CARGO_PKG_VERSION"),
            shard: self.ordinal,
            ready: ready.is_ok(),
            not_ready: ready.err().map(|why| why.to_string()),
            started: parts.as_ref().map(|parts| self.started(parts)),
        })
    }

    async fn plan(&self, shards: u32, component: Option<Bytes>) -> Result<Value, NoAnswer> {
        let parts = self.started_parts()?;
        let planner = parts.planner.clone();
        let find_out = async move { planner.find_out(shards, component.as_ref()).await };
        match self.done(&parts, "plan the change", find_out).await? {
            Ok(outcome) => Ok(json!(outcome)),
            Err(error) => Err(no_plan(&error)),
        }
    }

    async fn rehearse(&self, body: Bytes) -> Result<Value, NoAnswer> {
        let parts = self.started_parts()?;
        let rehearser = parts.rehearser.clone();
        let rehearse = async move { rehearser.rehearse(&body).await };
        match self.done(&parts, "rehearse", rehearse).await? {
            Ok(shards) => Ok(json!({ "shards": shards })),
            Err(error) => Err(no_rehearsal(&error)),
        }
    }

    fn compaction(&self) -> Value {
        let parts = self.parts.load();
        let progress = parts.as_ref();
        let progress = progress.and_then(|parts| parts.writer.compacting().progress());
        compaction(progress)
    }

    fn history(&self) -> Result<Value, NoAnswer> {
        Ok(self.started_parts()?.former.show())
    }

    async fn go_back(&self, to: Option<u64>) -> Result<Value, NoAnswer> {
        let parts = self.started_parts()?;
        let former = parts.former.clone();
        on(&parts.runtime, async move { former.go_back(to).await }).await
    }

    fn rollout(&self) -> Result<Value, NoAnswer> {
        let parts = self.started_parts()?;
        let mut rollout = parts.former.rollout();
        let swap = parts.swap.borrow();
        rollout["refused"] = json!(swap.refused);
        rollout["making"] = json!(swap.candidate);
        let live = rollout["release"]["number"].as_u64().unwrap_or_default();
        rollout["mark"] = format!("{live}@{}", history::now()).into();
        drop(swap);
        Ok(rollout)
    }

    async fn order(&self, order: Order) -> Result<Value, NoAnswer> {
        let parts = self.started_parts()?;
        let former = parts.former.clone();
        on(&parts.runtime, async move { former.order(order).await }).await
    }

    async fn compact(&self, begin: bool) -> Result<Value, NoAnswer> {
        let parts = self.started_parts()?;
        if begin {
            let begun = parts.writer.compact().await;
            let begun = begun.ok_or_else(|| NoAnswer {
                status: StatusCode::SERVICE_UNAVAILABLE,
                why: "the shard is ending".to_owned(),
            })?;
            begun.map_err(|error| NoAnswer {
                status: match error {
                    _ if error.is_full() => StatusCode::INSUFFICIENT_STORAGE,
                    CompactError::Damaged | CompactError::Stopping => StatusCode::CONFLICT,
                    _ => StatusCode::SERVICE_UNAVAILABLE,
                },
                why: with_causes(&error),
            })?;
        } else {
            parts.writer.stop_compacting().await;
        }
        Ok(self.compaction())
    }

    fn measure(&self, metrics: &Metrics) {
        if let Some(log) = &self.log {
            metrics.log_lines_lost(log.lost());
        }
        if let Some(parts) = &*self.parts.load() {
            metrics.store_size(self.store_size(parts));
            let is_missing = parts.writer.missing().borrow().is_some();
            let is_damaged = parts.writer.damage().first().is_some();
            metrics.store_standing(is_missing, is_damaged);
            metrics.writer_depth(parts.writer.depth());
            metrics.last_commit(parts.writer.last_commit().map(unix_seconds));
            metrics.swap_is_refused(parts.swap.borrow().refused.is_some());
            if let Some(cluster) = &parts.cluster {
                metrics.partitions_left(cluster.partitions_to_settle());
                metrics.rollout_waits(cluster.rollout_wait());
                let peers = cluster.peers();
                metrics.peers_up(peers.iter().map(|peer| (peer.shard.0, peer.reached)));
                let view = parts.writer.views().get();
                let membership = view.as_ref().and_then(|view| view.membership.as_ref());
                let plan = membership.and_then(|membership| membership.shard.plan());
                metrics.topology(plan.map(|plan| metrics::Topology {
                    epoch: plan.epoch.0,
                    shards: plan.to.shards,
                    is_moving: !plan.is_stable(),
                    awaited: cluster.awaited().len(),
                    missing: cluster.missing().map_or(0, |missing| missing.shards.len()),
                }));
            }
        }
    }
}

/// The last compaction, as the admin port shows it.
/// Does what waits for other shards or the disk, on the runtime that serves.
async fn on(
    runtime: &runtime::Handle,
    what: impl Future<Output = Result<Value, NoAnswer>> + Send + 'static,
) -> Result<Value, NoAnswer> {
    // A set, because dropping it ends the task: the caller may go away.
    let mut tasks = JoinSet::new();
    tasks.spawn_on(what, runtime);
    let done = tasks.join_next().await;
    done.and_then(Result::ok).unwrap_or_else(|| {
        Err(NoAnswer {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            why: "the host failed to do it: see its log".to_owned(),
        })
    })
}

fn compaction(progress: Option<Progress>) -> Value {
    let Some(progress) = progress else {
        return json!({ "state": "none" });
    };
    let (state, after, error) = match &progress.ended {
        None => ("running", None, None),
        Some(Ok(after)) => ("done", Some(after), None),
        Some(Err(error)) => ("failed", None, Some(with_causes(error))),
    };
    json!({
        "state": state,
        "bytes_before": progress.before,
        "bytes_after": after,
        "bytes_to_copy": progress.of,
        "bytes_copied": progress.copied,
        "seconds": progress.took.as_secs_f64(),
        "error": error,
    })
}

/// The answer for an error of the planner.
fn no_plan(error: &plan::Error) -> NoAnswer {
    let status = match error {
        plan::Error::Shards(_) => StatusCode::BAD_REQUEST,
        plan::Error::Guest(MakeError::Compile(error)) if error.is_transient() => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        plan::Error::Guest(_) => StatusCode::UNPROCESSABLE_ENTITY,
        plan::Error::Here(survey::Error::Busy) => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    NoAnswer {
        status,
        why: with_causes(error),
    }
}

fn no_rehearsal(error: &RehearsalError) -> NoAnswer {
    let status = match error {
        RehearsalError::Content(MakeError::Compile(error)) if error.is_transient() => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        RehearsalError::Body | RehearsalError::Content(_) | RehearsalError::Schema { .. } => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        RehearsalError::NotTried(_) => StatusCode::TOO_MANY_REQUESTS,
        RehearsalError::NotYet | RehearsalError::NotKept => StatusCode::SERVICE_UNAVAILABLE,
    };
    NoAnswer {
        status,
        why: with_causes(error),
    }
}

/// The shard's place among others, and how the others are.
fn placed(parts: &Parts) -> Value {
    let view = parts.writer.views().get();
    let membership = view.as_ref().and_then(|view| view.membership.as_ref());
    let mut placed = json!(membership.and_then(|membership| topology(membership)));
    if let (Some(cluster), Value::Object(topology)) = (&parts.cluster, &mut placed) {
        topology.insert("progress".to_owned(), json!(cluster.progress()));
        topology.insert("peers".to_owned(), json!(cluster.peers()));
        topology.insert("away".to_owned(), json!(cluster.away()));
        let missing = cluster.missing().map(|missing| missing.shards);
        let missing = missing.unwrap_or_default();
        topology.insert("missing".to_owned(), json!(missing));
        let source = view.map(|view| view.guest.settings().cluster.topology);
        topology.insert("source".to_owned(), json!(source));
    }
    placed
}

/// The shard's place among others; `None` before it is known.
fn topology(membership: &Membership) -> Option<Value> {
    let plan = membership.shard.plan()?;
    let batches: usize = membership
        .shard
        .outboxes()
        .map(|(_, kept)| kept.len())
        .sum();
    Some(json!({
        "epoch": plan.epoch,
        "shards": plan.to.shards,
        "shards_before": plan.from.shards,
        "sharding": plan.to.sharding,
        "stable": plan.is_stable(),
        "batches_to_send": batches,
        "incarnation": membership.shard.incarnation(),
    }))
}

fn unix_seconds(time: SystemTime) -> f64 {
    unix_time(time).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ostrakon_test_support::pages::{code, rows};

    use super::*;

    #[test]
    fn the_reference_has_exactly_the_fields_of_a_status() {
        let report = json!(Report {
            version: "",
            shard: 0,
            ready: true,
            not_ready: None,
            started: Some(Started::default()),
        });
        let all = report.as_object().expect("it has fields");
        let rows = rows(include_str!("../../../README.md"), "| field of `/status` |");
        let shown = rows.iter().flat_map(|row| code(row[0]));
        assert_eq!(
            shown.collect::<BTreeSet<_>>(),
            all.keys().map(String::as_str).collect(),
            "host/README.md, and `Report`"
        );
    }
}
