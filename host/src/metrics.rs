//! What the host counts and measures, and how Prometheus reads it.
//!
//! Recording never locks, allocates or looks up a label, except where a method says so: a request
//! takes a few microseconds in all.

mod histogram;
mod kubernetes;
mod labels;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use histogram::Histogram;
pub use kubernetes::Kubernetes;
pub use labels::{Access, DropReason, Export, Label, Limit, Listener, Target};
use labels::{Labelled, Requests};

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Level = Gauge<u64, AtomicU64>;

/// All metrics of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// What is measured of the API server.
    pub kubernetes: Kubernetes,
    requests: Requests,
    request_duration: Labelled<Access, Histogram>,
    requests_refused: Labelled<Limit, Counter>,
    guest_call_duration: Labelled<Export, Histogram>,
    slow_reads: Counter,
    instances_created: Counter,
    instances_dropped: Labelled<DropReason, Counter>,
    log_lines_dropped: Counter,
    lane_depth: Level,
    lane_wait: Histogram,
    lane_group: Histogram,
    commit_duration: Histogram,
    commit_errors: Counter,
    generation: Level,
    swaps: Counter,
    swap_duration: Histogram,
    swap_refusals: Family<[(&'static str, &'static str); 1], Counter>,
    store_size: Level,
    store_entries: Level,
    connections: Labelled<Listener, Gauge>,
    connections_refused: Labelled<Listener, Counter>,
    secrets_reloads: Counter,
    secrets_errors: Counter,
    peer_credentials: Counter,
    peer_credentials_refusals: Counter,
    peer_handshake_failures: Counter,
    certificate_expiry: Family<[(&'static str, &'static str); 1], Gauge<f64, AtomicU64>>,
    partitions_moved: Counter,
    partitions_arrived: Counter,
    partitions_left: Family<[(&'static str, &'static str); 0], Level>,
}

