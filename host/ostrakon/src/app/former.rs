//! Former generations, and going back to one, for the admin port.

use http::StatusCode;
use ostrakon_shard::swap::history::{Entry, History, NoWayBack, way_back};
use ostrakon_shard::swap::{Back, Busy, Kept};
use serde_json::{Value, json};

use super::baking::Baking;
use super::place::Place;
use crate::admin::{NoAnswer, Order};

/// The parts that know of former generations.
#[derive(Clone)]
pub(super) struct Former {
    pub(super) history: History,
    pub(super) kept: Kept,
    pub(super) place: Place,
    pub(super) baking: Baking,
}

impl Former {
    /// The answer of `/history`, the newest generation first.
    pub(super) fn show(&self) -> Value {
        let generations = self.history.generations();
        let last = generations.len().saturating_sub(1);
        let shown = generations.iter().enumerate().rev().map(|(at, entry)| {
            json!({
                "generation": entry.generation,
                "digest": entry.digest,
                "name": entry.name,
                "version": entry.version,
                "schema": entry.schema,
                "live_since": entry.live_since,
                "live": at == last,
                "kept": self.kept.has(entry.digest),
                "went_back_from": entry.held,
            })
        });
        let shown: Vec<_> = shown.collect();
        let (to, held, failed) = self.place.back(|back| {
            let failed = back.failed().map(str::to_owned);
            (back.to(), back.held(), failed)
        });
        json!({
            "generations": shown,
            "held": held,
            "going_back_to": to,
            "waits_for": to.and_then(|_| self.place.cluster()?.candidate_waits_for()),
            "failed": failed,
        })
    }

    /// What goes live next, for the status.
    pub(super) fn rollout(&self) -> Value {
        let mut shown = match &self.place {
            Place::Among(cluster) => json!(cluster.standing()),
            Place::Alone(alone) => json!({
                "release": alone.serves_by().map(|release| release.live),
                "held": alone.back(Back::held),
            }),
        };
        if let (Some(shown), Value::Object(watched)) = (shown.as_object_mut(), self.baking.show()) {
            shown.extend(watched);
        }
        shown
    }

    /// Does what an operator says to what is in its steps, or watched.
    ///
    /// # Errors
    /// If there is nothing that it could be done to.
    pub(super) async fn order(&self, order: Order) -> Result<Value, NoAnswer> {
        self.baking.obey(order).await
    }

    /// Begins to go back to the content of a generation, and returns that generation.
    ///
    /// # Errors
    /// When it cannot be gone back to.
    pub(super) async fn go_back(&self, to: Option<u64>) -> Result<Value, NoAnswer> {
        if let Some(cluster) = self.place.cluster() {
            if !cluster.is_coordinator() {
                return Err(refused(
                    StatusCode::CONFLICT,
                    "shard 0 says what all shards serve: ask that one",
                ));
            }
            if cluster.standing().release.is_none() {
                let why = "the shards have not agreed on a generation yet: try again soon";
                return Err(refused(StatusCode::SERVICE_UNAVAILABLE, why));
            }
        }
        let generations = self.history.generations();
        // What is live is gone back to from what serves a part of the partitions.
        if let Some(live) = self.place.serves_by().filter(|it| it.trial.is_some())
            && to.is_none_or(|to| to == live.live.number)
        {
            let _obeyed = self.baking.obey(Order::Abort).await?;
            return Ok(json!({
                "going_back_to": live.live.number,
                "digest": live.live.digest,
                "live": live.live.number,
            }));
        }
        let entry = way_back(&generations, to).map_err(|error| no_way(&error))?;
        let Entry {
            generation, digest, ..
        } = entry;
        if !self.place.has(digest, &self.kept).await {
            return Err(no_way(&NoWayBack::Gone(generation)));
        }
        if let Err(Busy(other)) = self.place.go_back(digest, None) {
            let mut entries = generations.iter().rev();
            let other = entries.find(|entry| entry.digest == other);
            let other = other.map_or(0, |entry| entry.generation);
            return Err(no_way(&NoWayBack::Busy(other)));
        }
        tracing::info!(generation, %digest, "an operator goes back to a former generation");
        Ok(json!({
            "going_back_to": generation,
            "digest": digest,
            "live": generations.last().map(|live| live.generation),
        }))
    }
}

fn refused(status: StatusCode, why: &str) -> NoAnswer {
    let why = why.to_owned();
    NoAnswer { status, why }
}

fn no_way(error: &NoWayBack) -> NoAnswer {
    let status = match error {
        NoWayBack::NoneLive => StatusCode::SERVICE_UNAVAILABLE,
        // No 404, which says that the port is not a shard's.
        _ => StatusCode::CONFLICT,
    };
    refused(status, &error.to_string())
}
