//! Metrics of guests' calls and instances.

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
        let help = "Attempts to compile a component, by result";
        to.register("compiles", help, self.compiles.clone());
        let help = "Time to compile a component, or until the attempt was abandoned";
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
            "Reads that overran their budget of time or copied bytes and were rerun as slow reads";
        to.register("slow_reads", help, self.slow_reads.clone());
        let help = "Guest instances created";
        to.register("instances_created", help, self.instances_created.clone());
        let help = "Guest instances dropped";
        to.register("instances_dropped", help, self.instances_dropped.clone());
        let help = "Lines that a guest logged beyond its rate limit";
        to.register("log_lines_dropped", help, self.log_lines_dropped.clone());
    }
}

impl Metrics {
    /// Records an attempt to compile a component.
    pub fn compiled(&self, result: Compile, duration: Duration) {
        self.guests.compiles.of(result).inc();
        self.guests.compile_duration.observe_duration(duration);
    }

    /// Records a call of a guest's export.
    pub fn guest_call(&self, export: Export, duration: Duration) {
        let histogram = self.guests.call_duration.of(export);
        histogram.observe_duration(duration);
    }

    /// Counts a read that overran its short budget and is rerun as a slow read.
    pub fn slow_read(&self) {
        self.guests.slow_reads.inc();
    }

    pub fn instance_created(&self) {
        self.guests.instances_created.inc();
    }

    pub fn instance_dropped(&self, reason: DropReason) {
        self.guests.instances_dropped.of(reason).inc();
    }

    /// Counts dropped lines of a guest's log.
    pub fn log_lines_dropped(&self, count: u64) {
        self.guests.log_lines_dropped.inc_by(count);
    }
}
