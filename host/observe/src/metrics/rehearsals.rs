//! Metrics of rehearsals.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};

use super::Metrics;
use super::histogram::Histogram;
use super::labels::{Labelled, Rehearsed, RehearsedBy};

#[derive(Debug)]
pub(super) struct Rehearsals {
    requests: Labelled<Rehearsed, Counter>,
    duration: Labelled<RehearsedBy, Histogram>,
}

impl Rehearsals {
    pub(super) fn new() -> Self {
        Self {
            requests: Labelled::new(Counter::default),
            duration: Labelled::new(Histogram::of_durations),
        }
    }

    pub(super) fn register(&self, to: &mut Registry) {
        let help = "Live requests that a new generation was tried with, by what came out";
        to.register("rehearsed_requests", help, self.requests.clone());
        let help = "Time of a request in a rehearsal, of the live generation and of the new one";
        to.register_with_unit(
            "rehearsal_duration",
            help,
            Unit::Seconds,
            self.duration.clone(),
        );
    }
}

impl Metrics {
    /// Counts a request of a rehearsal, and records how long it took the live guest and the candidate.
    pub fn rehearsed(&self, result: Rehearsed, [live, candidate]: [Duration; 2]) {
        let Rehearsals { requests, duration } = &self.rehearsals;
        requests.of(result).inc();
        duration.of(RehearsedBy::Live).observe_duration(live);
        duration
            .of(RehearsedBy::Candidate)
            .observe_duration(candidate);
    }

    /// Counts requests that a candidate was to be tried with and was not.
    pub fn not_rehearsed(&self, requests: u64) {
        let left_out = self.rehearsals.requests.of(Rehearsed::LeftOut);
        left_out.inc_by(requests);
    }
}
