//! What is counted of guests' calls and instances.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};

use super::Metrics;
use super::histogram::Histogram;
use super::labels::{Compile, DropReason, Export, Labelled};

#[derive(Debug)]
pub(super) struct Guests {
    compiles: Labelled<Compile, Counter>,
    compile_duration: Histogram,
    call_duration: Labelled<Export, Histogram>,
    slow_reads: Counter,
    instances_created: Counter,
    instances_dropped: Labelled<DropReason, Counter>,
    log_lines_dropped: Counter,
}

impl Guests {
    pub(super) fn new() -> Self {
        Self {
            compiles: Labelled::new(Counter::default),
            compile_duration: Histogram::of_durations(),
            call_duration: Labelled::new(Histogram::of_durations),
            slow_reads: Counter::default(),
            instances_created: Counter::default(),
            instances_dropped: Labelled::new(Counter::default),
            log_lines_dropped: Counter::default(),
        }
    }

    pub(super) fn register(&self, to: &mut Registry) {
        let help = "Components that were to be compiled, by how it ended";
        to.register("compiles", help, self.compiles.clone());
        let help = "Time to compile a component, or until it was given up";
        to.register_with_unit(
            "compile_duration",
            help,
            Unit::Seconds,
            self.compile_duration.clone(),
        );
        let help = "Time in a guest's export";
        to.register_with_unit(
            "guest_call_duration",
            help,
            Unit::Seconds,
            self.call_duration.clone(),
        );
        let help =
            "Reads that overran their budget, in time or in what they copy, and run again apart";
        to.register("slow_reads", help, self.slow_reads.clone());
        let help = "Guest instances created";
        to.register("instances_created", help, self.instances_created.clone());
        let help = "Guest instances dropped";
        to.register("instances_dropped", help, self.instances_dropped.clone());
        let help = "Lines a guest logged beyond its rate";
        to.register("log_lines_dropped", help, self.log_lines_dropped.clone());
    }
}

impl Metrics {
    /// A component was compiled, or was to be, for `duration`.
    pub fn compiled(&self, result: Compile, duration: Duration) {
        self.guests.compiles.of(result).inc();
        self.guests.compile_duration.observe_duration(duration);
    }

    /// A guest's export ran for `duration`.
    pub fn guest_call(&self, export: Export, duration: Duration) {
        let histogram = self.guests.call_duration.of(export);
        histogram.observe_duration(duration);
    }

    /// A read overran its short budget and runs again apart.
    pub fn slow_read(&self) {
        self.guests.slow_reads.inc();
    }

    /// A guest's instance was created.
    pub fn instance_created(&self) {
        self.guests.instances_created.inc();
    }

    /// A guest's instance was dropped.
    pub fn instance_dropped(&self, reason: DropReason) {
        self.guests.instances_dropped.of(reason).inc();
    }

    /// `count` lines of a guest's log were dropped.
    pub fn log_lines_dropped(&self, count: u64) {
        self.guests.log_lines_dropped.inc_by(count);
    }
}
