use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hint::black_box;
use std::time::Duration;

use http::StatusCode;
use ostrakon_test_support::pages;

use super::*;

/// The suffixes that a sample's name can have after its family's name.
const ENDINGS: [&str; 6] = ["", "_total", "_sum", "_count", "_bucket", "_info"];

/// Parses the text into samples by name and labels, and checks its form.
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
        let is_ours = name.starts_with("ostrakon_") || name.starts_with("process_");
        assert!(is_ours, "{line}");
        let known = ENDINGS.iter().any(|ending| {
            name.strip_suffix(ending)
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

/// The metrics of a shard to which everything has happened.
fn after_everything() -> Metrics {
    let metrics = Metrics::new("1.2.3");
    for duration in [Duration::from_millis(3), Duration::from_mins(1)] {
        let status = StatusCode::NO_CONTENT;
        metrics.request(Target::Partition, Access::Write, status, duration);
    }
    metrics.request_refused(Limit::BodySize);
    metrics.requests_in_flight(4);
    metrics.request_waits();
    metrics.request_waits();
    drop(metrics.not_yet_run());
    metrics.not_yet_run().is_run();
    metrics.request_waited();
    metrics.forwarded(Hop::Elsewhere, Duration::from_millis(2));
    metrics.guest_call(Export::Handle, Duration::from_nanos(600));
    metrics.writer_depth(7);
    metrics.commit(Duration::from_micros(200), 64);
    metrics.last_commit(Some(1e9));
    metrics.journal_written(100);
    metrics.journal(3 << 20, 1 << 20);
    metrics.memtables(2000, 12);
    metrics.checkpoint(Duration::from_millis(20), 100, 30_000);
    metrics.checkpoint_failed();
    metrics.compacted(true);
    metrics.compacted(false);
    metrics.compacted(false);
    metrics.commit_waited(Duration::from_millis(3));
    metrics.replayed(Duration::from_millis(7), 512, 1);
    metrics.swap_live(4, "before", "1");
    metrics.swap_live(5, "kv", "0.1.0");
    metrics.swap_took(Duration::from_millis(40));
    metrics.swap_steps(["verify", "link"]);
    metrics.swap_refused("link");
    metrics.swap_refused("link");
    metrics.swap_is_refused(true);
    metrics.instance_dropped(DropReason::Trap);
    metrics.store_size(StoreSize {
        bytes: 4096,
        entries: 12,
        reclaimable: 1024,
        filesystem: Some((1 << 30, 1 << 20)),
    });
    metrics.connection_opened(Listener::Public);
    metrics.connection_opened(Listener::Public);
    metrics.connection_closed(Listener::Public);
    metrics.readiness(true, false);
    metrics.peers_up([(1, true), (3, true)]);
    metrics.peers_up([(1, true), (2, false)]);
    metrics.credentials_taken(Guarded::Public);
    metrics.kubernetes.replicas(3);
    metrics.kubernetes.heard();
    metrics.certificate_expires(Guarded::Peers, Some(2e9));
    metrics.topology(Some(Topology {
        epoch: 8,
        shards: 5,
        is_moving: true,
        awaited: 2,
        missing: 1,
    }));
    metrics.partitions_left(Some(77));
    metrics.spans_dropped(Unexported::QueueFull, 9);
    metrics
}

#[test]
fn what_is_recorded_is_shown_under_conventional_names() {
    let samples = parse(&after_everything().render());
    let check = |series: &str, value: f64| {
        let shown = samples
            .get(series)
            .unwrap_or_else(|| panic!("{series} is not shown in {samples:#?}"));
        assert!(
            (shown - value).abs() < 1e-9,
            "{series}: {shown}, not {value}"
        );
    };
    let writes = r#"target="partition",access="write""#;
    let duration =
        |le| format!(r#"ostrakon_request_duration_seconds_bucket{{le="{le}",{writes}}}"#);
    check(r#"ostrakon_build_info{version="1.2.3"}"#, 1.0);
    check(
        &format!(r#"ostrakon_requests_total{{{writes},status="204"}}"#),
        2.0,
    );
    check(
        &format!("ostrakon_request_duration_seconds_count{{{writes}}}"),
        2.0,
    );
    check(
        &format!("ostrakon_request_duration_seconds_sum{{{writes}}}"),
        60.003,
    );
    check(&duration("0.0025"), 0.0);
    check(&duration("0.005"), 1.0);
    check(&duration("10.0"), 1.0);
    check(&duration("+Inf"), 2.0);
    check(r#"ostrakon_requests_refused_total{limit="body_size"}"#, 1.0);
    check(r#"ostrakon_requests_refused_total{limit="draining"}"#, 0.0);
    check("ostrakon_requests_in_flight", 4.0);
    check("ostrakon_requests_waiting", 1.0);
    check("ostrakon_requests_gone_total", 1.0);
    check(
        r#"ostrakon_requests_forwarded_total{result="elsewhere"}"#,
        1.0,
    );
    check("ostrakon_forward_duration_seconds_count", 1.0);
    check(
        r#"ostrakon_guest_call_duration_seconds_count{export="handle"}"#,
        1.0,
    );
    check("ostrakon_writer_depth", 7.0);
    check("ostrakon_commit_duration_seconds_count", 1.0);
    check("ostrakon_last_commit_timestamp_seconds", 1e9);
    check("ostrakon_journal_written_bytes_total", 100.0);
    check("ostrakon_journal_bytes", 3_145_728.0);
    check("ostrakon_journal_used_bytes", 1_048_576.0);
    check("ostrakon_memtable_bytes", 2000.0);
    check("ostrakon_memtable_entries", 12.0);
    check("ostrakon_checkpoint_duration_seconds_count", 1.0);
    check("ostrakon_checkpoint_errors_total", 1.0);
    check("ostrakon_checkpoint_entries_total", 100.0);
    check("ostrakon_checkpoint_bytes_total", 30_000.0);
    check("ostrakon_commit_wait_seconds_count", 1.0);
    check("ostrakon_replay_duration_seconds", 0.007);
    check("ostrakon_replay_bytes", 512.0);
    check("ostrakon_replay_commits", 1.0);
    check(r#"ostrakon_writer_group_size_bucket{le="32.0"}"#, 0.0);
    check(r#"ostrakon_writer_group_size_bucket{le="64.0"}"#, 1.0);
    check("ostrakon_generation", 5.0);
    check("ostrakon_swaps_total", 2.0);
    check("ostrakon_swap_duration_seconds_count", 1.0);
    check(r#"ostrakon_swap_refusals_total{step="link"}"#, 2.0);
    check(r#"ostrakon_swap_refusals_total{step="verify"}"#, 0.0);
    check("ostrakon_swap_refused", 1.0);
    check(r#"ostrakon_instances_dropped_total{reason="trap"}"#, 1.0);
    check("ostrakon_store_bytes", 4096.0);
    check("ostrakon_store_reclaimable_bytes", 1024.0);
    check("ostrakon_compactions_total", 1.0);
    check("ostrakon_compaction_errors_total", 2.0);
    check("ostrakon_store_entries", 12.0);
    check("ostrakon_store_filesystem_available_bytes", 1_048_576.0);
    check(r#"ostrakon_connections{listener="public"}"#, 1.0);
    check("ostrakon_ready", 1.0);
    check("ostrakon_draining", 0.0);
    check(r#"ostrakon_peer_up{peer="2"}"#, 0.0);
    check("ostrakon_topology_shards", 5.0);
    check("ostrakon_topology_awaited_shards", 2.0);
    check("ostrakon_topology_missing_shards", 1.0);
    check("ostrakon_partitions_left", 77.0);
    check(r#"ostrakon_spans_dropped_total{reason="queue_full"}"#, 9.0);
    check(r#"ostrakon_guest_info{name="kv",version="0.1.0"}"#, 1.0);
    let was = |series: &str| assert!(!samples.contains_key(series), "{series} is shown still");
    was(r#"ostrakon_guest_info{name="before",version="1"}"#);
    was(r#"ostrakon_peer_up{peer="3"}"#);
}

#[test]
fn what_is_not_known_is_not_shown() {
    let metrics = after_everything();
    metrics.topology(None);
    metrics.partitions_left(None);
    metrics.certificate_expires(Guarded::Peers, None);
    metrics.store_size(StoreSize {
        bytes: 1,
        entries: 0,
        reclaimable: 0,
        filesystem: None,
    });
    let shown = metrics.render();
    for name in [
        "topology",
        "partitions_left",
        "certificate_expiry",
        "store_filesystem",
    ] {
        let family = format!("ostrakon_{name}");
        assert!(!shown.contains(&family), "{family} is shown");
    }
}

#[test]
fn the_process_says_how_it_is() {
    let before = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let samples = parse(&Metrics::new("0").render());
    let of = |name: &str| samples[name];
    assert!((of("process_start_time_seconds") - before).abs() < 60.0);
    assert!(of("process_cpu_seconds_total") > 0.0);
    #[cfg(target_os = "linux")]
    {
        assert!(of("process_resident_memory_bytes") > 1e6);
        assert!(of("process_open_fds") > 2.0);
        assert!(of("process_open_fds") < of("process_max_fds"));
    }
}

/// Metrics by name, each with its type and labels, as in the reference or in the text.
type Shown = BTreeMap<String, (String, BTreeSet<String>)>;

/// Labels whose values are not a closed set.
const OPEN: [&str; 5] = ["status", "version", "name", "peer", "le"];

/// The text's code spans.
fn spans(text: &str) -> BTreeSet<String> {
    pages::code(text).map(str::to_owned).collect()
}

/// The rows of the table of metrics in host/README.md, by name.
fn rows() -> BTreeMap<String, Vec<&'static str>> {
    let readme = include_str!("../../../README.md");
    let rows = pages::rows(readme, "| metric | type |").into_iter();
    rows.map(|cells| (cells[0].trim_matches('`').to_owned(), cells))
        .collect()
}

fn of_the_reference() -> Shown {
    let shown = |cells: Vec<&str>| (cells[1].to_owned(), spans(cells[2]));
    rows()
        .into_iter()
        .map(|(name, cells)| (name, shown(cells)))
        .collect()
}

/// The samples of the text according to a parser that is not part of this project.
fn of_the_text(text: &str) -> Shown {
    let lines = text.lines().map(|line| Ok(line.to_owned()));
    let scrape = prometheus_parse::Scrape::parse(lines).expect("Prometheus can read it");
    let kinds: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let mut shown = Shown::new();
    for sample in scrape.samples {
        let family = ENDINGS
            .iter()
            .filter_map(|ending| sample.metric.strip_suffix(ending))
            .find(|family| kinds.contains_key(family));
        let family = family.unwrap_or_else(|| panic!("{sample:?} is of no family"));
        let kind = kinds[family];
        let name = match kind {
            "counter" => format!("{family}_total"),
            "info" => format!("{family}_info"),
            _ => family.to_owned(),
        };
        let is_whole = matches!(sample.value, prometheus_parse::Value::Histogram(_));
        assert!(kind != "histogram" || is_whole || sample.metric != family);
        let entry = shown.entry(name).or_default();
        kind.clone_into(&mut entry.0);
        let labels = sample.labels.keys().filter(|label| *label != "le");
        entry.1.extend(labels.cloned());
    }
    shown
}

#[test]
fn the_reference_and_the_text_show_the_same() {
    let (reference, text) = (
        of_the_reference(),
        of_the_text(&after_everything().render()),
    );
    for (name, shown) in &text {
        assert_eq!(reference.get(name), Some(shown), "{name} in host/README.md");
    }
    for name in reference.keys() {
        assert!(
            text.contains_key(name),
            "host/README.md shows {name}: is it one?"
        );
    }
}

/// The text omits metrics that have no value yet, so it would not show a metric that
/// `after_everything` forgets. The registry itself lists all of them.
#[test]
fn the_reference_shows_all_that_is_registered() {
    let registry = format!("{:?}", Metrics::new("1.2.3").registry);
    let registered = registry.split("Descriptor { name: \"").skip(1);
    let registered: Vec<_> = registered
        .map(|rest| rest.split('"').next().expect("a name ends"))
        .collect();
    assert!(registered.len() > 50, "{registered:?}");
    let reference = of_the_reference();
    let bases: BTreeSet<_> = reference.keys().map(|name| base(name)).collect();
    for name in registered {
        let name = format!("ostrakon_{name}");
        assert!(
            bases.contains(base(&name)),
            "{name} in host/README.md, and in `after_everything`"
        );
    }
}

/// A metric's name without the suffixes that the registry adds for its unit and type.
fn base(name: &str) -> &str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    let name = name.strip_suffix("_info").unwrap_or(name);
    let name = name.strip_suffix("_seconds").unwrap_or(name);
    name.strip_suffix("_bytes").unwrap_or(name)
}

#[test]
fn the_reference_lists_each_value_of_a_closed_label() {
    let rows = rows();
    for series in parse(&after_everything().render()).keys() {
        let Some((name, labels)) = series.split_once('{') else {
            continue;
        };
        let row = ENDINGS
            .iter()
            .filter_map(|ending| name.strip_suffix(ending))
            .find_map(|family| rows.get(family))
            .or_else(|| rows.get(name));
        let row = row.unwrap_or_else(|| panic!("{series} has no row"));
        let listed = spans(row[3]);
        for label in labels.trim_end_matches('}').split("\",") {
            let (label, value) = label.split_once("=\"").expect("a label has a value");
            let value = value.trim_end_matches('"');
            assert!(
                OPEN.contains(&label) || listed.contains(value),
                "{label} `{value}` of {name} in host/README.md"
            );
        }
    }
}

#[test]
fn names_say_what_is_counted_in_which_unit() {
    for (name, (kind, labels)) in of_the_text(&after_everything().render()) {
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        for unit in ["_ms", "_millis", "_micros", "_kb", "_mb", "_percent"] {
            assert!(!name.contains(unit), "{name} is not in a base unit");
        }
        let is_timed = name.contains("duration") || name.contains("_wait");
        if kind == "histogram" && is_timed || name.contains("timestamp") {
            assert!(name.ends_with("_seconds"), "{name}");
        }
        assert!(labels.len() <= 3, "{name} has {labels:?}");
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
        let series =
            format!(r#"ostrakon_requests_total{{target="none",access="read",status="{status}"}}"#);
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
    let series = r#"ostrakon_request_duration_seconds_count{target="here",access="read"}"#;
    assert_eq!(samples.get(series), Some(&40_000.0));
}
