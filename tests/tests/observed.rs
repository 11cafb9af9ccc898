//! What can be observed of shards from outside: metrics of events, and a log whose filter changes
//! while they run.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;

use ostrakon_test_support::tools::tool;
use ostrakon_tests::client::Client;
use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::host::{Files, Host, Shard, binary, config, guest};

fn kv(toml: &str) -> Files {
    config(&guest("kv"), &[("ostrakon.toml", toml)])
}

/// The value of a series in the metrics; none if the series is absent.
fn shown(host: &Host, series: &str) -> Option<f64> {
    let scraped = host
        .admin("GET", "/metrics")
        .expect("the admin port answers");
    let mut lines = scraped.text().lines();
    lines.find_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        (name == series).then(|| value.parse().expect("the text is a number"))
    })
}

fn wait_for(host: &Host, series: &str, wanted: Option<f64>) {
    host.wait_until(&format!("{series} {wanted:?}"), |host| {
        shown(host, series) == wanted
    });
}

#[test]
fn promtool_finds_nothing_wrong_with_a_shard_s_metrics() {
    let host = Shard::new(&kv("")).start();
    host.client().get("/save/a/b").expect("an answer");
    let mut asked = Client::new(host.admin);
    let accept = [("accept", "text/plain")];
    let scraped = asked
        .send("GET", "/metrics", &accept, b"")
        .expect("an answer");
    let kind = scraped.header("content-type");
    assert_eq!(kind, Some("text/plain; version=0.0.4; charset=utf-8"));
    let mut promtool = tool("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut stdin = promtool.stdin.take().expect("the stream is piped");
    stdin.write_all(&scraped.body).expect("it reads");
    drop(stdin);
    let output = promtool.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success() && said.is_empty(),
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&said)
    );
    println!("{} lines", scraped.text().lines().count());
    host.stop();
}

