//! A new generation tries live requests before it goes live.

use std::thread;
use std::time::{Duration, Instant};

use ostrakon_tests::client::{Client, Response};
use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::host::{Files, Host, Shard, binary, config, guest};
use ostrakon_tests::load::under_load;
use serde_json::Value;

/// How many requests a candidate is tried with.
const REQUESTS: u64 = 400;
/// Requests go to as many partitions, one after another, so each meets a candidate that fails for one
/// of them.
const PARTITIONS: u64 = 100;
const WORKERS: usize = 2;

fn with(label: &str, misbehave: &str, toml: &str) -> Files {
    config(
        &guest("hostile"),
        &[
            ("ostrakon.toml", toml),
            ("label", label),
            ("misbehave", misbehave),
        ],
    )
}

/// The settings of a rehearsal of all requests.
fn rehearses(differ: &str) -> String {
    format!(
        "[rehearsal]\ntime = '60s'\nrequests = {REQUESTS}\nshare = '100%'\ndiffer = '{differ}'\n"
    )
}

fn publish(shard: &mut Shard, files: &Files) {
    shard.config.publish(files).expect("published");
}

/// Reads and writes in turns. None of the answers may be a candidate's.
fn ask(client: &mut Client, worker: usize, number: u64) {
    let response = ask_any(client, worker, number);
    let by_the_candidate = response.text().ends_with('!') || response.header("x-other").is_some();
    assert!(!by_the_candidate, "{response:?}");
}

fn ask_any(client: &mut Client, worker: usize, number: u64) -> Response {
    let key = number / 2 % PARTITIONS;
    let path = if number.is_multiple_of(2) {
        format!("/set/hidden-{key}/secret-{worker}-{number}")
    } else {
        format!("/get/hidden-{key}")
    };
    let response = client.get(&path).expect("an answer");
    assert_eq!(response.status, 200, "{path}: {response:?}");
    response
}

/// A shard whose live generation is published as `0`, with requests coming.
struct Rig {
    shard: Shard,
    host: Host,
}

impl Rig {
    fn new(misbehave: &str) -> Self {
        let shard = Shard::new(&with("0", misbehave, ""));
        let host = shard.start();
        Self { shard, host }
    }

    /// Publishes a candidate under load, and waits until it has rehearsed. Returns what came out, and the
    /// number of live requests meanwhile, none of which failed.
    fn rehearse(&mut self, files: &Files) -> (Value, u64) {
        self.rehearse_with(files, ask)
    }

    fn rehearse_with(
        &mut self,
        files: &Files,
        ask: impl Fn(&mut Client, usize, u64) + Sync,
    ) -> (Value, u64) {
        let before = self.host.status()["rehearsal"].clone();
        let (requests, found) = under_load(self.host.address, WORKERS, ask, |_| {
            publish(&mut self.shard, files);
            let status = self.host.wait_for_status("the rehearsal", |status| {
                let found = &status["rehearsal"];
                found["candidate"] != before["candidate"]
                    && !found.is_null()
                    && found["outcome"] != "rehearses"
                    && status["candidate"].is_null()
            });
            status["rehearsal"].clone()
        });
        (found, requests)
    }

    /// Refused in this step; the reason.
    fn refusal(&self) -> String {
        let refused = &self.host.status()["refused"];
        assert_eq!(refused["step"], "rehearse", "{refused}");
        refused["reason"].as_str().expect("a text").to_owned()
    }

    fn label(&self) -> String {
        let response = self.host.client().get("/label").expect("an answer");
        response.text().to_owned()
    }
}

fn count(found: &Value, what: &str) -> u64 {
    let count = found[what].as_u64();
    count.unwrap_or_else(|| panic!("{what}: {found}"))
}

#[test]
fn what_answers_and_writes_the_same_goes_live() {
    let mut rig = Rig::new("");
    let (found, requests) = rig.rehearse(&with("1", "", &rehearses("nothing")));
    assert_eq!(found["outcome"], "passed", "{found}");
    assert_eq!(count(&found, "requests"), REQUESTS, "{found}");
    assert_eq!(count(&found, "same"), REQUESTS, "{found}");
    assert_eq!(rig.label(), "1");
    let metric = "ostrakon_rehearsed_requests_total{result=\"same\"}";
    assert_eq!(rig.host.metric(metric), REQUESTS);
    assert!(requests >= REQUESTS);
    println!("{requests} live requests during a rehearsal of {REQUESTS}: 0 failed");
}

