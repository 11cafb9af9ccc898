//! A new generation serves a part of the partitions, then more, then all; and all shards go back by
//! themselves where it does worse.

#![expect(clippy::print_stdout, reason = "the tests say what they counted")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ostrakon_tests::client::Client;
use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::host::{Files, Host, Shard, binary, config, guest};
use ostrakon_tests::load::under_load_through;
use serde_json::Value;

const SHARDS: u8 = 3;
const KEYS: u64 = 200;
const WORKERS: usize = 3;

/// The guest with this label, what else it is to do, and the table `[rollout]`.
fn with(label: &str, misbehave: &str, rollout: &str) -> Files {
    let toml = format!(
        "[cluster]\nshards = {SHARDS}\nmax_wait = '20s'\n[guest]\nread_deadline = '5s'\n[rollout]\n{rollout}"
    );
    config(
        &guest("hostile"),
        &[
            ("ostrakon.toml", &toml),
            ("label", label),
            ("misbehave", misbehave),
        ],
    )
}

/// Steps that take no time to speak of, and ones that never end by themselves.
const QUICK: &str = "steps = ['10%', '50%', '100%']\nbake = '1s'\n";
const SLOW: &str = "steps = ['20%', '60%', '100%']\nbake = '1h'\n";

/// What answered each key last, and how many requests were answered how.
#[derive(Default)]
struct Seen {
    /// By key: the generation and its label.
    last: Mutex<BTreeMap<u64, (u64, String)>>,
    asked: AtomicU64,
    failed: AtomicU64,
    /// Set where a candidate is to fail.
    may_fail: bool,
}

impl Seen {
    fn failing() -> Self {
        Self {
            may_fail: true,
            ..Self::default()
        }
    }

    /// Asks who serves a partition, by a read or a write. No partition goes back to a lower number.
    fn ask(&self, client: &mut Client, key: u64, writes: bool) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let query = if writes { "?access=write" } else { "" };
        let asked = client.get(&format!("/who/key-{key}{query}"));
        let response = asked.expect("an answer");
        if self.may_fail && response.status >= 500 {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        assert_eq!(response.status, 200, "{response:?}");
        let generation = response.generation();
        let mut last = self.last.lock().expect("no holder panics");
        let before = last.insert(key, (generation, response.text().to_owned()));
        if let Some((before, label)) = before {
            let is_same = before == generation && label == response.text();
            assert!(
                is_same || before < generation,
                "key {key} was at {before} ({label}): {response:?}"
            );
        }
    }

    /// A worker's next request, through one shard after another.
    fn next(&self, clients: &mut [Client], worker: usize, number: u64) {
        // Each worker has keys of its own, so that it sees the order of their answers.
        let workers = WORKERS as u64;
        let key = number % (KEYS / workers) * workers + worker as u64;
        let through = usize::try_from(number).expect("few requests") % clients.len();
        self.ask(&mut clients[through], key, number.is_multiple_of(3));
    }

    /// How many of the keys this label answered last.
    fn of(&self, label: &str) -> usize {
        let last = self.last.lock().expect("no holder panics");
        last.values().filter(|(_, of)| of == label).count()
    }
}

/// A shard that is alone, or three.
struct Rig {
    hosts: Vec<Host>,
    shards: Vec<Shard>,
}

impl Rig {
    fn alone(files: &Files) -> Self {
        let shard = Shard::new(&alone(files));
        let hosts = vec![shard.start()];
        let shards = vec![shard];
        Self { hosts, shards }
    }

    fn of_three(part: u8, files: &Files) -> Self {
        let Cluster { hosts, shards } = Cluster::start(part, SHARDS, SHARDS.into(), files);
        Self { hosts, shards }
    }

    /// Publishes content at shard 0 only: the others' volumes are late for ever.
    fn publish(&mut self, files: &Files) {
        let files = if self.shards.len() == 1 {
            alone(files)
        } else {
            files.clone()
        };
        let config = &mut self.shards[0].config;
        config.publish(&files).expect("published");
    }

    fn rollout(&self) -> Value {
        self.hosts[0].status()["rollout"].clone()
    }

    /// Waits until a step is watched, in all shards.
    fn wait_for_step(&self, percent: f64) -> Value {
        self.hosts[0].wait_for_status("the step", |status| {
            let watch = &status["rollout"]["watch"];
            watch["percent"].as_f64() == Some(percent)
                && watch["waits_for_shards"]
                    .as_array()
                    .is_some_and(Vec::is_empty)
        })
    }

    /// Waits until all shards serve this label with all partitions.
    fn wait_for(&self, label: &str) {
        for host in &self.hosts {
            host.wait_until("the label", |host| {
                let response = host.client().get("/label").expect("an answer");
                response.text() == label && host.status()["candidate"].is_null()
            });
        }
    }

    /// Waits until all shards went back from this label to another one; why, and how long it took.
    fn wait_for_the_way_back(&self, to: &str) -> String {
        let status = self.hosts[0].wait_for_status("the way back", |status| {
            let rollout = &status["rollout"];
            !rollout["went_back"].is_null() && rollout["held"].is_string()
        });
        self.wait_for(to);
        let back = &status["rollout"]["went_back"];
        assert!(back["failed"].is_null(), "{back}");
        back["why"].as_str().expect("a text").to_owned()
    }