impl Metrics {
    /// All metrics, at zero. `version` is the host's.
    pub fn new(version: &str) -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("ostrakon"),
            kubernetes: Kubernetes::default(),
            requests: Requests::new(),
            request_duration: Labelled::new(Histogram::of_durations),
            requests_refused: Labelled::new(Counter::default),
            guest_call_duration: Labelled::new(Histogram::of_durations),
            slow_reads: Counter::default(),
            instances_created: Counter::default(),
            instances_dropped: Labelled::new(Counter::default),
            log_lines_dropped: Counter::default(),
            lane_depth: Level::default(),
            lane_wait: Histogram::of_durations(),
            lane_group: Histogram::of_sizes(),
            commit_duration: Histogram::of_durations(),
            commit_errors: Counter::default(),
            generation: Level::default(),
            swaps: Counter::default(),
            swap_duration: Histogram::of_durations(),
            swap_refusals: Family::default(),
            store_size: Level::default(),
            store_entries: Level::default(),
            connections: Labelled::new(Gauge::default),
            connections_refused: Labelled::new(Counter::default),
            secrets_reloads: Counter::default(),
            secrets_errors: Counter::default(),
            peer_credentials: Counter::default(),
            peer_credentials_refusals: Counter::default(),
            peer_handshake_failures: Counter::default(),
            certificate_expiry: Family::default(),
            partitions_moved: Counter::default(),
            partitions_arrived: Counter::default(),
            partitions_left: Family::default(),
        };
        metrics.registered(version)
    }

    /// Gives each metric its name and help. The registry adds prefixes, units, `_total` and the
    /// help's full stop.
    fn registered(mut self, version: &str) -> Self {
        let mut to = std::mem::take(&mut self.registry);
        to.register(
            "build",
            "The host that runs",
            Info::new([("version", version.to_owned())]),
        );

        to.register("requests", "Requests answered", self.requests.clone());
        let help = "From a request's last byte to its whole answer";
        to.register_with_unit(
            "request_duration",
            help,
            Unit::Seconds,
            self.request_duration.clone(),
        );
        to.register(
            "requests_refused",
            "Requests refused by the host",
            self.requests_refused.clone(),
        );
        to.register("connections", "Open connections", self.connections.clone());
        let help = "Connections refused because there were too many";
        to.register(
            "connections_refused",
            help,
            self.connections_refused.clone(),
        );

        self.registry = to;
        self.registered_inside()
    }

    /// The same for what is behind the network.
    fn registered_inside(mut self) -> Self {
        let mut to = std::mem::take(&mut self.registry);
        let help = "Time in a guest's export";
        to.register_with_unit(
            "guest_call_duration",
            help,
            Unit::Seconds,
            self.guest_call_duration.clone(),
        );
        to.register(
            "slow_reads",
            "Reads that overran their budget and were run again apart",
            self.slow_reads.clone(),
        );
        to.register(
            "instances_created",
            "Guest instances created",
            self.instances_created.clone(),
        );
        to.register(
            "instances_dropped",
            "Guest instances dropped",
            self.instances_dropped.clone(),
        );
        let help = "Lines a guest logged beyond its rate";
        to.register("log_lines_dropped", help, self.log_lines_dropped.clone());

        to.register(
            "lane_depth",
            "Write requests that wait for the lane",
            self.lane_depth.clone(),
        );
        let help = "From a write request's arrival at the lane to its turn";
        to.register_with_unit("lane_wait", help, Unit::Seconds, self.lane_wait.clone());
        to.register(
            "lane_group_size",
            "Write requests in one commit",
            self.lane_group.clone(),
        );
        let help = "Time to make one group of writes durable";
        to.register_with_unit(
            "commit_duration",
            help,
            Unit::Seconds,
            self.commit_duration.clone(),
        );
        to.register(
            "commit_errors",
            "Commits that failed: nothing of them was acknowledged",
            self.commit_errors.clone(),
        );

        to.register(
            "generation",
            "The number of the live generation, 0 where there is none",
            self.generation.clone(),
        );
        to.register("swaps", "Generations that went live", self.swaps.clone());
        let help = "From new content in the volume to its first view";
        to.register_with_unit(
            "swap_duration",
            help,
            Unit::Seconds,
            self.swap_duration.clone(),
        );
        to.register(
            "swap_refusals",
            "Generations refused, by the step that refused",
            self.swap_refusals.clone(),
        );

        to.register_with_unit(
            "store",
            "The store's size on disk",
            Unit::Bytes,
            self.store_size.clone(),
        );
        to.register(
            "store_entries",
            "Entries in the store",
            self.store_entries.clone(),
        );

        let help = "Times the Secret volume was read anew";
        to.register("secrets_reloads", help, self.secrets_reloads.clone());
        let help = "Times the Secret volume could not be read";
        to.register("secrets_reload_errors", help, self.secrets_errors.clone());

        self.registry = to;
        self.registered_among_peers()
    }

    /// The same for what is between shards.
    fn registered_among_peers(mut self) -> Self {
        let mut to = std::mem::take(&mut self.registry);
        let help = "Times peer tokens and certificates were taken from the Secret anew";
        to.register(
            "peer_credentials_reloads",
            help,
            self.peer_credentials.clone(),
        );
        let help = "Times those in the Secret were refused, and the old ones kept";
        to.register(
            "peer_credentials_refusals",
            help,
            self.peer_credentials_refusals.clone(),
        );
        let help = "Connections to the peer port whose other side was not admitted";
        to.register(
            "peer_handshake_failures",
            help,
            self.peer_handshake_failures.clone(),
        );
        let help = "When the certificate in force expires, in Unix time";
        to.register_with_unit(
            "certificate_expiry_timestamp",
            help,
            Unit::Seconds,
            self.certificate_expiry.clone(),
        );
        let help = "Partitions that other shards took from this one and acknowledged";
        to.register("partitions_moved", help, self.partitions_moved.clone());
        let help = "Partitions that this shard took from others";
        to.register("partitions_arrived", help, self.partitions_arrived.clone());
        let help = "Partitions that this shard has still to look at or to give in a change";
        to.register("partitions_left", help, self.partitions_left.clone());
        self.kubernetes.register(&mut to);

        self.registry = to;
        self
    }

    /// The metrics as text of type [`CONTENT_TYPE`].
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(32 * 1024);
        let written = text::encode(&mut text, &self.registry);
        debug_assert!(written.is_ok(), "writing to a string does not fail");
        text
    }

    /// A request was answered, after `duration`.
    pub fn request(
        &self,
        target: Target,
        access: Access,
        status: http::StatusCode,
        duration: Duration,
    ) {
        self.requests.count(target, access, status);
        self.request_duration.of(access).observe_duration(duration);
    }

    /// A request was refused by the host.
    pub fn request_refused(&self, limit: Limit) {
        self.requests_refused.of(limit).inc();
    }

    /// A guest's export ran for `duration`.
    pub fn guest_call(&self, export: Export, duration: Duration) {
        self.guest_call_duration
            .of(export)
            .observe_duration(duration);
    }

    /// A read overran its short budget and runs again apart.
    pub fn slow_read(&self) {
        self.slow_reads.inc();
    }

    /// A guest's instance was created.
    pub fn instance_created(&self) {
        self.instances_created.inc();
    }

    /// A guest's instance was dropped.
    pub fn instance_dropped(&self, reason: DropReason) {
        self.instances_dropped.of(reason).inc();
    }

    /// `count` lines of a guest's log were dropped.
    pub fn log_lines_dropped(&self, count: u64) {
        self.log_lines_dropped.inc_by(count);
    }

    /// `depth` write requests wait for the lane now.
    pub fn lane_depth(&self, depth: usize) {
        self.lane_depth.set(depth as u64);
    }

    /// A write request waited `duration` for its turn in the lane.
    pub fn lane_wait(&self, duration: Duration) {
        self.lane_wait.observe_duration(duration);
    }

    /// A group of `size` write requests became durable, in `duration`.
    pub fn commit(&self, duration: Duration, size: usize) {
        self.commit_duration.observe_duration(duration);
        self.lane_group.observe(size as u64);
    }

    /// A commit failed.
    pub fn commit_failed(&self) {
        self.commit_errors.inc();
    }

    /// A generation went live.
    pub fn swap_live(&self, generation: u64) {
        self.swaps.inc();
        self.generation.set(generation);
    }

    /// A generation went live `duration` after it was observed.
    pub fn swap_took(&self, duration: Duration) {
        self.swap_duration.observe_duration(duration);
    }

    /// Generations can be refused in these steps: shown as 0 until one is.
    pub fn swap_steps(&self, steps: impl IntoIterator<Item = &'static str>) {
        for step in steps {
            drop(self.swap_refusals.get_or_create(&[("step", step)]));
        }
    }

    /// A generation was refused in `step`. Looks the step up under a lock.
    pub fn swap_refused(&self, step: &'static str) {
        self.swap_refusals.get_or_create(&[("step", step)]).inc();
    }

    /// The store has this many bytes on disk and this many entries now.
    pub fn store_size(&self, bytes: u64, entries: u64) {
        self.store_size.set(bytes);
        self.store_entries.set(entries);
    }

    /// A connection was accepted.
    pub fn connection_opened(&self, listener: Listener) {
        self.connections.of(listener).inc();
    }

    /// A connection that was opened is closed.
    pub fn connection_closed(&self, listener: Listener) {
        self.connections.of(listener).dec();
    }

    /// A connection was refused because there were too many.
    pub fn connection_refused(&self, listener: Listener) {
        self.connections_refused.of(listener).inc();
    }

    /// The Secret volume was read anew.
    pub fn secrets_reloaded(&self) {
        self.secrets_reloads.inc();
    }

    /// Peer credentials were taken from the Secret anew.
    pub fn peer_credentials_taken(&self) {
        self.peer_credentials.inc();
    }

    /// Those in the Secret were refused.
    pub fn peer_credentials_refused(&self) {
        self.peer_credentials_refusals.inc();
    }

    /// The other side of a connection to the peer port was not admitted.
    pub fn peer_handshake_failed(&self) {
        self.peer_handshake_failures.inc();
    }

    /// The peer port's certificate expires at this Unix time; not shown where there is none.
    pub fn peer_certificate_expires(&self, at: Option<f64>) {
        let labels = [(Listener::NAME, "peers")];
        match at {
            Some(at) => {
                self.certificate_expiry.get_or_create(&labels).set(at);
            }
            None => {
                self.certificate_expiry.remove(&labels);
            }
        }
    }

    /// Other shards acknowledged `moved` partitions, and `arrived` came from others.
    pub fn partitions_moved(&self, moved: usize, arrived: usize) {
        self.partitions_moved.inc_by(moved as u64);
        self.partitions_arrived.inc_by(arrived as u64);
    }

    /// This shard has so many partitions still to look at or to give; not shown while that is not
    /// known.
    pub fn partitions_left(&self, left: Option<u64>) {
        match left {
            Some(left) => {
                self.partitions_left.get_or_create(&[]).set(left);
            }
            None => {
                self.partitions_left.remove(&[]);
            }
        }
    }

    /// The Secret volume could not be read.
    pub fn secrets_failed(&self) {
        self.secrets_errors.inc();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};
    use std::hint::black_box;

    use http::StatusCode;

    use super::*;

    /// Each sample of the text by its name and labels, having checked the text's form.
    fn parse(text: &str) -> BTreeMap<String, f64> {
        let mut families: HashSet<String> = HashSet::new();
        let mut helped: HashSet<String> = HashSet::new();
        let mut samples = BTreeMap::new();
        let body = text
            .strip_suffix("# EOF\n")
            .expect("the text ends with its mark");
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (kind, name) = (words.next().unwrap(), words.next().unwrap());
                assert!(!words.next().unwrap().is_empty(), "{line}");
                match kind {
                    "HELP" => assert!(helped.insert(name.into()), "helped twice: {line}"),
                    "TYPE" => assert!(families.insert(name.into()), "declared twice: {line}"),
                    "UNIT" => {}
                    _ => panic!("unknown comment: {line}"),
                }
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
            let name = series.split('{').next().unwrap();
            assert!(name.starts_with("ostrakon_"), "{line}");
            let known = ["", "_total", "_sum", "_count", "_bucket", "_info"]
                .iter()
                .any(|suffix| {
                    name.strip_suffix(suffix)
                        .is_some_and(|family| families.contains(family))
                });
            assert!(known, "sample without a family: {line}");
            let before = samples.insert(
                series.to_owned(),
                value.parse().expect("a value is a number"),
            );
            assert!(before.is_none(), "sample twice: {line}");
        }
        assert_eq!(families, helped);
        samples
    }

    #[test]
    fn what_is_recorded_is_shown_under_conventional_names() {
        let metrics = Metrics::new("1.2.3");
        metrics.request(
            Target::Partition,
            Access::Write,
            StatusCode::NO_CONTENT,
            Duration::from_millis(3),
        );
        metrics.request(
            Target::Partition,
            Access::Write,
            StatusCode::NO_CONTENT,
            Duration::from_mins(1),
        );
        metrics.request_refused(Limit::BodySize);
        metrics.guest_call(Export::Handle, Duration::from_nanos(600));
        metrics.lane_depth(7);
        metrics.commit(Duration::from_micros(200), 64);
        metrics.swap_live(5);
        metrics.swap_took(Duration::from_millis(40));
        metrics.swap_steps(["verify", "link"]);
        metrics.swap_refused("link");
        metrics.swap_refused("link");
        metrics.instance_dropped(DropReason::Trap);
        metrics.store_size(4096, 12);
        metrics.connection_opened(Listener::Public);
        metrics.connection_opened(Listener::Public);
        metrics.connection_closed(Listener::Public);

        let samples = parse(&metrics.render());
        let check = |series: &str, value: f64| {
            let shown = samples
                .get(series)
                .unwrap_or_else(|| panic!("{series} is not shown in {samples:#?}"));
            assert!(
                (shown - value).abs() < 1e-9,
                "{series}: {shown}, not {value}"
            );
        };
        check(r#"ostrakon_build_info{version="1.2.3"}"#, 1.0);
        check(
            r#"ostrakon_requests_total{target="partition",access="write",status="204"}"#,
            2.0,
        );
        check(
            r#"ostrakon_request_duration_seconds_count{access="write"}"#,
            2.0,
        );
        check(
            r#"ostrakon_request_duration_seconds_sum{access="write"}"#,
            60.003,
        );
        check(
            r#"ostrakon_request_duration_seconds_bucket{le="0.0025",access="write"}"#,
            0.0,
        );
        check(
            r#"ostrakon_request_duration_seconds_bucket{le="0.005",access="write"}"#,
            1.0,
        );
        check(
            r#"ostrakon_request_duration_seconds_bucket{le="10.0",access="write"}"#,
            1.0,
        );
        check(
            r#"ostrakon_request_duration_seconds_bucket{le="+Inf",access="write"}"#,
            2.0,
        );
        check(r#"ostrakon_requests_refused_total{limit="body_size"}"#, 1.0);
        check(r#"ostrakon_requests_refused_total{limit="draining"}"#, 0.0);
        check(
            r#"ostrakon_guest_call_duration_seconds_count{export="handle"}"#,
            1.0,
        );
        check("ostrakon_lane_depth", 7.0);
        check("ostrakon_commit_duration_seconds_count", 1.0);
        check(r#"ostrakon_lane_group_size_bucket{le="32.0"}"#, 0.0);
        check(r#"ostrakon_lane_group_size_bucket{le="64.0"}"#, 1.0);
        check("ostrakon_generation", 5.0);
        check("ostrakon_swaps_total", 1.0);
        check("ostrakon_swap_duration_seconds_count", 1.0);
        check(r#"ostrakon_swap_refusals_total{step="link"}"#, 2.0);
        check(r#"ostrakon_swap_refusals_total{step="verify"}"#, 0.0);
        check(r#"ostrakon_instances_dropped_total{reason="trap"}"#, 1.0);
        check("ostrakon_store_bytes", 4096.0);
        check("ostrakon_store_entries", 12.0);
        check(r#"ostrakon_connections{listener="public"}"#, 1.0);
    }

    #[test]
    fn the_readme_shows_each_metric() {
        let readme = include_str!("../../README.md");
        let text = Metrics::new("0").render();
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            let mut words = line.split(' ').skip(2);
            let (name, kind) = (words.next().unwrap(), words.next().unwrap());
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            let shown = format!("`{name}{suffix}`");
            assert!(readme.contains(&shown), "README does not show {shown}");
        }
    }

    #[test]
    fn each_status_a_reply_can_have_is_counted_apart() {
        let metrics = Metrics::new("0");
        for status in 200..=599 {
            let status = StatusCode::from_u16(status).unwrap();
            metrics.request(Target::Unrouted, Access::Read, status, Duration::ZERO);
        }
        let samples = parse(&metrics.render());
        for status in 200..=599 {
            let series = format!(
                r#"ostrakon_requests_total{{target="none",access="read",status="{status}"}}"#
            );
            assert_eq!(samples.get(&series), Some(&1.0), "{series}");
        }
    }

    #[test]
    fn recording_from_several_threads_loses_nothing() {
        let metrics = Metrics::new("0");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        metrics.request(
                            black_box(Target::Here),
                            Access::Read,
                            StatusCode::OK,
                            Duration::from_micros(4),
                        );
                    }
                });
            }
        });
        let samples = parse(&metrics.render());
        let counted = samples.get(r#"ostrakon_request_duration_seconds_count{access="read"}"#);
        assert_eq!(counted, Some(&40_000.0));
    }
}