#[test]
fn what_fails_for_one_of_100_partitions_is_refused_before_it_serves() {
    let mut rig = Rig::new("");
    // Which requests are left out is chance.
    let toml = rehearses("anything").replace(&REQUESTS.to_string(), "5000");
    let (found, requests) = rig.rehearse(&with("1", "trap-on=hidden-77", &toml));
    assert_eq!(found["outcome"], "refused", "{found}");
    assert_eq!(count(&found, "failed"), 1, "{found}");
    let tried = count(&found, "requests");
    let reason = rig.refusal();
    assert!(
        reason.contains(&format!("of {tried} live requests")) && reason.contains("trapped"),
        "{reason}"
    );
    assert_eq!(rig.label(), "0");
    println!(
        "a trap for 1 of {PARTITIONS} partitions was found after {tried} requests; {requests} live ones: 0 failed"
    );
    // What is private stays so.
    let status = rig.host.status().to_string();
    let log = rig.host.log();
    for private in ["hidden-", "secret-"] {
        assert!(!status.contains(private), "{status}");
        assert!(!log.contains(private), "{log}");
    }
    assert!(
        reason.contains("/set/*/*") || reason.contains("/get/*"),
        "{reason}"
    );
}

#[test]
fn each_difference_is_found_and_counts_as_the_settings_say() {
    let mut rig = Rig::new("");
    for what in ["route", "status", "header", "body", "writes"] {
        let misbehave = format!("differ={what}");
        let (found, requests) = rig.rehearse(&with("1", &misbehave, &rehearses("nothing")));
        let reason = rig.refusal();
        assert!(
            reason.contains("rehearsal.differ does not allow that"),
            "{reason}"
        );
        assert_eq!(count(&found, "differ"), 1, "{found}");
        let example = &found["examples"][0];
        let named = if what == "header" { "headers" } else { what };
        assert_eq!(example["difference"], named, "{found}");
        assert!(example["partition"].is_string(), "{found}");
        println!(
            "{what}: found after {} requests; {requests} live ones: 0 failed; {example}",
            count(&found, "requests")
        );
    }
    // None of what was tried is stored.
    let values = rig
        .host
        .client()
        .get("/get-many/hidden-1")
        .expect("an answer");
    assert_eq!(values.text().split(',').count(), 1, "{values:?}");

    let paths = format!(
        "{}show_data = true\n",
        rehearses("anything").replace("'anything'", "['/get/']")
    );
    let ask = |client: &mut Client, worker, number| drop(ask_any(client, worker, number));
    let (found, _) = rig.rehearse_with(&with("1", "differ=header", &paths), ask);
    assert_eq!(found["outcome"], "passed", "{found}");
    let (differ, same) = (count(&found, "differ"), count(&found, "same"));
    assert!(differ >= 10 && same > 0, "{found}");
    assert_eq!(differ + same, REQUESTS, "{found}");
    let examples = found["examples"].as_array().expect("a list");
    assert_eq!(examples.len(), 10, "{found}");
    let path = examples[0]["path"].as_str().expect("a text");
    assert!(path.starts_with("/get/hidden-"), "{found}");
    assert_eq!(
        examples[0]["detail"], "x-other: \"yes\", live none",
        "{found}"
    );
}

#[test]
fn answers_that_differ_without_a_new_generation_say_nothing() {
    let mut rig = Rig::new("differ=state");
    let (found, _) = rig.rehearse(&with("1", "differ=state", &rehearses("nothing")));
    assert_eq!(found["outcome"], "passed", "{found}");
    assert!(count(&found, "unsteady") > 0, "{found}");
    assert_eq!(count(&found, "differ"), 0, "{found}");
}

#[test]
fn a_slower_generation_is_shown() {
    let mut rig = Rig::new("turns=1000000");
    let (found, _) = rig.rehearse(&with("1", "turns=3000000", &rehearses("anything")));
    assert_eq!(found["outcome"], "passed", "{found}");
    let (live, candidate) = (count(&found, "live_us"), count(&found, "candidate_us"));
    assert!(candidate > 2 * live, "{found}");
    println!("{candidate} us a request, the live generation {live} us");
}

