//! Metrics of generations and of the Secret.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use ostrakon_base::unix_time::unix_time;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::histogram::Histogram;
use super::{Level, Metrics};

/// Who has all shards go back.
struct WentBack;

impl WentBack {
    const BY_ITSELF: &str = "itself";
    const BY_OPERATOR: &str = "operator";
}

#[derive(Debug)]
pub(super) struct Swaps {
    generation: Level,
    live_since: Gauge<f64, AtomicU64>,
    guest: Family<[(&'static str, String); 2], Level>,
    count: Counter,
    duration: Histogram,
    refusals: Family<[(&'static str, &'static str); 1], Counter>,
    is_refused: Level,
    rollout_wait: Gauge<f64, AtomicU64>,
    step: Gauge<f64, AtomicU64>,
    paused: Level,
    went_back: Family<[(&'static str, &'static str); 1], Counter>,
    requests_held: Histogram,
    holds_failed: Counter,
    secrets_reloads: Counter,
    secrets_errors: Counter,
}

impl Swaps {
    pub(super) fn new() -> Self {
        Self {
            generation: Level::default(),
            live_since: Gauge::default(),
            guest: Family::default(),
            count: Counter::default(),
            duration: Histogram::of_durations(),
            refusals: Family::default(),
            is_refused: Level::default(),
            rollout_wait: Gauge::default(),
            step: Gauge::default(),
            paused: Level::default(),
            went_back: Family::default(),
            requests_held: Histogram::of_durations(),
            holds_failed: Counter::default(),
            secrets_reloads: Counter::default(),
            secrets_errors: Counter::default(),
        }
    }

    pub(super) fn register(&self, to: &mut Registry) {
        let help = "The number of the live generation, or 0 if there is none";
        to.register("generation", help, self.generation.clone());
        let help =
            "When the live generation went live on this shard, in Unix time, or 0 if there is none";
        to.register_with_unit(
            "generation_live_timestamp",
            help,
            Unit::Seconds,
            self.live_since.clone(),
        );
        let help = "The live guest, by the name and version that it reports";
        to.register("guest_info", help, self.guest.clone());
        to.register("swaps", "Generations that went live", self.count.clone());
        let help = "Time from new content in the volume until it is live";
        to.register_with_unit("swap_duration", help, Unit::Seconds, self.duration.clone());
        let help = "Generations refused, by the step that refused";
        to.register("swap_refusals", help, self.refusals.clone());
        let help = "1 while the volume's content is refused and the previous generation serves";
        to.register("swap_refused", help, self.is_refused.clone());
        let help = "How long content has waited to go live in all shards, on shard 0, or a newer generation in this one, or 0 if none waits";
        to.register_with_unit(
            "rollout_wait",
            help,
            Unit::Seconds,
            self.rollout_wait.clone(),
        );
        let help = "The share of the partitions that a new generation serves while it is watched, on shard 0, or 0 if none is";
        to.register("rollout_step_ratio", help, self.step.clone());
        let help = "1 while an operator has a new generation stay in its step, on shard 0";
        to.register("rollout_paused", help, self.paused.clone());
        let help = "Times all shards went back from a new generation, on shard 0, by who said so";
        to.register("rollout_went_back", help, self.went_back.clone());
        for by in [WentBack::BY_ITSELF, WentBack::BY_OPERATOR] {
            drop(self.went_back.get_or_create(&[("by", by)]));
        }
        let help = "Time for which requests were held for rollout.barrier";
        to.register_with_unit(
            "requests_held",
            help,
            Unit::Seconds,
            self.requests_held.clone(),
        );
        let help = "Times not all shards held requests within rollout.barrier, on shard 0";
        to.register("barrier_failures", help, self.holds_failed.clone());
        let help = "Times the Secret volume was reloaded";
        to.register("secrets_reloads", help, self.secrets_reloads.clone());
        let help = "Times the Secret volume could not be read";
        to.register("secrets_reload_errors", help, self.secrets_errors.clone());
    }
}

impl Metrics {
    /// Notes that a generation went live, with the name and version that its guest reports.
    pub fn swap_live(&self, generation: u64, name: &str, version: &str) {
        self.swaps.count.inc();
        self.swaps.generation.set(generation);
        let now = unix_time(SystemTime::now());
        self.swaps.live_since.set(now.as_secs_f64());
        let labels = [("name", name.to_owned()), ("version", version.to_owned())];
        self.swaps.guest.clear();
        self.swaps.guest.get_or_create(&labels).set(1);
    }

    /// Records the time from observing a generation to its going live.
    pub fn swap_took(&self, duration: Duration) {
        self.swaps.duration.observe_duration(duration);
    }

    /// Lists the steps in which a generation can be refused. Each is shown as 0 until one is.
    pub fn swap_steps(&self, steps: impl IntoIterator<Item = &'static str>) {
        for step in steps {
            drop(self.swaps.refusals.get_or_create(&[("step", step)]));
        }
    }

    /// Counts a generation that was refused in `step`. Looks the step up under a lock.
    pub fn swap_refused(&self, step: &'static str) {
        self.swaps.refusals.get_or_create(&[("step", step)]).inc();
    }

    /// Sets whether the volume's current content is refused.
    pub fn swap_is_refused(&self, is_refused: bool) {
        self.swaps.is_refused.set(is_refused.into());
    }

    /// Sets how long a generation has waited to go live in all shards, or in this one.
    pub fn rollout_waits(&self, time: Duration) {
        self.swaps.rollout_wait.set(time.as_secs_f64());
    }

    /// Sets the share of the partitions that a new generation serves while it is watched, and whether
    /// that stays so; none if none is watched.
    pub fn rollout_step(&self, step: Option<(f64, bool)>) {
        let (share, is_paused) = step.unwrap_or_default();
        self.swaps.step.set(share);
        self.swaps.paused.set(is_paused.into());
    }

    /// Counts that all shards go back from a new generation.
    pub fn went_back(&self, by_operator: bool) {
        let by = if by_operator {
            WentBack::BY_OPERATOR
        } else {
            WentBack::BY_ITSELF
        };
        self.swaps.went_back.get_or_create(&[("by", by)]).inc();
    }

    /// Records for how long requests were held, so that all shards go over at once.
    pub fn requests_held(&self, time: Duration) {
        self.swaps.requests_held.observe_duration(time);
    }

    /// Counts that not all shards held requests in time.
    pub fn barrier_failed(&self) {
        self.swaps.holds_failed.inc();
    }

    /// Counts a reload of the Secret volume.
    pub fn secrets_reloaded(&self) {
        self.swaps.secrets_reloads.inc();
    }

    /// Counts a failure to read the Secret volume.
    pub fn secrets_failed(&self) {
        self.swaps.secrets_errors.inc();
    }
}
