//! Metrics of the process, under the names that Prometheus' own client libraries use.

use std::fs;
use std::time::{Duration, SystemTime};

use ostrakon_base::unix_time::unix_time;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::labels::{Labelled, Unexported};
use super::{Level, Metrics};

#[derive(Debug)]
pub(super) struct Process {
    ready: Level,
    draining: Level,
    spans_exported: Counter,
    spans_dropped: Labelled<Unexported, Counter>,
    log_lines_lost: Counter,
}

impl Process {
    pub(super) fn new() -> Self {
        Self {
            ready: Level::default(),
            draining: Level::default(),
            spans_exported: Counter::default(),
            spans_dropped: Labelled::new(Counter::default),
            log_lines_lost: Counter::default(),
        }
    }

    pub(super) fn register(&self, to: &mut Registry, version: &str) {
        let build = Info::new([("version", version.to_owned())]);
        to.register("build", "The running host", build);
        let help = "1 while the shard is ready for requests";
        to.register("ready", help, self.ready.clone());
        let help = "1 once the drain has begun";
        to.register("draining", help, self.draining.clone());
        let help = "Spans that the collector accepted";
        to.register("spans_exported", help, self.spans_exported.clone());
        let help = "Spans that were recorded but not exported";
        to.register("spans_dropped", help, self.spans_dropped.clone());
        let help = "Log lines that were lost because they were not read in time";
        to.register("log_lines_lost", help, self.log_lines_lost.clone());
    }
}

impl Metrics {
    /// Sets whether the shard is ready, and whether it is draining.
    pub fn readiness(&self, is_ready: bool, is_draining: bool) {
        self.process.ready.set(is_ready.into());
        self.process.draining.set(is_draining.into());
    }

    /// Counts spans that the collector accepted.
    pub fn spans_exported(&self, count: u64) {
        self.process.spans_exported.inc_by(count);
    }

    /// Counts spans that were not exported.
    pub fn spans_dropped(&self, why: Unexported, count: u64) {
        self.process.spans_dropped.of(why).inc_by(count);
    }
}

impl Metrics {
    /// Sets how many log lines were lost since the start.
    pub fn log_lines_lost(&self, so_far: u64) {
        let counted = self.process.log_lines_lost.get();
        self.process
            .log_lines_lost
            .inc_by(so_far.saturating_sub(counted));
    }
}

/// The system's figures for the process, read at each scrape. Unavailable figures are hidden.
#[derive(Debug)]
pub(super) struct System {
    started: f64,
}

impl System {
    /// For a process that is starting now.
    pub(super) fn new() -> Self {
        Self {
            started: unix_time(SystemTime::now()).as_secs_f64(),
        }
    }
}

impl Collector for System {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut gauge = |name, help, unit: Option<Unit>, value: Option<u64>| {
            let Some(value) = value else {
                return Ok(());
            };
            let gauge = ConstGauge::new(value);
            let kind = gauge.metric_type();
            gauge.encode(to.encode_descriptor(name, help, unit.as_ref(), kind)?)
        };
        let help = "Memory that the process holds.";
        let memory = resident_memory();
        gauge("process_resident_memory", help, Some(Unit::Bytes), memory)?;
        gauge("process_open_fds", "Open files.", None, open_files())?;
        let most = getrlimit(Resource::Nofile).current;
        gauge("process_max_fds", "The most open files.", None, most)?;

        let started = ConstGauge::new(self.started);
        let kind = started.metric_type();
        let help = "When the process started, in Unix time.";
        let name = "process_start_time";
        started.encode(to.encode_descriptor(name, help, Some(&Unit::Seconds), kind)?)?;
        let used = ConstCounter::new(processor_time().as_secs_f64());
        let kind = used.metric_type();
        let help = "Processor time that the process has used.";
        used.encode(to.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), kind)?)
    }
}

/// The processor time that this process has used.
pub fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// The memory that this process holds, in bytes.
pub fn resident_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn open_files() -> Option<u64> {
    // The directory itself counts while it is read.
    let open = fs::read_dir("/proc/self/fd").ok()?.count();
    Some(open.saturating_sub(1) as u64)
}
