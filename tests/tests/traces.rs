//! Traces: how the spans and log lines of a request in two shards are joined, and what exists
//! without tracing.

use std::fs;

use ostrakon_tests::client::Response;
use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::collector::{Collector, Span};
use ostrakon_tests::host::{Files, Host, Shard, config, guest};
use serde_json::Value;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// Shards with a guest that logs on request.
fn hostile() -> Files {
    let toml = "[cluster]\nshards = 2\n[log]\nfilter = \"info\"\n";
    config(&guest("hostile"), &[("ostrakon.toml", toml)])
}

/// The path of a request in which the guest logs.
fn logging(partition: u32) -> String {
    format!("/log-lines?partition={partition}")
}

fn writing(partition: u32) -> String {
    format!("/set/{partition}/value?a=query")
}

/// Sends a request for the second shard's data to the first, within a trace.
fn ask_of_the_second(
    cluster: &Cluster,
    path: impl Fn(u32) -> String,
    traceparent: &str,
) -> Response {
    let mut client = cluster.hosts[0].client();
    let paths = (0..64).map(path);
    let is_elsewhere = |path: &String| {
        let untraced = cluster.hosts[0].client().get(path).expect("an answer");
        untraced.header("ostrakon-shard") == Some("1")
    };
    let path = paths.into_iter().find(is_elsewhere).expect("one of 64");
    let headers = [("traceparent", traceparent)];
    client.send("GET", &path, &headers, b"").expect("an answer")
}

/// The number of the guest's log lines that belong to the trace.
fn traced_lines(host: &Host) -> usize {
    let log = host.log();
    let lines = log.lines().map(serde_json::from_str::<Value>);
    let is_of_it = |line: &Value| line["trace_id"] == TRACE && line["target"] == "guest";
    lines.map_while(Result::ok).filter(is_of_it).count()
}

fn threads(host: &Host) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", host.id())).expect("it runs");
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
    let names = tasks.flatten().filter_map(name);
    names.map(|name| name.trim().to_owned()).collect()
}

#[test]
fn spans_of_two_shards_join_in_the_client_s_trace() {
    let collector = Collector::start();
    let endpoint = format!("http://{}", collector.address);
    let files = hostile();
    let more = ["--otlp-endpoint", &endpoint, "--service-name", "joined"];
    let cluster = Cluster::start_with_arguments(51, 2, &[&files, &files], &more);
    let answered = ask_of_the_second(&cluster, writing, &format!("00-{TRACE}-{CALLER}-01"));
    assert_eq!(
        (answered.status, answered.header("ostrakon-shard")),
        (200, Some("1"))
    );

    let of_it = |spans: &[Span]| -> Vec<Span> {
        let of_it = spans.iter().filter(|span| span.trace == TRACE);
        of_it.cloned().collect()
    };
    let is_whole = |spans: &[Span]| {
        let ends = ["GET partition", "answer for a peer"];
        let of_it = of_it(spans);
        ends.iter()
            .all(|end| of_it.iter().any(|span| span.name == *end))
    };
    let spans = of_it(&collector.wait_for("both shards' spans", is_whole));
    let one = |name: &str, shard: &str| -> &Span {
        let mut found = spans
            .iter()
            .filter(|span| span.name == name && span.attributes["service.instance.id"] == shard);
        let first = found.next();
        let first = first.unwrap_or_else(|| panic!("no {name} of {shard} in {spans:#?}"));
        assert!(
            found.next().is_none(),
            "there are two spans {name} of shard {shard}: {spans:#?}"
        );
        first
    };
    let asked = one("GET partition", "0");
    let hop = one("forward", "0");
    let answering = one("answer for a peer", "1");
    assert_eq!((&*asked.parent, asked.kind), (CALLER, 2));
    assert_eq!((&hop.parent, hop.kind), (&asked.id, 3));
    assert_eq!((&answering.parent, answering.kind), (&hop.id, 2));
    assert_eq!(one("guest route", "0").parent, asked.id);
    let within = "guest route,wait for the writer,guest handle,commit";
    for inner in within.split(',') {
        let inner = one(inner, "1");
        assert_eq!(
            (&inner.parent, inner.kind),
            (&answering.id, 1),
            "{}",
            inner.name
        );
        assert!(inner.began >= answering.began && inner.ended <= answering.ended);
    }
    let said = |span: &Span, key: &str| span.attributes.get(key).cloned().unwrap_or_default();
    assert_eq!(said(asked, "service.name"), "joined");
    assert_eq!(said(asked, "http.request.method"), "GET");
    let path = said(asked, "url.path");
    assert!(
        path.starts_with("/set/") && path.ends_with("/value"),
        "{path}"
    );
    assert_eq!(said(asked, "http.response.status_code"), "200");
    assert_eq!(said(asked, "ostrakon.shard"), "1");
    assert_eq!(said(hop, "ostrakon.peer"), "1");
    assert_eq!(said(answering, "ostrakon.access"), "write");
    assert!(spans.iter().all(|span| !span.failed), "{spans:#?}");

    let logged = ask_of_the_second(&cluster, logging, &format!("00-{TRACE}-{CALLER}-00"));
    assert_eq!(logged.status, 200);
    cluster.hosts[1].wait_until("the line of the trace", |host| traced_lines(host) >= 1);
    assert_eq!(traced_lines(&cluster.hosts[0]), 0);
    assert!(threads(&cluster.hosts[0]).contains(&"otlp".to_owned()));

    // The earlier request had no trace. The host made one, the same in both shards.
    let all = collector.spans();
    let made = all
        .iter()
        .filter(|span| span.trace != TRACE && span.name == "forward");
    let made: Vec<_> = made.collect();
    assert!(!made.is_empty());
    for hop in made {
        let there = all.iter().find(|span| span.parent == hop.id);
        assert_eq!(there.map(|span| &span.trace), Some(&hop.trace));
    }
    // A trace that the caller does not record is not recorded here.
    let unsampled = format!("00-{}-{CALLER}-00", TRACE.replace('4', "5"));
    assert_eq!(ask_of_the_second(&cluster, logging, &unsampled).status, 200);
    let exported = |host: &Host| host.metric("ostrakon_spans_exported_total");
    for host in cluster.hosts {
        let counted = exported(&host);
        host.stop();
        println!("{counted} spans exported before the end");
    }
    // All waiting spans were sent at the end.
    let spans = collector.spans();
    assert!(
        spans.iter().all(|span| !span.trace.starts_with("5bf")),
        "{spans:#?}"
    );
    println!(
        "{} spans, {} of the client's trace",
        spans.len(),
        of_it(&spans).len()
    );
}

