//! The host's metrics, and their rendering for Prometheus.
//!
//! Recording never locks, allocates or looks up a label, unless a method's documentation says
//! otherwise: a request takes only a few microseconds in all. Values that are looked up rather
//! than counted are set before a scrape.

mod credentials;
mod exposition;
mod guests;
mod histogram;
mod kubernetes;
mod labels;
mod maybe;
mod outcomes;
mod peers;
mod process;
mod rehearsals;
mod requests;
mod swaps;
#[cfg(test)]
mod tests;
mod writes;

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

pub use exposition::Exposition;
pub use kubernetes::Kubernetes;
pub use labels::{
    Access, Compile, DropReason, Export, Guarded, Hop, Label, Limit, Listener, NotStored,
    Rehearsed, RehearsedBy, Target, Unexported,
};
pub use peers::Topology;
pub use requests::NotYetRun;
pub use writes::StoreSize;

use credentials::Credentials;
use guests::Guests;
use maybe::Maybe;
use peers::Peers;
use process::{Process, System};
pub use process::{processor_time, resident_memory};
use rehearsals::Rehearsals;
use requests::Requests;
use swaps::Swaps;
use writes::Writes;

type Level = Gauge<u64, AtomicU64>;

/// All metrics of one process. Each group's methods are in the group's own file.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub kubernetes: Kubernetes,
    requests: Requests,
    guests: Guests,
    writes: Writes,
    swaps: Swaps,
    rehearsals: Rehearsals,
    credentials: Credentials,
    peers: Peers,
    process: Process,
}

impl Metrics {
    /// All metrics, at zero. `version` is the host's version.
    ///
    /// The registry adds prefixes, units, `_total`, and the full stop after each help text.
    pub fn new(version: &str) -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            kubernetes: Kubernetes::default(),
            requests: Requests::new(),
            guests: Guests::new(),
            writes: Writes::new(),
            swaps: Swaps::new(),
            rehearsals: Rehearsals::new(),
            credentials: Credentials::new(),
            peers: Peers::new(),
            process: Process::new(),
        };
        let ours = metrics.registry.sub_registry_with_prefix("ostrakon");
        metrics.process.register(ours, version);
        metrics.requests.register(ours);
        metrics.guests.register(ours);
        metrics.writes.register(ours);
        metrics.swaps.register(ours);
        metrics.rehearsals.register(ours);
        metrics.credentials.register(ours);
        metrics.peers.register(ours);
        metrics.kubernetes.register(ours);
        let system = Box::new(System::new());
        metrics.registry.register_collector(system);
        metrics
    }

    /// Renders the metrics in a format.
    pub fn show(&self, exposition: Exposition) -> String {
        let open_metrics = self.render();
        match exposition {
            Exposition::Text => exposition::text_of(&open_metrics),
            Exposition::OpenMetrics => open_metrics,
        }
    }

    /// Renders the metrics as `OpenMetrics` text.
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(64 * 1024);
        let written = text::encode(&mut text, &self.registry);
        debug_assert!(written.is_ok(), "writing to a string does not fail");
        text
    }
}