/// Requests come all the time, and there is always one that waits.
#[test]
fn its_time_ends_a_rehearsal_under_load() {
    let mut rig = Rig::new("");
    let toml = "[rehearsal]\ntime = '2s'\nrequests = 1000000\nshare = '100%'\ndiffer = 'nothing'";
    let began = Instant::now();
    let (found, requests) = rig.rehearse(&with("1", "", toml));
    let took = began.elapsed();
    assert_eq!(found["outcome"], "passed", "{found}");
    assert!(count(&found, "left_out") > 0, "{found}");
    // Far less than all of it would take.
    assert!(took < Duration::from_secs(30), "{took:?}");
    // At most a quarter of one processor.
    let busy =
        count(&found, "requests") * (count(&found, "live_us") + count(&found, "candidate_us"));
    assert!(Duration::from_micros(busy) < took / 2, "{found}");
    println!(
        "{} of {requests} live requests rehearsed in {took:?}, which took {:?}",
        count(&found, "requests"),
        Duration::from_micros(busy)
    );
}

#[test]
fn newer_content_ends_a_rehearsal() {
    let mut rig = Rig::new("");
    // Nothing comes that it could be tried with.
    publish(&mut rig.shard, &with("1", "", &rehearses("anything")));
    rig.host.wait_for_status("the rehearsal", |status| {
        status["candidate"]["step"] == "rehearse" && status["rehearsal"]["outcome"] == "rehearses"
    });
    publish(&mut rig.shard, &with("2", "", ""));
    rig.host.wait_until("the label", |_| rig.label() == "2");
    assert_eq!(rig.host.status()["rehearsal"]["outcome"], "stopped");
}

/// Partitions, `migrate` of one of which fails.
const MIGRATED: u64 = 100_000;

/// Saves so many partitions, each with one value.
fn fill(host: &Host, partitions: u64) {
    const CLIENTS: u64 = 64;
    let share = partitions.div_ceil(CLIENTS);
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            scope.spawn(move || {
                let mut client = host.client();
                for key in number * share..partitions.min((number + 1) * share) {
                    let set = client.get(&format!("/set/k{key}/v")).expect("an answer");
                    assert_eq!(set.status, 200);
                }
            });
        }
    });
}

#[test]
fn a_migration_is_tried_on_a_copy_of_the_data() {
    let mut rig = Rig::new("");
    fill(&rig.host, MIGRATED);
    let mut client = rig.host.client();
    let toml = rehearses("anything");
    publish(
        &mut rig.shard,
        &with("1", "schema=2,migrate-trap-on=k66666", &toml),
    );
    rig.host
        .wait_for_status("the refusal", |status| !status["refused"].is_null());
    let reason = rig.refusal();
    assert!(
        reason.contains("on a copy of the shard's data, `migrate` fails: the guest trapped"),
        "{reason}"
    );
    let value = client.get("/get/k1").expect("an answer");
    assert_eq!(value.text(), "v");

    publish(&mut rig.shard, &with("2", "schema=2", &toml));
    rig.host.wait_until("the label", |_| rig.label() == "2");
    let migration = rig.host.status()["rehearsal"]["migration"].clone();
    assert_eq!(migration["not_tried"], Value::Null, "{migration}");
    assert_eq!((count(&migration, "from"), count(&migration, "to")), (1, 2));
    assert_eq!(count(&migration, "entries"), MIGRATED, "{migration}");
    assert_eq!(count(&migration, "changed"), MIGRATED, "{migration}");
    assert_eq!(
        count(&migration, "largest_partition_bytes"),
        7,
        "{migration}"
    );
    // It was done once, and nothing of the copy is left.
    let value = client.get("/get/k1").expect("an answer");
    assert_eq!(value.text(), "v~");
    assert!(!rig.shard.directory().join("data/rehearsal").exists());
    println!(
        "migrate of {MIGRATED} partitions took {} ms on a copy",
        count(&migration, "took_ms")
    );
}