#[test]
fn without_a_collector_a_trace_still_names_log_lines_in_each_shard() {
    let files = hostile();
    let cluster =
        Cluster::start_with_arguments(52, 2, &[&files, &files], &["--service-name", "off"]);
    let answered = ask_of_the_second(&cluster, logging, &format!("00-{TRACE}-{CALLER}-00"));
    assert_eq!(answered.status, 200);
    cluster.hosts[1].wait_until("the line of the trace", |host| traced_lines(host) >= 1);
    for host in &cluster.hosts {
        let threads = threads(host);
        assert!(!threads.contains(&"otlp".to_owned()), "{threads:?}");
        for metric in [
            "ostrakon_spans_exported_total",
            "ostrakon_spans_dropped_total",
        ] {
            assert_eq!(host.metric(metric), 0);
        }
    }
}

#[test]
fn a_collector_that_is_gone_harms_no_request() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let endpoint = format!("http://{}", gone.local_addr().expect("it is bound"));
    drop(gone);
    let mut shard = Shard::new(&config(&guest("kv"), &[]));
    shard.arguments = ["--otlp-endpoint", &endpoint].map(str::to_owned).to_vec();
    let host = shard.start();
    let mut client = host.client();
    let requests = 3_000;
    for number in 0..requests {
        let path = format!("/load/{number}");
        assert_eq!(client.get(&path).expect("an answer").status, 200);
    }
    let full = r#"ostrakon_spans_dropped_total{reason="queue_full"}"#;
    let refused = r#"ostrakon_spans_dropped_total{reason="refused"}"#;
    host.wait_until("a batch given up", |host| host.metric(refused) > 0);
    let (full, refused) = (host.metric(full), host.metric(refused));
    assert!(
        full > 0,
        "no span was dropped, although the queue is bounded"
    );
    let log = host.stop();
    let told = log.matches("spans are not exported").count();
    assert_eq!(told, 1, "{log}");
    println!("{requests} requests, {full} spans found no room, {refused} not taken");
}

#[test]
fn what_is_not_a_collector_is_one_clear_line() {
    for (flag, value, says) in [
        ("--otlp-endpoint", "https://otel:4318", "http://HOST:4318"),
        ("--otlp-endpoint", "otel", "http://HOST:4318"),
        ("--otlp-protocol", "grpc", "http/protobuf"),
        ("--traces-sampler", "some", "always_on"),
        ("--otlp-headers", "canary", "name=value"),
    ] {
        // The host ends whatever its collector is, because this guest is invalid.
        let mut shard = Shard::new(&config(b"none", &[]));
        let mut arguments = vec![flag, value];
        if flag != "--otlp-endpoint" {
            arguments.extend(["--otlp-endpoint", "http://127.0.0.1:4318"]);
        }
        shard.arguments = arguments.into_iter().map(str::to_owned).collect();
        let ended = shard.command().output().expect("it runs");
        let told = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(64), "{flag} {value}: {told}");
        assert!(told.contains(says), "{flag} {value}: {told}");
        assert!(value != "canary" || !told.contains(value), "{told}");
    }
}
