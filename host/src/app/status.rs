//! What the admin port shows of the shard.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::credentials::PeerCredentials;
use crate::admin::Subject;
use crate::lane::{Lane, Place};
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::secrets::Secrets;
use crate::swap::Status;

/// The shard, for the admin port, which is open before the shard is.
#[derive(Clone)]
pub(super) struct Shard {
    pub(super) ordinal: u32,
    pub(super) readiness: Readiness,
    pub(super) store_file: PathBuf,
    pub(super) parts: Arc<ArcSwapOption<Parts>>,
}

/// What is there once the shard has started.
pub(super) struct Parts {
    pub(super) lane: Lane,
    pub(super) swap: watch::Receiver<Status>,
    pub(super) secrets: Secrets,
    pub(super) credentials: Option<PeerCredentials>,
}

impl Shard {
    /// The store's bytes on disk and its entries; zero where they are unknown.
    fn store_size(&self, parts: &Parts) -> (u64, u64) {
        let bytes = fs::metadata(&self.store_file).map_or(0, |metadata| metadata.len());
        let view = parts.lane.views().get();
        let entries = view.and_then(|view| view.snapshot.entries().ok());
        (bytes, entries.unwrap_or_default())
    }
}

impl Subject for Shard {
    fn live(&self) -> Result<(), String> {
        match &*self.parts.load() {
            Some(parts) if !parts.lane.is_alive() => Err("the lane's thread has ended".to_owned()),
            _ => Ok(()),
        }
    }

    fn status(&self) -> Value {
        let ready = self.readiness.check();
        let mut status = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "shard": self.ordinal,
            "ready": ready.is_ok(),
            "not_ready": ready.err().map(|why| why.to_string()),
        });
        if let Some(parts) = &*self.parts.load() {
            let swap = parts.swap.borrow().clone();
            let (bytes, entries) = self.store_size(parts);
            status["generation"] = json!(swap.live);
            status["candidate"] = json!(swap.candidate);
            status["refused"] = json!(swap.refused);
            status["last_refused"] = json!(swap.last_refused);
            status["store"] = json!({ "bytes": bytes, "entries": entries });
            status["lane"] = json!({
                "depth": parts.lane.depth(),
                "last_commit": parts.lane.last_commit().map(unix_seconds),
            });
            let view = parts.lane.views().get();
            status["topology"] = json!(view.and_then(|view| topology(view.place.as_ref()?)));
            let problem = parts.secrets.problem().map(|problem| problem.to_string());
            status["secrets"] = json!({ "problem": problem });
            status["peers"] = json!(parts.credentials.as_ref().map(PeerCredentials::status));
        }
        status
    }

    fn measure(&self, metrics: &Metrics) {
        if let Some(parts) = &*self.parts.load() {
            let (bytes, entries) = self.store_size(parts);
            metrics.store_size(bytes, entries);
            metrics.lane_depth(parts.lane.depth());
        }
    }
}

/// Where the shard stands among others; none before it knows.
fn topology(place: &Place) -> Option<Value> {
    let plan = place.shard.plan()?;
    let batches: usize = place.shard.outboxes().map(|(_, kept)| kept.len()).sum();
    Some(json!({
        "epoch": plan.epoch,
        "shards": plan.to.shards,
        "shards_before": plan.from.shards,
        "sharding": plan.to.sharding,
        "stable": plan.is_stable(),
        "batches_to_send": batches,
        "incarnation": place.shard.incarnation(),
    }))
}

pub(super) fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
