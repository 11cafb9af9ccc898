//! Metrics of clients' requests and connections.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::histogram::Histogram;
use super::labels::{Access, Hop, Labelled, Limit, Listener, Paired, Target};
use super::outcomes::Outcomes;
use super::{Level, Metrics};

#[derive(Debug)]
pub(super) struct Requests {
    answered: Outcomes,
    duration: Paired<Target, Access, Histogram>,
    refused: Labelled<Limit, Counter>,
    in_flight: Level,
    waiting: Gauge,
    gone: Counter,
    hops: Labelled<Hop, Counter>,
    hop_duration: Histogram,
    connections: Labelled<Listener, Gauge>,
    connections_refused: Labelled<Listener, Counter>,
}

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            answered: Outcomes::new(),
            duration: Paired::new(Histogram::of_durations),
            refused: Labelled::new(Counter::default),
            in_flight: Level::default(),
            waiting: Gauge::default(),
            gone: Counter::default(),
            hops: Labelled::new(Counter::default),
            hop_duration: Histogram::of_durations(),
            connections: Labelled::new(Gauge::default),
            connections_refused: Labelled::new(Counter::default),
        }
    }

    pub(super) fn register(&self, to: &mut Registry) {
        to.register("requests", "Requests answered", self.answered.clone());
        let help = "Time from a request's last byte to its complete answer";
        to.register_with_unit(
            "request_duration",
            help,
            Unit::Seconds,
            self.duration.clone(),
        );
        let help = "Requests refused by the host";
        to.register("requests_refused", help, self.refused.clone());
        let help = "Requests that are being answered";
        to.register("requests_in_flight", help, self.in_flight.clone());
        let help = "Requests that wait for other shards, or for their partition to arrive";
        to.register("requests_waiting", help, self.waiting.clone());
        let help = "Requests that were not run because their clients were gone";
        to.register("requests_gone", help, self.gone.clone());
        let help = "Times a request was forwarded to another shard";
        to.register("requests_forwarded", help, self.hops.clone());
        let help = "Time from forwarding a request to the other shard's answer";
        to.register_with_unit(
            "forward_duration",
            help,
            Unit::Seconds,
            self.hop_duration.clone(),
        );
        to.register("connections", "Open connections", self.connections.clone());
        let help = "Connections refused because there were too many";
        to.register(
            "connections_refused",
            help,
            self.connections_refused.clone(),
        );
    }
}

/// A request that waits to run.
#[derive(Debug)]
pub struct NotYetRun<'a>(Option<&'a Metrics>);

impl NotYetRun<'_> {
    /// Notes that the request runs now.
    pub fn is_run(mut self) {
        self.0 = None;
    }
}

impl Drop for NotYetRun<'_> {
    fn drop(&mut self) {
        if let Some(metrics) = self.0 {
            metrics.request_gone();
        }
    }
}

impl Metrics {
    pub fn request(
        &self,
        target: Target,
        access: Access,
        status: http::StatusCode,
        duration: Duration,
    ) {
        self.requests.answered.count(target, access, status);
        let histogram = self.requests.duration.of(target, access);
        histogram.observe_duration(duration);
    }

    /// Counts a request that the host refused.
    pub fn request_refused(&self, limit: Limit) {
        self.requests.refused.of(limit).inc();
    }

    /// Sets how many requests are being answered now.
    pub fn requests_in_flight(&self, requests: usize) {
        self.requests.in_flight.set(requests as u64);
    }

    /// Notes that a request begins to wait for another shard, or for its partition.
    pub fn request_waits(&self) {
        self.requests.waiting.inc();
    }

    /// Notes that a request has stopped waiting.
    pub fn request_waited(&self) {
        self.requests.waiting.dec();
    }

    /// Counts a request that was not run because its client was gone.
    pub fn request_gone(&self) {
        self.requests.gone.inc();
    }

    /// Tracks a request that waits to run. If the returned guard is dropped before the request
    /// runs, its client counts as gone.
    pub fn not_yet_run(&self) -> NotYetRun<'_> {
        NotYetRun(Some(self))
    }

    /// Records the result of forwarding a request.
    pub fn forwarded(&self, hop: Hop, duration: Duration) {
        self.requests.hops.of(hop).inc();
        self.requests.hop_duration.observe_duration(duration);
    }

    pub fn connection_opened(&self, listener: Listener) {
        self.requests.connections.of(listener).inc();
    }

    /// Notes that an accepted connection was closed.
    pub fn connection_closed(&self, listener: Listener) {
        self.requests.connections.of(listener).dec();
    }

    /// Counts a connection that was refused because there were too many.
    pub fn connection_refused(&self, listener: Listener) {
        self.requests.connections_refused.of(listener).inc();
    }
}