#[test]
fn what_one_shard_refuses_after_a_rehearsal_goes_live_in_none_and_going_back_is_not_rehearsed() {
    const SHARDS: u8 = 3;
    let toml = |rehearsal: &str| format!("[cluster]\nshards = {SHARDS}\n{rehearsal}");
    let first = with("0", "", &toml(&rehearses("anything")));
    let mut cluster = Cluster::start(133, SHARDS, SHARDS.into(), &first);
    let labels = |cluster: &Cluster| -> Vec<String> {
        let ask = |host: &Host| {
            host.client()
                .get("/label")
                .expect("an answer")
                .text()
                .to_owned()
        };
        cluster.hosts.iter().map(ask).collect()
    };
    let addresses: Vec<_> = cluster.hosts.iter().map(|host| host.address).collect();
    let ask_all = |clients: &mut [Client], worker: usize, number: u64| {
        let through = usize::try_from(number).expect("few requests") % clients.len();
        ask(&mut clients[through], worker, number / 3);
    };
    let (requests, ()) =
        ostrakon_tests::load::under_load_through(&addresses, WORKERS, ask_all, |_| {
            let bad = with("1", "trap-on-shard=2", &toml(&rehearses("anything")));
            cluster.shards[0].config.publish(&bad).expect("published");
            let status = cluster.hosts[0]
                .wait_for_status("the refusal", |status| !status["refused"].is_null());
            let reason = status["refused"]["reason"].as_str().expect("a text");
            assert!(
                reason.starts_with("shard 2 refuses it at step rehearse: "),
                "{reason}"
            );
            assert_eq!(labels(&cluster), ["0"; 3]);
            let good = with("2", "", &toml(&rehearses("anything")));
            cluster.shards[0].config.publish(&good).expect("published");
            for host in &cluster.hosts {
                host.wait_for_status("the label", |status| {
                    status["rehearsal"]["outcome"] == "passed" && status["candidate"].is_null()
                });
            }
            cluster.hosts[0].wait_until("the label", |_| labels(&cluster) == ["2"; 3]);
        });
    println!("{requests} live requests through three shards: 0 failed");
    // Without requests, a rehearsal would take a minute.
    let rehearsed = |host: &Host| host.status()["rehearsal"].clone();
    let before: Vec<_> = cluster.hosts.iter().map(rehearsed).collect();
    let mut command = std::process::Command::new(binary());
    command.arg("rollback").arg("--admin");
    let output = command.arg(cluster.hosts[0].admin.to_string()).output();
    let output = output.expect("it is built with the workspace");
    assert!(output.status.success(), "{output:?}");
    cluster.hosts[0].wait_until("the label", |_| labels(&cluster) == ["0"; 3]);
    let after: Vec<_> = cluster.hosts.iter().map(rehearsed).collect();
    assert_eq!(before, after);
}

/// The time for which the test waits for nothing to happen.
const MOMENT: Duration = Duration::from_millis(300);

#[test]
fn without_a_live_generation_or_where_it_served_last_nothing_rehearses() {
    let toml = rehearses("nothing");
    let shard = Shard::new(&with("0", "", &toml));
    let host = shard.start();
    assert_eq!(host.status()["rehearsal"], Value::Null);
    host.kill();
    let host = shard.start();
    std::thread::sleep(MOMENT);
    assert_eq!(host.status()["rehearsal"], Value::Null);
}

/// Runs `ostrakon rehearse` with these arguments, under load through all addresses.
fn command(host: &Host, arguments: &[&str]) -> (Option<i32>, String, String) {
    let (_, output) = under_load(host.address, WORKERS, ask, |_| {
        let mut command = std::process::Command::new(binary());
        command.arg("rehearse").args(arguments);
        command.arg("--admin").arg(host.admin.to_string());
        command.output().expect("it is built with the workspace")
    });
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// A directory with the files of a ConfigMap.
fn directory(files: &Files) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, content) in files {
        std::fs::write(directory.path().join(name), content).expect("it can be written");
    }
    directory
}