#[test]
fn a_shard_s_metrics_say_how_it_is() {
    let mut cluster = Cluster::start(53, 3, 3, &kv("[cluster]\nshards = 3\n"));
    let host = &cluster.hosts[0];
    for (series, value) in [
        ("ostrakon_ready", 1.0),
        ("ostrakon_draining", 0.0),
        ("ostrakon_swap_refused", 0.0),
        ("ostrakon_topology_shards", 3.0),
        ("ostrakon_topology_moving", 0.0),
        ("ostrakon_topology_awaited_shards", 0.0),
        (r#"ostrakon_guest_info{name="kv",version="0.1.0"}"#, 1.0),
    ] {
        assert_eq!(shown(host, series), Some(value), "{series}");
    }
    let now = std::time::UNIX_EPOCH
        .elapsed()
        .expect("the clock is later than 1970")
        .as_secs_f64();
    for series in [
        "process_start_time_seconds",
        "ostrakon_generation_live_timestamp_seconds",
    ] {
        let at = shown(host, series).expect("it is shown");
        assert!((now - at).abs() < 600.0, "{series} {at}, now {now}");
    }
    let of = |series| shown(host, series).expect("it is shown");
    let free = of("ostrakon_store_filesystem_available_bytes");
    assert!(free > 0.0 && free <= of("ostrakon_store_filesystem_size_bytes"));
    assert!(of("process_open_fds") > 5.0 && of("process_resident_memory_bytes") > 1e6);

    // Requests that are forwarded to each of the other shards.
    for path in ["/save/a/word", "/save/b/word", "/save/c/word", "/keys"] {
        assert_eq!(host.client().get(path).expect("an answer").status, 200);
    }
    let answered = r#"ostrakon_requests_forwarded_total{result="answered"}"#;
    for (series, value) in [
        (answered, 2.0),
        ("ostrakon_forward_duration_seconds_count", 2.0),
        ("ostrakon_requests_waiting", 0.0),
    ] {
        assert_eq!(shown(host, series), Some(value), "{series}");
    }
    let writes = r#"target="partition",access="write""#;
    let duration = format!("ostrakon_request_duration_seconds_count{{{writes}}}");
    assert_eq!(shown(host, &duration), Some(3.0));
    // A shard is not its own peer. The coordinator knows the others.
    wait_for(host, r#"ostrakon_peer_up{peer="1"}"#, Some(1.0));
    wait_for(host, r#"ostrakon_peer_up{peer="2"}"#, Some(1.0));
    assert_eq!(shown(host, r#"ostrakon_peer_up{peer="0"}"#), None);
    wait_for(
        &cluster.hosts[1],
        r#"ostrakon_peer_up{peer="0"}"#,
        Some(1.0),
    );

    // A shard is gone, and the metrics show the requests that wait for it. Then it comes back.
    cluster.hosts.remove(2).kill();
    let host = &cluster.hosts[0];
    wait_for(host, r#"ostrakon_peer_up{peer="2"}"#, Some(0.0));
    thread::scope(|scope| {
        let waits = scope.spawn(|| host.client().get("/load/b"));
        wait_for(host, "ostrakon_requests_waiting", Some(1.0));
        wait_for(host, "ostrakon_requests_in_flight", Some(1.0));
        let away = r#"ostrakon_requests_forwarded_total{result="away"}"#;
        host.wait_until("a hop to nobody", |host| shown(host, away) > Some(0.0));
        let back = cluster.shards[2].start();
        let answered = waits.join().expect("it ends").expect("an answer");
        assert_eq!((answered.status, answered.text()), (200, "word"));
        wait_for(host, r#"ostrakon_peer_up{peer="2"}"#, Some(1.0));
        wait_for(host, "ostrakon_requests_waiting", Some(0.0));
        drop(back);
    });

    // A setting that is refused and then removed.
    cluster.shards[0]
        .config
        .publish(&kv("sharding = 1"))
        .expect("published");
    let host = &cluster.hosts[0];
    wait_for(host, "ostrakon_swap_refused", Some(1.0));
    assert_eq!(shown(host, "ostrakon_ready"), Some(1.0));
    cluster.shards[0]
        .config
        .publish(&kv("[cluster]\nshards = 3\n"))
        .expect("published");
    wait_for(host, "ostrakon_swap_refused", Some(0.0));
    host.admin("POST", "/drain").expect("it drains");
    assert_eq!(shown(host, "ostrakon_ready"), Some(0.0));
    assert_eq!(shown(host, "ostrakon_draining"), Some(1.0));
}

#[test]
fn the_log_s_filter_changes_while_requests_run_and_each_line_is_an_object() {
    let files = |filter: &str| {
        let toml = format!("[log]\nfilter = \"{filter}\"\n");
        config(&guest("hostile"), &[("ostrakon.toml", &toml)])
    };
    let mut shard = Shard::new(&files("warn"));
    shard.ordinal = 7;
    let host = shard.start();
    let ask = || host.client().get("/log-lines").expect("an answer").status;
    assert_eq!(ask(), 200);
    let lines = |host: &Host| host.log().matches("fake line").count();
    shard
        .config
        .publish(&files("warn,guest=info"))
        .expect("published");
    host.wait_for_status("the new filter", |status| {
        status["generation"]["generation"] == 2
    });
    assert_eq!(lines(&host), 0, "{}", host.log());
    assert_eq!(ask(), 200);
    host.wait_until("the guest's line", |host| lines(host) == 1);
    shard
        .config
        .publish(&files("=not a filter="))
        .expect("published");
    host.wait_for_status("a refusal", |status| status["refused"]["step"] == "verify");
    // A refused change does not affect the log either.
    assert_eq!(ask(), 200);
    host.wait_until("the guest's next line", |host| lines(host) == 2);
    let log = host.stop();
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("an object");
        assert_eq!(line["shard"], 7, "{line}");
        for field in ["timestamp", "level", "target", "message"] {
            assert!(line[field].is_string(), "{line} has no text in {field}");
        }
    }
    assert!(log.contains("generation refused"), "{log}");
    println!("{} lines, each an object", log.lines().count());
}

#[test]
fn on_a_terminal_the_log_is_for_people_and_elsewhere_it_is_json() {
    // It logs that it starts and then ends, because its data directory is a file.
    let serve = format!(
        "{} serve --config-dir . --data-dir /dev/null --listen 127.0.0.1:0 --admin 127.0.0.1:0 --ordinal 0",
        binary().display()
    );
    let first_line_of = |command: &mut Command| {
        let ran = command.env_remove("KUBERNETES_SERVICE_HOST").output();
        let ran = ran.expect("it runs");
        let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
        let mut lines = said.lines().map(str::to_owned);
        lines.find(|line| line.contains("starting")).unwrap_or(said)
    };
    let elsewhere = first_line_of(Command::new("sh").args(["-c", &serve]));
    let elsewhere: serde_json::Value = serde_json::from_str(&elsewhere).expect("an object");
    assert_eq!(elsewhere["message"], "starting");
    // `script` runs a program on a terminal.
    let on_terminal = first_line_of(Command::new("script").args(["-qec", &serve, "/dev/null"]));
    assert!(
        on_terminal.contains("INFO") && on_terminal.contains("\u{1b}["),
        "the line has no colours: {on_terminal:?}"
    );
    serde_json::from_str::<serde_json::Value>(&on_terminal).unwrap_err();
}