    /// Has clients ask for all keys through all shards while something is done.
    fn under_load<T>(&mut self, seen: &Seen, meanwhile: impl FnOnce(&mut Self) -> T) -> (u64, T) {
        let addresses: Vec<_> = self.hosts.iter().map(|host| host.address).collect();
        let request = |clients: &mut [Client], worker, number| seen.next(clients, worker, number);
        under_load_through(&addresses, WORKERS, request, |_| meanwhile(self))
    }

    /// Waits until clients have asked for all keys.
    fn ask_for_all(&self, seen: &Seen) {
        let before = seen.asked.load(Ordering::Relaxed);
        self.hosts[0].wait_until("all keys", |_| {
            seen.asked.load(Ordering::Relaxed) > before + 2 * KEYS
        });
    }

    fn kill_and_start(&mut self, shard: usize) {
        let host = self.hosts.remove(shard);
        host.kill();
        self.hosts.insert(shard, self.shards[shard].start());
    }

    fn order(&self, arguments: &[&str]) -> Output {
        order(&self.hosts[0], arguments)
    }

    /// An order that is obeyed; what is said.
    fn obeys(&self, arguments: &[&str]) -> String {
        let output = self.order(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// An order that is not; the exit code, and why.
    fn refuses(&self, arguments: &[&str]) -> (Option<i32>, String) {
        refuses(&self.hosts[0], arguments)
    }
}

/// The same content without a cluster's table, for a shard that is alone.
fn alone(files: &Files) -> Files {
    let mut files = files.clone();
    if let Some(toml) = files.get_mut("ostrakon.toml") {
        let text = String::from_utf8(std::mem::take(toml)).expect("text");
        let shards = format!("shards = {SHARDS}");
        *toml = text.replace(&shards, "shards = 1").into_bytes();
    }
    files
}

fn order(host: &Host, arguments: &[&str]) -> Output {
    Command::new(binary())
        .arg("rollout")
        .args(arguments)
        .args(["--admin", &host.admin.to_string()])
        .output()
        .expect("the command runs")
}

fn refuses(host: &Host, arguments: &[&str]) -> (Option<i32>, String) {
    let output = order(host, arguments);
    assert!(!output.status.success(), "{arguments:?}: {output:?}");
    (
        output.status.code(),
        String::from_utf8(output.stderr).expect("text"),
    )
}

fn goes_step_by_step(mut rig: Rig) {
    rig.wait_for("one");
    let seen = Seen::default();
    let (requests, shares) = rig.under_load(&seen, |rig| {
        rig.publish(&with("two", "", QUICK));
        let shares = [10.0, 50.0].map(|percent| {
            rig.wait_for_step(percent);
            rig.ask_for_all(&seen);
            seen.of("two")
        });
        rig.wait_for("two");
        rig.ask_for_all(&seen);
        shares
    });
    let keys = usize::try_from(KEYS).expect("few");
    assert!(
        (keys / 50..keys / 4).contains(&shares[0]) && (keys / 3..keys * 3 / 4).contains(&shares[1]),
        "{shares:?}"
    );
    let all = seen.of("two");
    assert_eq!(seen.of("one"), 0);
    println!(
        "{requests} requests while {} shards went over in 3 steps, 0 failed; {shares:?} of {all} partitions in the first two",
        rig.hosts.len()
    );
}

#[test]
fn partitions_go_over_step_by_step_and_none_comes_back() {
    goes_step_by_step(Rig::of_three(150, &with("one", "", "")));
}

#[test]
fn a_shard_that_is_alone_goes_step_by_step() {
    goes_step_by_step(Rig::alone(&with("one", "", "")));
}

/// What serves a part of the partitions, and fails for one of 200 requests, or is slow.
fn goes_back(mut rig: Rig, misbehave: &str, why: &str) {
    rig.wait_for("one");
    let seen = Seen::failing();
    let (requests, (told, took)) = rig.under_load(&seen, |rig| {
        // What it is compared with.
        rig.ask_for_all(&seen);
        rig.publish(&with("two", misbehave, SLOW));
        let began = Instant::now();
        let told = rig.wait_for_the_way_back("one");
        let took = began.elapsed();
        rig.ask_for_all(&seen);
        (told, took)
    });
    assert!(told.contains(why), "{told}");
    assert_eq!(seen.of("two"), 0, "all partitions came back");
    // It does not go live again by itself.
    let status = rig.hosts[0].status();
    assert!(status["rollout"]["watch"].is_null(), "{status}");
    assert_eq!(
        rig.hosts[0].metric("ostrakon_rollout_went_back_total{by=\"itself\"}"),
        1
    );
    println!(
        "{misbehave}: {told}; {} of {requests} requests through {} shards failed in {took:?}",
        seen.failed.load(Ordering::Relaxed),
        rig.hosts.len()
    );
    // The ConfigMap changes.
    rig.publish(&with("three", "", "bake = '0s'"));
    rig.wait_for("three");
}

#[test]
fn what_fails_for_one_of_200_requests_goes_back_from_its_first_step() {
    let rig = Rig::of_three(151, &with("one", "", ""));
    goes_back(rig, "trap-each=200", "mostly traps");
}

#[test]
fn what_is_three_times_as_slow_goes_back_from_its_first_step() {
    let rig = Rig::of_three(152, &with("one", "turns=1000000", ""));
    goes_back(rig, "turns=3000000", "the median of its ");
}

#[test]
fn a_shard_that_is_alone_goes_back_by_itself() {
    let rig = Rig::alone(&with("one", "", ""));
    goes_back(rig, "status=500", "mostly statuses of 500 and above");
}

/// What serves all partitions at once, and fails, is gone back from.
fn is_watched_afterwards(mut rig: Rig) {
    rig.wait_for("one");
    let seen = Seen::failing();
    let (requests, told) = rig.under_load(&seen, |rig| {
        rig.ask_for_all(&seen);
        rig.publish(&with("two", "trap-each=10", ""));
        let told = rig.wait_for_the_way_back("one");
        rig.ask_for_all(&seen);
        told
    });
    assert!(told.contains("mostly traps"), "{told}");
    assert_eq!(seen.of("two"), 0);
    println!(
        "{told}; {} of {requests} requests failed",
        seen.failed.load(Ordering::Relaxed)
    );
    // Two failures in a generation that was gone back to do not count against it.
    rig.publish(&with("three", "", ""));
    rig.wait_for("three");
    let watch = &rig.rollout()["watch"];
    assert!(watch.is_null() || watch["percent"] == 100.0, "{watch}");
}

#[test]
fn what_fails_after_it_went_live_is_gone_back_from() {
    is_watched_afterwards(Rig::of_three(153, &with("one", "", "")));
}

#[test]
fn what_fails_after_it_went_live_is_gone_back_from_in_a_shard_that_is_alone() {
    is_watched_afterwards(Rig::alone(&with("one", "", "")));
}

/// Two that fail follow each other within the time for which the first one is watched.
#[test]
fn what_fails_is_no_measure_for_what_follows_it() {
    let mut rig = Rig::alone(&with("one", "", "bake = '5s'"));
    rig.wait_for("one");
    let began = Instant::now();
    let seen = Seen::failing();
    let (requests, told) = rig.under_load(&seen, |rig| {
        while began.elapsed() < Duration::from_secs(6) {
            rig.ask_for_all(&seen);
        }
        rig.publish(&with(
            "two",
            "trap-each=50",
            "bake = '5s'\nfailures = '50%'",
        ));
        rig.wait_for("two");
        rig.ask_for_all(&seen);
        rig.publish(&with("three", "trap-each=50", "bake = '5s'"));
        let told = rig.wait_for_the_way_back("one");
        rig.ask_for_all(&seen);
        told
    });
    assert!(told.contains("mostly traps"), "{told}");
    assert_eq!((seen.of("two"), seen.of("three")), (0, 0));
    println!(
        "{told}; {} of {requests} requests failed",
        seen.failed.load(Ordering::Relaxed)
    );
}

/// Nothing is known of what the generation before it answered.
#[test]
fn what_fails_after_a_restart_is_gone_back_from() {
    let mut rig = Rig::alone(&with("one", "", ""));
    rig.wait_for("one");
    rig.kill_and_start(0);
    rig.wait_for("one");
    rig.publish(&with("two", "trap-each=4", ""));
    rig.wait_for("two");
    let seen = Seen::failing();
    let (requests, told) = rig.under_load(&seen, |rig| rig.wait_for_the_way_back("one"));
    assert!(
        told.contains("with the generation before it 0 of 0"),
        "{told}"
    );
    println!(
        "{told}; {} of {requests} requests failed",
        seen.failed.load(Ordering::Relaxed)
    );
}

/// Where a generation is kept.
fn kept(shard: &Shard, digest: &str) -> PathBuf {
    shard.data.join("generations").join(digest)
}

/// The digest of what is live.
fn live(host: &Host) -> String {
    let status = host.status();
    let digest = status["generation"]["digest"].as_str();
    digest.expect("a digest").to_owned()
}

/// What is gone back to is no longer on shard 0's disk.
#[test]
fn the_way_back_leads_to_what_another_shard_has_kept() {
    let mut rig = Rig::of_three(163, &with("one", "", ""));
    rig.wait_for("one");
    let one = live(&rig.hosts[0]);
    rig.publish(&with("two", "", "bake = '1h'"));
    rig.wait_for("two");
    rig.wait_for_step(100.0);
    fs::remove_dir_all(kept(&rig.shards[0], &one)).expect("it is there");
    rig.obeys(&["abort"]);
    rig.wait_for_the_way_back("one");
}

#[test]
fn an_order_that_cannot_be_obeyed_changes_nothing() {
    let mut rig = Rig::alone(&with("one", "", ""));
    rig.wait_for("one");
    let one = kept(&rig.shards[0], &live(&rig.hosts[0]));
    rig.publish(&with("two", "", "bake = '1h'"));
    rig.wait_for("two");
    rig.wait_for_step(100.0);
    let aside = rig.shards[0].data.join("aside");
    fs::rename(&one, &aside).expect("it is there");
    let (code, why) = rig.refuses(&["abort"]);
    assert_eq!(code, Some(69), "{why}");
    assert!(why.contains("is no longer kept"), "{why}");
    let rollout = rig.rollout();
    assert!(
        rollout["went_back"].is_null() && rollout["watch"]["generation"] == 2,
        "{rollout}"
    );
    fs::rename(aside, one).expect("it can be brought back");
    rig.obeys(&["abort"]);
    rig.wait_for_the_way_back("one");
}

/// What fails as often as the generation before it is no worse.
#[test]
fn as_many_failures_as_before_are_not_held_against_a_generation() {
    let mut rig = Rig::alone(&with("one", "trap-each=20", "bake = '0s'"));
    rig.wait_for("one");
    let seen = Seen::failing();
    let (requests, ()) = rig.under_load(&seen, |rig| {
        for _ in 0..5 {
            rig.ask_for_all(&seen);
        }
        rig.publish(&with("two", "trap-each=20", QUICK));
        rig.wait_for("two");
        rig.ask_for_all(&seen);
        rig.hosts[0].wait_for_status("the end", |status| status["rollout"]["watch"].is_null());
    });
    assert!(rig.rollout()["went_back"].is_null(), "{}", rig.rollout());
    let failed = seen.failed.load(Ordering::Relaxed);
    assert!(failed > requests / 40, "{failed} of {requests}");
    println!("{failed} of {requests} requests failed, before and after");
}

fn obeys_operators(mut rig: Rig) {
    rig.wait_for("one");
    let (code, why) = rig.refuses(&["pause"]);
    assert_eq!(code, Some(69), "{why}");
    assert!(
        why.contains("no generation is in its steps, or watched"),
        "{why}"
    );
    rig.publish(&with("two", "", SLOW));
    rig.wait_for_step(20.0);
    let shown = rig.obeys(&["status"]);
    assert!(
        shown.contains("generation 2 (") && shown.contains("serves 20% of the partitions"),
        "{shown}"
    );
    if let Some(other) = rig.hosts.get(1) {
        let (_, why) = refuses(other, &["promote"]);
        assert!(why.contains("ask that one"), "{why}");
    }
    rig.obeys(&["pause"]);
    let paused = |status: &Value| status["rollout"]["watch"]["paused"] == true;
    assert!(paused(&rig.hosts[0].status()), "{}", rig.rollout());
    rig.hosts[0].wait_until("the metric", |host| {
        host.metric("ostrakon_rollout_paused") == 1
    });
    let (_, why) = rig.refuses(&["pause"]);
    assert!(why.contains("it is paused already"), "{why}");
    // A pause outlives the process.
    rig.kill_and_start(0);
    rig.hosts[0].wait_for_status("the pause", paused);
    rig.obeys(&["resume"]);
    rig.hosts[0].wait_for_status("its end", |status| !paused(status));
    rig.obeys(&["promote"]);
    rig.wait_for_step(60.0);
    let rejected = rig.order(&["promote", "--fully"]);
    assert_eq!(rejected.status.code(), Some(64), "{rejected:?}");
    rig.obeys(&["promote", "--full"]);
    rig.wait_for("two");
    let watch = rig.wait_for_step(100.0);
    assert_eq!(watch["rollout"]["watch"]["generation"], 2);
    let (_, why) = rig.refuses(&["pause"]);
    assert!(why.contains("serves all partitions"), "{why}");
    rig.obeys(&["promote"]);
    rig.hosts[0].wait_for_status("the end", |status| status["rollout"]["watch"].is_null());

    rig.publish(&with("three", "", SLOW));
    rig.wait_for_step(20.0);
    rig.obeys(&["abort"]);
    rig.wait_for_the_way_back("two");
    let shown = rig.obeys(&["status"]);
    assert!(
        shown.contains("went back from generation 3") && shown.contains("an operator ended it"),
        "{shown}"
    );
    assert_eq!(
        rig.hosts[0].metric("ostrakon_rollout_went_back_total{by=\"operator\"}"),
        1
    );
    // Aborted while it is watched.
    rig.publish(&with("four", "", "bake = '1h'"));
    rig.wait_for("four");
    rig.wait_for_step(100.0);
    rig.obeys(&["abort"]);
    rig.wait_for_the_way_back("two");
    // What it says is stored outlives the process.
    rig.publish(&with("five", "", SLOW));
    rig.wait_for_step(20.0);
    let answer = rig.hosts[0].admin("POST", "/rollout/abort");
    rig.kill_and_start(0);
    let answer = answer.expect("an answer");
    let answer: Value = serde_json::from_str(answer.text()).expect("JSON");
    assert_eq!(answer["stored"], true, "{answer}");
    rig.wait_for("two");
    let rollout = rig.rollout();
    assert!(
        rollout["held"].is_string() && rollout["watch"].is_null(),
        "{rollout}"
    );
}

#[test]
fn operators_pause_promote_and_abort() {
    obeys_operators(Rig::of_three(154, &with("one", "", "")));
}

#[test]
fn operators_pause_promote_and_abort_in_a_shard_that_is_alone() {
    obeys_operators(Rig::alone(&with("one", "", "")));
}

/// For a pipeline: it waits for the end, and says how it ended.
#[test]
fn the_command_waits_for_the_end_and_tells_it() {
    let mut rig = Rig::alone(&with("one", "", ""));
    rig.wait_for("one");
    rig.publish(&with("two", "", "steps = ['20%', '100%']\nbake = '1s'"));
    rig.wait_for_step(20.0);
    let said = rig.order(&["status", "--wait"]);
    assert!(said.status.success(), "{said:?}");
    let lines = String::from_utf8(said.stderr).expect("text");
    assert!(
        lines.contains("serves 20% of the partitions")
            && lines.contains("serves all partitions, and is watched"),
        "{lines}"
    );
    // It begins before shard 0 sees the change.
    let waits = |rig: &mut Rig, files: &Files, after: &str| {
        let address = rig.hosts[0].admin.to_string();
        let arguments = ["status", "--wait", "--after", after, "--admin", &address];
        let mut waiting = Command::new(binary());
        waiting.arg("rollout").args(arguments);
        waiting.stdout(Stdio::piped()).stderr(Stdio::piped());
        let waiting = waiting.spawn().expect("the command runs");
        std::thread::sleep(Duration::from_millis(600));
        rig.publish(files);
        let said = waiting.wait_with_output().expect("it ends");
        let told = String::from_utf8(said.stderr).expect("text");
        (said.status.code(), told)
    };
    let seen = Seen::failing();
    let (_, (code, why)) = rig.under_load(&seen, |rig| {
        rig.ask_for_all(&seen);
        waits(rig, &with("three", "trap-each=400", SLOW), "2")
    });
    assert_eq!(code, Some(64), "{why}");
    assert!(
        why.contains("waits for what the ConfigMap shows")
            && why.contains("all shards went back from generation 3: "),
        "{why}"
    );
    let mark = |rig: &Rig| {
        let said = rig.obeys(&["status", "--json"]);
        let rollout: Value = serde_json::from_str(&said).expect("JSON");
        rollout["mark"].as_str().expect("a text").to_owned()
    };
    let (code, why) = waits(&mut rig, &with("four", "error-in-check", ""), "4");
    assert_eq!(code, Some(64), "{why}");
    assert!(why.contains("step check: an error was asked for"), "{why}");
    // It has been watched, too, when the command ends.
    let (code, told) = waits(&mut rig, &with("five", "", "bake = '2s'"), "4");
    assert_eq!(code, Some(0), "{told}");
    assert!(
        told.contains("serves all partitions, and is watched"),
        "{told}"
    );
    for misused in [
        &["status", "--after", "4"][..],
        &["status", "--wait", "--after", "@"],
    ] {
        let misused = rig.order(misused);
        assert_eq!(misused.status.code(), Some(64), "{misused:?}");
    }
    // It was refused before the command began, and after the mark.
    let before = mark(&rig);
    rig.publish(&with("six", "error-in-check", ""));
    rig.hosts[0].wait_for_status("the refusal", |status| !status["refused"].is_null());
    let (code, why) = rig.refuses(&["status", "--wait", "--after", &before]);
    assert_eq!(code, Some(64), "{why}");
    assert!(why.contains("step check: an error was asked for"), "{why}");
    // Another operator goes back from it.
    let before = mark(&rig);
    rig.publish(&with("seven", "", "bake = '1h'"));
    rig.wait_for("seven");
    let mut rollback = Command::new(binary());
    rollback.args(["rollback", "--admin", &rig.hosts[0].admin.to_string()]);
    let gone_back = rollback.output().expect("the command runs");
    assert!(gone_back.status.success(), "{gone_back:?}");
    let (code, why) = rig.refuses(&["status", "--wait", "--after", &before]);
    assert_eq!(code, Some(64), "{why}");
    assert!(why.contains("it was gone back from"), "{why}");
}

/// Kills each shard in the middle of a trial: what it served, it serves again.
fn survives(mut rig: Rig) {
    rig.wait_for("one");
    rig.publish(&with("two", "", SLOW));
    rig.wait_for_step(20.0);
    let mut shares = Vec::new();
    let seen = Seen::default();
    let ask_all = |rig: &Rig, seen: &Seen| {
        let mut client = rig.hosts[0].client();
        (0..KEYS).for_each(|key| seen.ask(&mut client, key, key % 3 == 0));
        seen.of("two")
    };
    shares.push(ask_all(&rig, &seen));
    for shard in 0..rig.hosts.len() {
        rig.kill_and_start(shard);
        shares.push(ask_all(&rig, &seen));
        // It is the same trial.
        let status = rig.wait_for_step(20.0);
        assert_eq!(status["rollout"]["watch"]["generation"], 2, "{status}");
        shares.push(ask_all(&rig, &seen));
    }
    let first = shares[0];
    assert!(
        first > 0 && shares.iter().all(|share| *share == first),
        "{shares:?}"
    );
    // Without a volume that can be read.
    fs::remove_file(rig.shards[0].config.directory().join("..data")).expect("removed");
    rig.kill_and_start(0);
    shares.push(ask_all(&rig, &seen));
    assert!(shares.iter().all(|share| *share == first), "{shares:?}");
    rig.publish(&with("two", "", SLOW));
    rig.wait_for_step(20.0);
    rig.obeys(&["promote", "--full"]);
    rig.wait_for("two");
    ask_all(&rig, &seen);
    assert_eq!(seen.of("one"), 0);
}

#[test]
fn a_trial_survives_the_death_of_each_shard() {
    survives(Rig::of_three(155, &with("one", "", "")));
}

#[test]
fn a_trial_survives_the_death_of_a_shard_that_is_alone() {
    survives(Rig::alone(&with("one", "", "")));
}

/// Shard 0 is killed again and again while a generation takes its steps.
#[test]
fn shard_0_dies_at_any_moment_of_the_steps_and_no_partition_goes_back() {
    const ROUNDS: u64 = 6;
    const KILLS: u64 = 3;
    let fast = "steps = ['10%', '50%', '100%']\nbake = '300ms'\nfailures = '50%'\nslower = 1000\n";
    let mut rig = Rig::of_three(164, &with("0", "", fast));
    rig.wait_for("0");
    let seen = Seen::failing();
    let others = [rig.hosts[1].address, rig.hosts[2].address];
    let request = |clients: &mut [Client], worker, number| seen.next(clients, worker, number);
    let (requests, ()) = under_load_through(&others, WORKERS, request, |_| {
        for round in 1..=ROUNDS {
            let label = round.to_string();
            rig.publish(&with(&label, "", fast));
            for kill in 0..KILLS {
                let moment = (KILLS * round + kill) % 7;
                std::thread::sleep(Duration::from_millis(50 + 150 * moment));
                rig.kill_and_start(0);
            }
            rig.wait_for(&label);
            rig.ask_for_all(&seen);
        }
    });
    let workers = WORKERS as u64;
    let keys = usize::try_from(KEYS / workers * workers).expect("few");
    assert_eq!(seen.of(&ROUNDS.to_string()), keys);
    println!(
        "{requests} requests over {} kills of shard 0 in {ROUNDS} roll-outs in steps; {} met its death",
        ROUNDS * KILLS,
        seen.failed.load(Ordering::Relaxed)
    );
}

/// What was gone back from is tried anew once the volume has shown something else, and not before.
fn is_tried_anew(mut rig: Rig) {
    rig.wait_for("one");
    rig.publish(&with("two", "", SLOW));
    rig.wait_for_step(20.0);
    rig.obeys(&["abort"]);
    rig.wait_for_the_way_back("one");
    // Started again, it is held.
    rig.kill_and_start(0);
    std::thread::sleep(Duration::from_secs(1));
    let rollout = rig.rollout();
    assert!(
        rollout["held"].is_string() && rollout["watch"].is_null(),
        "{rollout}"
    );
    let mut broken = with("three", "", "");
    broken.insert("ostrakon.toml".to_owned(), b"[rollouts]".to_vec());
    for between in [with("one", "", ""), broken] {
        rig.publish(&between);
        rig.hosts[0].wait_for_status("the change", |status| {
            status["rollout"]["held"].is_null() && status["candidate"].is_null()
        });
        rig.publish(&with("two", "", SLOW));
        rig.wait_for_step(20.0);
        // It stays in its step.
        std::thread::sleep(Duration::from_secs(2));
        rig.wait_for_step(20.0);
        assert!(rig.rollout()["held"].is_null(), "{}", rig.rollout());
        rig.publish(&between);
        rig.hosts[0].wait_for_status("the end", |status| status["rollout"]["watch"].is_null());
    }
    // What is of no use ends it also where shard 0 has not seen it before.
    rig.publish(&with("two", "", SLOW));
    rig.wait_for_step(20.0);
    let host = rig.hosts.remove(0);
    host.kill();
    let mut broken = with("four", "", "");
    broken.insert("ostrakon.toml".to_owned(), b"[rollouts]".to_vec());
    rig.publish(&broken);
    rig.hosts.insert(0, rig.shards[0].start());
    let seen = Seen::default();
    let mut client = rig.hosts[0].client();
    (0..KEYS).for_each(|key| seen.ask(&mut client, key, false));
    rig.hosts[0].wait_for_status("the end", |status| status["rollout"]["watch"].is_null());
    let release = rig.rollout()["release"].clone();
    for host in &rig.hosts {
        host.wait_for_status("it in all shards", |status| {
            status["rollout"]["release"] == release
        });
    }
    let seen = Seen::default();
    (0..KEYS).for_each(|key| seen.ask(&mut client, key, false));
    assert_eq!(seen.of("two"), 0);
    let (_, why) = rig.refuses(&["abort"]);
    assert!(why.contains("no generation is in its steps"), "{why}");
    // An operator goes back to what is live.
    rig.publish(&with("two", "", SLOW));
    rig.wait_for_step(20.0);
    let went = Command::new(binary())
        .args(["rollback", "--admin", &rig.hosts[0].admin.to_string()])
        .output()
        .expect("the command runs");
    assert!(went.status.success(), "{went:?}");
    rig.wait_for("one");
    assert!(rig.rollout()["held"].is_string());
}

#[test]
fn what_was_gone_back_from_is_tried_anew_when_the_volume_changes() {
    is_tried_anew(Rig::of_three(160, &with("one", "", "")));
}

#[test]
fn what_was_gone_back_from_is_tried_anew_in_a_shard_that_is_alone() {
    is_tried_anew(Rig::alone(&with("one", "", "")));
}

/// What is live again after a trial is not new: what it did long ago is not held against it.
#[test]
fn what_is_live_again_after_a_trial_is_not_watched() {
    let mut rig = Rig::alone(&with("one", "", "bake = '0s'"));
    rig.wait_for("one");
    let two = with("two", "", "bake = '1h'");
    rig.publish(&two);
    rig.wait_for_step(100.0);
    rig.obeys(&["promote"]);
    let is_over = |status: &Value| {
        let rollout = &status["rollout"];
        rollout["watch"].is_null() && rollout["pending"] == false
    };
    rig.hosts[0].wait_for_status("the end", is_over);
    rig.publish(&with("three", "", SLOW));
    rig.wait_for_step(20.0);
    rig.publish(&two);
    let status = rig.hosts[0].wait_for_status("the end", is_over);
    assert_eq!(status["generation"]["generation"], 4, "{status}");
    std::thread::sleep(Duration::from_secs(2));
    let rollout = rig.rollout();
    assert!(rollout["watch"].is_null(), "{rollout}");
}

/// The mended content is not held.
#[test]
fn what_is_to_mend_it_goes_live_after_the_way_back() {
    let mut rig = Rig::alone(&with("one", "", ""));
    rig.wait_for("one");
    let seen = Seen::failing();
    rig.under_load(&seen, |rig| {
        rig.ask_for_all(&seen);
        rig.publish(&with("two", "trap-each=30", ""));
        rig.hosts[0].wait_until("the change", |host| {
            host.client().get("/label").expect("an answer").text() == "two"
        });
        // It rehearses until all shards have gone back.
        let rehearses = "[rehearsal]\ntime = '8s'\nrequests = 1000000";
        rig.publish(&with("three", "", rehearses));
        rig.hosts[0].wait_for_status("the way back", |status| {
            !status["rollout"]["went_back"].is_null()
        });
        rig.wait_for("three");
    });
    assert!(rig.rollout()["held"].is_null(), "{}", rig.rollout());
}

/// Shard 0 comes back with an empty disk.
#[test]
fn a_trial_survives_the_loss_of_shard_0s_disk() {
    let mut rig = Rig::of_three(161, &with("one", "", ""));
    rig.wait_for("one");
    rig.publish(&with("two", "", SLOW));
    rig.wait_for_step(20.0);
    let host = rig.hosts.remove(0);
    host.kill();
    fs::remove_dir_all(&rig.shards[0].data).expect("the directory can be removed");
    rig.hosts.insert(0, rig.shards[0].start());
    let status = rig.wait_for_step(20.0);
    assert_eq!(status["rollout"]["watch"]["generation"], 2, "{status}");
    rig.obeys(&["promote", "--full"]);
    rig.wait_for("two");
}

/// A shard that is stopped when a step begins: the others go on, and it serves as before, or as they do.
#[test]
fn a_shard_that_is_left_behind_takes_the_step_when_it_is_back() {
    let mut rig = Rig::of_three(162, &with("one", "", ""));
    rig.wait_for("one");
    let host = rig.hosts.remove(2);
    host.kill();
    rig.publish(&with("two", "", &format!("{SLOW}wait = '1s'")));
    rig.hosts[0].wait_for_status("the step", |status| {
        status["rollout"]["watch"]["percent"] == 20.0
    });
    rig.hosts.insert(2, rig.shards[2].start());
    rig.wait_for_step(20.0);
    let seen = Seen::default();
    let mut client = rig.hosts[2].client();
    (0..KEYS).for_each(|key| seen.ask(&mut client, key, key % 3 == 0));
    assert!(seen.of("two") > 0 && seen.of("one") > 0);
    rig.obeys(&["promote", "--full"]);
    rig.wait_for("two");
}

fn other_content_ends_it(mut rig: Rig) {
    rig.wait_for("one");
    let seen = Seen::default();
    let (requests, ()) = rig.under_load(&seen, |rig| {
        rig.publish(&with("two", "", SLOW));
        rig.wait_for_step(20.0);
        rig.ask_for_all(&seen);
        assert!(seen.of("two") > 0);
        // Another candidate has steps of its own.
        rig.publish(&with("three", "", SLOW));
        rig.hosts[0].wait_for_status("the other", |status| {
            let watch = &status["rollout"]["watch"];
            watch["percent"] == 20.0 && watch["generation"] == 4
        });
        rig.wait_for_step(20.0);
        rig.ask_for_all(&seen);
        assert_eq!(seen.of("two"), 0);
        assert!(seen.of("three") > 0 && seen.of("one") > 0);
        // What is of no use ends it, too.
        let mut broken = with("four", "", SLOW);
        broken.insert(
            "ostrakon.toml".to_owned(),
            b"[rollout]\nsteps = ['1%']".to_vec(),
        );
        rig.publish(&broken);
        let status = rig.hosts[0].wait_for_status("the refusal", |status| {
            !status["refused"].is_null() && status["rollout"]["watch"].is_null()
        });
        let reason = status["refused"]["reason"].as_str().expect("a text");
        assert!(reason.contains("the last step is \"100%\""), "{reason}");
        rig.ask_for_all(&seen);
        assert_eq!((seen.of("three"), seen.of("two")), (0, 0));
        // What was live before, shown again, ends a trial and is not held.
        rig.publish(&with("five", "", SLOW));
        rig.wait_for_step(20.0);
        rig.publish(&with("one", "", ""));
        rig.hosts[0].wait_for_status("the end", |status| status["rollout"]["watch"].is_null());
        rig.wait_for("one");
        rig.ask_for_all(&seen);
        assert_eq!(seen.of("five"), 0);
        assert!(rig.rollout()["held"].is_null());
        // Two operators: one goes back while another one's roll-out is on its way.
        rig.publish(&with("six", "", SLOW));
        rig.wait_for_step(20.0);
        rig.publish(&with("seven", "", "bake = '0s'"));
        rig.wait_for("seven");
    });
    println!("{requests} requests while a candidate changed in its steps, 0 failed");
}

#[test]
fn other_content_in_the_volume_ends_a_trial() {
    other_content_ends_it(Rig::of_three(156, &with("one", "", "")));
}

#[test]
fn other_content_in_the_volume_ends_a_trial_in_a_shard_that_is_alone() {
    other_content_ends_it(Rig::alone(&with("one", "", "")));
}

/// What was live before cannot read what the new generation writes.
#[test]
fn a_step_tells_whether_the_way_back_is_safe() {
    let rehearses = format!("{SLOW}[rehearsal]\ntime = '60s'\nrequests = 50\nshare = '100%'\n");
    let mut rig = Rig::alone(&with("one", "trap-on-who=two", ""));
    rig.wait_for("one");
    let seen = Seen::default();
    let (requests, (safe, unsafe_)) = rig.under_load(&seen, |rig| {
        let tries = |rig: &mut Rig, label: &str| {
            rig.publish(&with(label, "", &rehearses));
            rig.wait_for_step(20.0);
            let status = rig.hosts[0].wait_for_status("the way back", |status| {
                let outcome = &status["way_back"]["outcome"];
                status["rollout"]["watch"]["generation"].is_u64()
                    && (outcome == "passed" || outcome == "refused")
            });
            status["way_back"].clone()
        };
        let safe = tries(rig, "three");
        rig.publish(&with("one", "trap-on-who=two", ""));
        rig.wait_for("one");
        rig.ask_for_all(&seen);
        rig.publish(&with("two", "", &rehearses));
        rig.wait_for_step(20.0);
        let status = rig.hosts[0].wait_for_status("the way back", |status| {
            status["way_back"]["outcome"] == "refused"
        });
        // It goes on, so that nothing fails.
        rig.obeys(&["promote", "--full"]);
        rig.wait_for("two");
        (safe, status["way_back"].clone())
    });
    assert_eq!(safe["outcome"], "passed", "{safe}");
    assert_eq!(unsafe_["failed"], 1, "{unsafe_}");
    let log = rig.hosts[0].log();
    assert!(log.contains("a way back would not be safe"), "{log}");
    println!("{requests} requests, 0 failed; the way back: {unsafe_}");
}

#[test]
fn partitions_that_are_named_come_first() {
    let mut rig = Rig::of_three(157, &with("one", "", ""));
    rig.wait_for("one");
    rig.publish(&with("two", "", "first = ['key-1', 'own/']\nbake = '1h'"));
    rig.wait_for_step(0.0);
    let shown = rig.obeys(&["status"]);
    assert!(
        shown.contains("serves the partitions that begin with \"key-1\", \"own/\""),
        "{shown}"
    );
    let seen = Seen::default();
    let mut client = rig.hosts[1].client();
    (0..KEYS).for_each(|key| seen.ask(&mut client, key, false));
    let last = seen.last.lock().expect("no holder panics").clone();
    for (key, (_, label)) in last {
        let wanted = if key.to_string().starts_with('1') {
            "two"
        } else {
            "one"
        };
        assert_eq!(label, wanted, "key-{key}");
    }
    rig.obeys(&["promote"]);
    rig.wait_for("two");
}

#[test]
fn a_guest_of_another_schema_has_no_steps() {
    let mut rig = Rig::alone(&with("one", "", ""));
    rig.wait_for("one");
    rig.publish(&with("two", "schema=2", SLOW));
    let status = rig.hosts[0].wait_for_status("the refusal", |status| !status["refused"].is_null());
    let reason = status["refused"]["reason"].as_str().expect("a text");
    assert!(
        reason.contains("two schemas cannot share the data")
            && reason.contains("leave rollout.steps"),
        "{reason}"
    );
    rig.wait_for("one");
    rig.publish(&with("two", "schema=2", ""));
    rig.wait_for("two");
    // It does worse, and there is no way back across a schema.
    rig.wait_for_step(100.0);
    let (_, why) = rig.refuses(&["abort"]);
    assert!(why.contains("the data has schema 2"), "{why}");
    rig.wait_for("two");
}

#[test]
fn a_step_waits_for_requests_that_nobody_sends_and_says_so() {
    let mut rig = Rig::alone(&with("one", "", ""));
    rig.wait_for("one");
    let rollout = "steps = ['50%', '100%']\nbake = '1s'\nrequests = 1000000000";
    rig.publish(&with("two", "", rollout));
    rig.hosts[0].wait_for_status("the time", |status| {
        let watch = &status["rollout"]["watch"];
        watch["waits_s"] == 0.0 && watch["waits_requests"] == 1_000_000_000
    });
    let shown = rig.obeys(&["status"]);
    assert!(
        shown.contains("waits for 1000000000 more requests"),
        "{shown}"
    );
    rig.obeys(&["promote"]);
    rig.wait_for("two");
}

#[test]
fn a_volume_that_flaps_fails_no_request() {
    let mut rig = Rig::of_three(158, &with("one", "", ""));
    rig.wait_for("one");
    let seen = Seen::default();
    let (requests, ()) = rig.under_load(&seen, |rig| {
        for turn in 0..30 {
            rig.publish(&with(&format!("{}", turn % 3), "", SLOW));
            std::thread::sleep(Duration::from_millis(300));
        }
        rig.publish(&with("last", "", "bake = '0s'"));
        rig.wait_for("last");
        rig.ask_for_all(&seen);
    });
    assert_eq!(
        seen.of("last"),
        seen.last.lock().expect("no holder panics").len()
    );
    println!("{requests} requests while the volume changed 31 times, 0 failed");
}