#[test]
fn the_command_tries_a_guest_without_any_effect() {
    let rig = Rig::new("");
    let before = rig.host.generation();
    let try_out = |files: &Files, more: &[&str]| {
        let directory = directory(files);
        let path = directory.path().to_str().expect("text").to_owned();
        let share = ["--config-dir", &path, "--share", "100%", "--for", "20s"];
        command(&rig.host, &[&share, more].concat())
    };
    let (code, said, complaint) = try_out(&with("1", "", ""), &["--requests", "300"]);
    assert_eq!(code, Some(0), "{said}{complaint}");
    assert!(
        said.contains("shard 0: 300 requests: 300 the same, 0 different, 0 failed"),
        "{said}"
    );

    let (code, said, complaint) = try_out(&with("1", "trap-on=hidden-5", ""), &[]);
    assert_eq!(code, Some(64), "{said}{complaint}");
    assert!(said.contains("failure: the guest trapped"), "{said}");
    assert!(!said.contains("hidden-"), "{said}");
    assert!(
        complaint.contains("it would be refused in shard 0"),
        "{complaint}"
    );

    let differs = with("1", "differ=body", "");
    let more = ["--differ", "nothing", "--show-data"];
    let (code, said, _) = try_out(&differs, &more);
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("/get/hidden-"), "{said}");
    let (code, said, _) = try_out(&differs, &["--differ", "/get/", "--requests", "100"]);
    assert_eq!(code, Some(0), "{said}");

    // A guest alone is tried with the live settings.
    let guest = directory(&Files::from([("new.wasm".to_owned(), guest("hostile"))]));
    let path = guest.path().join("new.wasm");
    let path = path.to_str().expect("text");
    let arguments = ["--guest", path, "--share", "100%", "--requests", "50"];
    let (code, said, complaint) = command(&rig.host, &arguments);
    assert_eq!(code, Some(0), "{said}{complaint}");

    let bad = with("1", "error-in-check", "");
    let (code, said, complaint) = try_out(&bad, &[]);
    assert_eq!(code, Some(64), "{said}{complaint}");
    assert!(complaint.contains("an error was asked for"), "{complaint}");

    assert_eq!(rig.host.generation(), before);
    assert_eq!(rig.label(), "0");
    assert_eq!(rig.host.status()["rehearsal"], Value::Null);
}

#[test]
fn the_command_tries_a_guest_in_all_shards() {
    const SHARDS: u8 = 3;
    let toml = format!("[cluster]\nshards = {SHARDS}\n");
    let cluster = Cluster::start(134, SHARDS, SHARDS.into(), &with("0", "", &toml));
    let directory = directory(&with("1", "trap-on-shard=2", &toml));
    let path = directory.path().to_str().expect("text");
    let (code, said, complaint) = command(
        &cluster.hosts[1],
        &[
            "--config-dir",
            path,
            "--share",
            "100%",
            "--requests",
            "50",
            "--for",
            "20s",
        ],
    );
    assert_eq!(code, Some(64), "{said}{complaint}");
    assert!(
        complaint.contains("it would be refused in shard 2"),
        "{complaint}"
    );
    for shard in [0, 1] {
        assert!(
            said.contains(&format!("shard {shard}: 50 requests: 50 the same")),
            "{said}"
        );
    }
}

#[test]
fn without_requests_nothing_is_known() {
    let rig = Rig::new("");
    let directory = directory(&with("1", "", ""));
    let mut command = std::process::Command::new(binary());
    command.args(["rehearse", "--for", "200ms", "--config-dir"]);
    command.arg(directory.path());
    command.arg("--admin").arg(rig.host.admin.to_string());
    let output = command.output().expect("it is built with the workspace");
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        complaint.contains("no request came in 200ms"),
        "{complaint}"
    );
}

#[test]
fn in_development_each_generation_is_tried_with_the_last_requests() {
    let mut shard = Shard::new(&with("0", "", ""));
    shard.arguments = vec!["--keep-requests".to_owned(), "20".to_owned()];
    let host = shard.start();
    let mut client = host.client();
    for path in ["/set/a/1", "/get/a", "/label"] {
        let answer = client.get(path).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let wait_for = |label: &str| {
        host.wait_until("the label", |host| {
            host.client().get("/label").expect("an answer").text() == label
        });
    };
    publish(&mut shard, &with("0", "differ=body", ""));
    host.wait_for_status("it is live", |status| {
        status["generation"]["generation"] == 2
    });
    let log = host.log();
    assert!(
        log.contains("GET /get/a differs in body: 2 bytes, live 1, from byte 1 on"),
        "{log}"
    );
    assert!(!log.contains("/set/a/1 differs"), "{log}");
    // It is told, and goes live all the same.
    publish(&mut shard, &with("2", "trap-on=a", ""));
    wait_for("2");
    let log = host.log();
    assert!(
        log.contains("GET /set/a/1 differs in failure: the guest trapped"),
        "{log}"
    );
    // It has data in it.
    assert_eq!(host.status()["rehearsal"], Value::Null);
    let value = host.client().get("/get-many/a").expect("an answer");
    assert_eq!(value.text(), "1", "what was tried is not stored");
}
