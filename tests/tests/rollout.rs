//! All shards go over to another generation together, by what shard 0 shows and says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ostrakon_tests::client::Client;
use ostrakon_tests::cluster::{Cluster, shards};
use ostrakon_tests::host::{Files, Host, Shard, config, guest};
use ostrakon_tests::load::under_load_through;
use serde_json::Value;

const SHARDS: u8 = 3;
/// How often all shards go over, and how often with a barrier.
const ROLLOUTS: u64 = 200;
const WITH_BARRIER: u64 = 40;
const KILLS: u64 = 12;

/// A barrier that there is time for, and one for which a request can be too slow.
const BARRIER: &str = "barrier = '2s'";
const SHORT_BARRIER: &str = "barrier = '300ms'";

/// The guest with this label, and what else it is to do.
fn labelled(label: &str, misbehave: &str) -> Files {
    with(label, misbehave, "")
}

fn with(label: &str, misbehave: &str, rollout: &str) -> Files {
    let toml = format!(
        "[cluster]\nshards = {SHARDS}\n[guest]\nread_deadline = '5s'\n[rollout]\n{rollout}"
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

fn start(part: u8, files: &Files) -> Cluster {
    Cluster::start(part, SHARDS, SHARDS.into(), files)
}

/// What a shard answers of itself.
fn label(host: &Host) -> String {
    let response = host.client().get("/label").expect("an answer");
    assert_eq!(response.status, 200, "{response:?}");
    response.text().to_owned()
}

/// The live generation's number and digest.
fn live(host: &Host) -> (u64, String) {
    let live = &host.status()["generation"];
    let digest = live["digest"].as_str().expect("a generation is live");
    let number = live["generation"].as_u64().expect("it has a number");
    (number, digest.to_owned())
}

/// Waits until all shards serve this label, by one generation.
fn wait_for(cluster: &Cluster, wanted: &str) -> (u64, String) {
    for host in &cluster.hosts {
        host.wait_until("the label", |host| label(host) == wanted);
    }
    let lives = || -> BTreeSet<_> { cluster.hosts.iter().map(live).collect() };
    // The status follows a moment later.
    cluster.hosts[0].wait_until("one generation", |_| lives().len() == 1);
    live(&cluster.hosts[0])
}

fn publish(cluster: &mut Cluster, shard: usize, files: &Files) {
    let config = &mut cluster.shards[shard].config;
    config.publish(files).expect("published");
}

/// The label of each generation that answered.
#[derive(Default)]
struct Seen(Mutex<BTreeMap<u64, String>>);

impl Seen {
    /// Asks for the label. A generation has one, whichever shard answers.
    fn ask(&self, client: &mut Client) {
        let response = client.get("/label").expect("an answer");
        assert_eq!(response.status, 200, "{response:?}");
        let mut seen = self.0.lock().expect("no holder panics");
        let label = seen.entry(response.generation());
        let label = label.or_insert_with(|| response.text().to_owned());
        assert_eq!(label, response.text(), "{response:?}");
    }
}

#[test]
fn what_shard_0_shows_goes_live_in_all_shards() {
    let mut cluster = start(120, &labelled("0", ""));
    let (first, _) = wait_for(&cluster, "0");
    let addresses: Vec<_> = cluster.hosts.iter().map(|host| host.address).collect();
    let seen = Seen::default();
    let request = |clients: &mut [Client], worker: usize, number: u64| {
        let through = usize::try_from(number).expect("few requests") % clients.len();
        let client = &mut clients[through];
        let set = client.get(&format!("/set/{worker}-{}/{number}", number % 50));
        assert_eq!(set.expect("an answer").status, 200);
        seen.ask(client);
    };
    let (requests, ()) = under_load_through(&addresses, 4, request, |_| {
        for rollout in 1..=ROLLOUTS {
            let wanted = rollout.to_string();
            // The others' volumes are late for ever.
            publish(&mut cluster, 0, &labelled(&wanted, ""));
            let (number, _) = wait_for(&cluster, &wanted);
            assert_eq!(number, first + rollout);
        }
    });
    let seen = seen.0.into_inner().expect("no holder panics");
    assert!(seen.len() > 2, "{seen:?}");
    // Their volumes show the first content all the same; it is not theirs to say.
    publish(&mut cluster, 1, &labelled("another", ""));
    publish(&mut cluster, 0, &labelled("last", ""));
    wait_for(&cluster, "last");
    println!(
        "{requests} requests over {ROLLOUTS} roll-outs to {SHARDS} shards, 0 failed, {} generations seen",
        seen.len()
    );
}

#[test]
fn what_one_shard_refuses_goes_live_in_none() {
    let secret = Files::from([("needed".to_owned(), b"it is here".to_vec())]);
    let mut shards = shards(121, SHARDS, &labelled("before", ""));
    for shard in &mut shards[..2] {
        shard.secrets.publish(&secret).expect("published");
    }
    let hosts = shards.iter().map(Shard::start).collect();
    let mut cluster = Cluster { hosts, shards };
    cluster.wait_for(SHARDS.into());
    let before = wait_for(&cluster, "before");
    publish(&mut cluster, 0, &labelled("after", "needs=needed"));
    let refused = |host: &Host| {
        let status = host.wait_for_status("the refusal", |status| !status["refused"].is_null());
        status["refused"].clone()
    };
    let why = refused(&cluster.hosts[0]);
    assert_eq!(why["step"], "agree", "{why}");
    let reason = why["reason"].as_str().expect("a text");
    assert!(
        reason.starts_with("shard 2 refuses it at step check: ")
            && reason.contains("the Secret lacks needed"),
        "{reason}"
    );
    for host in &cluster.hosts {
        assert_eq!(live(host), before);
        assert_eq!(label(host), "before");
    }
    let refusals = "ostrakon_swap_refusals_total{step=\"agree\"}";
    assert_eq!(cluster.hosts[0].metric(refusals), 1);
    // What the others refused no longer counts once shard 0 shows something else.
    cluster.hosts[2].wait_for_status("nothing refused", |status| status["refused"].is_null());

    let secrets = &mut cluster.shards[2].secrets;
    secrets.publish(&secret).expect("published");
    publish(&mut cluster, 0, &labelled("before", ""));
    cluster.hosts[0].wait_for_status("nothing refused", |status| status["refused"].is_null());
    publish(&mut cluster, 0, &labelled("after", "needs=needed"));
    let after = wait_for(&cluster, "after");
    assert_eq!(after.0, before.0 + 1);
}

#[test]
fn a_shard_that_is_away_is_waited_for_and_then_left_behind() {
    let mut cluster = start(122, &with("one", "", "wait = '2s'"));
    let (first, _) = wait_for(&cluster, "one");
    cluster.hosts.pop().expect("there are three").kill();
    let began = Instant::now();
    publish(&mut cluster, 0, &with("two", "", "wait = '2s'"));
    wait_for(&cluster, "two");
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2), "{took:?}");
    let log = cluster.hosts[0].log();
    assert!(
        log.contains("shards that are away are not waited for any longer"),
        "{log}"
    );

    // It never serves what it had, although its volume still shows that.
    let back = cluster.shards[2].start();
    assert_eq!(label(&back), "two");
    assert_eq!(live(&back), live(&cluster.hosts[0]));
    assert_eq!(live(&back).0, first + 1);
    back.wait_until("its log", |host| host.log().contains("\"ready\""));
    let log = back.log();
    let lives = log.lines().filter(|line| line.contains("generation live"));
    assert_eq!(lives.count(), 1, "{log}");
}

#[test]
fn without_shard_0_a_start_serves_what_the_others_serve() {
    let mut cluster = start(123, &with("one", "", "wait = '1s'"));
    wait_for(&cluster, "one");
    // Shard 1 misses a release.
    cluster.hosts.remove(1).kill();
    publish(&mut cluster, 0, &with("two", "", "wait = '1s'"));
    for host in &cluster.hosts {
        host.wait_until("the label", |host| label(host) == "two");
    }
    cluster.hosts.remove(0).kill();
    let back = cluster.shards[1].spawn();
    back.wait_until("a generation", |host| {
        host.status()["generation"].is_object()
    });
    assert_eq!(live(&back), live(&cluster.hosts[0]));

    // Alone it goes on with what it had.
    back.kill();
    cluster.hosts.remove(0).kill();
    let back = cluster.shards[1].spawn();
    back.wait_until("a generation", |host| {
        host.status()["generation"].is_object()
    });
    let status = back.status();
    assert_eq!(
        status["rollout"]["release"]["number"],
        status["generation"]["generation"]
    );
}

/// The state that shard 0 reports of another one.
fn state(status: &Value, shard: u64) -> Option<String> {
    let shards = status["rollout"]["shards"].as_array()?;
    let shard = shards.iter().find(|entry| entry["shard"] == shard)?;
    Some(shard["state"].as_str()?.to_owned())
}

#[test]
fn shard_0_shows_what_a_candidate_waits_for() {
    let mut cluster = start(124, &labelled("one", ""));
    wait_for(&cluster, "one");
    cluster.hosts.pop().expect("there are three").kill();
    publish(&mut cluster, 0, &labelled("two", ""));
    let status = cluster.hosts[0].wait_for_status("what it waits for", |status| {
        state(status, 2).as_deref() == Some("away")
            && state(status, 1).as_deref() == Some("prepared")
    });
    assert_eq!(status["candidate"]["step"], "agree");
    assert_eq!(
        status["candidate"]["digest"],
        status["rollout"]["candidate"]
    );
    // Newer content takes over while it waits.
    publish(&mut cluster, 0, &labelled("three", ""));
    let back = cluster.shards[2].start();
    cluster.hosts.push(back);
    let (number, _) = wait_for(&cluster, "three");
    assert_eq!(number, 2, "the second content was live nowhere");
}

#[test]
fn shard_0_is_killed_in_the_middle_of_roll_outs() {
    println!("{}", shard_0_is_killed(125, ""));
}

#[test]
fn shard_0_is_killed_in_the_middle_of_roll_outs_with_a_barrier() {
    println!("{}", shard_0_is_killed(126, BARRIER));
}

/// Returns what was counted.
fn shard_0_is_killed(part: u8, rollout: &str) -> String {
    let mut cluster = start(part, &with("0", "", rollout));
    wait_for(&cluster, "0");
    let through: Vec<_> = cluster.hosts[1..].iter().map(|host| host.address).collect();
    let (seen, worst) = (Seen::default(), Mutex::new(Duration::ZERO));
    let request = |clients: &mut [Client], _: usize, number: u64| {
        let through = usize::try_from(number).expect("few requests") % clients.len();
        let began = Instant::now();
        seen.ask(&mut clients[through]);
        let mut worst = worst.lock().expect("no holder panics");
        *worst = worst.max(began.elapsed());
    };
    let (requests, last) = under_load_through(&through, 2, request, |_| {
        let mut last = 0;
        for kill in 1..=KILLS {
            let wanted = kill.to_string();
            publish(&mut cluster, 0, &with(&wanted, "", rollout));
            // Early kills come before it is noticed, late ones after it is live.
            std::thread::sleep(Duration::from_millis(20 * kill));
            cluster.hosts.remove(0).kill();
            let back = cluster.shards[0].start();
            cluster.hosts.insert(0, back);
            let (number, _) = wait_for(&cluster, &wanted);
            assert!(number > last, "{number} after {last}");
            last = number;
        }
        last
    });
    let worst = worst.into_inner().expect("no holder panics");
    // Those that hold requests ask for 5 s at most.
    assert!(worst < Duration::from_secs(15), "{worst:?}");
    format!(
        "{requests} requests while shard 0 was killed {KILLS} times in roll-outs ({rollout}): 0 failed, the longest took {worst:?}; generation {last}"
    )
}

/// When a request was sent and answered, and by which generation.
type Asked = (Instant, Instant, u64);

/// How many requests an old generation answered though a newer one had answered before they were sent.
fn late(asked: &[Asked]) -> usize {
    let mut first = BTreeMap::<u64, Instant>::new();
    for (_, answered, generation) in asked {
        let first = first.entry(*generation).or_insert(*answered);
        *first = (*first).min(*answered);
    }
    let is_late = |(sent, _, generation): &&Asked| {
        let mut newer = first.range(generation + 1..);
        newer.any(|(_, first)| first < sent)
    };
    asked.iter().filter(is_late).count()
}

/// Rolls out under load through all shards. Returns what was asked.
fn roll_out(part: u8, rollouts: u64, rollout: &str) -> Vec<Asked> {
    let mut cluster = start(part, &with("0", "", rollout));
    wait_for(&cluster, "0");
    let addresses: Vec<_> = cluster.hosts.iter().map(|host| host.address).collect();
    let asked = Mutex::new(Vec::new());
    let request = |clients: &mut [Client], worker: usize, number: u64| {
        let client = &mut clients[worker % usize::from(SHARDS)];
        // Its own partition and others', so that some are forwarded.
        let path = match number % 3 {
            0 => "/label".to_owned(),
            1 => format!("/get/{worker}-{}", number % 50),
            _ => format!("/set/{worker}-{}/{number}", number % 50),
        };
        let sent = Instant::now();
        let response = client.get(&path).expect("an answer");
        assert_eq!(response.status, 200, "{response:?}");
        let answered = (sent, Instant::now(), response.generation());
        asked.lock().expect("no holder panics").push(answered);
    };
    let (_, ()) = under_load_through(&addresses, 6, request, |_| {
        for rollout_number in 1..=rollouts {
            let wanted = rollout_number.to_string();
            publish(&mut cluster, 0, &with(&wanted, "", rollout));
            wait_for(&cluster, &wanted);
        }
    });
    asked.into_inner().expect("no holder panics")
}

#[test]
fn with_a_barrier_no_request_begins_on_the_new_before_the_last_on_the_old_has_ended() {
    let asked = roll_out(127, WITH_BARRIER, BARRIER);
    let longest = asked.iter().map(|(sent, answered, _)| *answered - *sent);
    println!(
        "{} requests over {WITH_BARRIER} roll-outs with a barrier: 0 failed, {} late, the longest took {:?}",
        asked.len(),
        late(&asked),
        longest.max().expect("there were some")
    );
    assert_eq!(late(&asked), 0);

    // So the check can fail.
    let asked = roll_out(128, WITH_BARRIER, "");
    let late = late(&asked);
    println!("{} requests without a barrier: {late} late", asked.len());
    assert!(late > 0);
}

#[test]
fn a_request_that_takes_long_puts_off_a_barrier_and_holds_up_nobody() {
    let mut cluster = start(129, &with("one", "", SHORT_BARRIER));
    let (first, _) = wait_for(&cluster, "one");
    let slow = cluster.hosts[1].address;
    let slow = std::thread::spawn(move || {
        let began = Instant::now();
        let response = Client::new(slow).get("/loop?at=here").expect("an answer");
        assert_eq!(response.status, 504, "{response:?}");
        began.elapsed()
    });
    let addresses: Vec<_> = cluster.hosts.iter().map(|host| host.address).collect();
    let worst = Mutex::new(Duration::ZERO);
    let request = |clients: &mut [Client], _: usize, number: u64| {
        let through = usize::try_from(number).expect("few requests") % clients.len();
        let began = Instant::now();
        let response = clients[through].get("/label").expect("an answer");
        assert_eq!(response.status, 200, "{response:?}");
        let mut worst = worst.lock().expect("no holder panics");
        *worst = worst.max(began.elapsed());
    };
    let (requests, status) = under_load_through(&addresses, 2, request, |_| {
        cluster.hosts[1].wait_until("the slow request", |host| {
            host.metric("ostrakon_requests_in_flight") > 0
        });
        publish(&mut cluster, 0, &with("two", "", SHORT_BARRIER));
        let status = cluster.hosts[0].wait_for_status("why it is put off", |status| {
            !status["rollout"]["not_held"].is_null()
        });
        assert_eq!(label(&cluster.hosts[0]), "one");
        let took = slow.join().expect("no assertion failed");
        let (second, _) = wait_for(&cluster, "two");
        assert_eq!(second, first + 1);
        assert!(took >= Duration::from_secs(5), "{took:?}");
        status
    });
    let why = status["rollout"]["not_held"].as_str().expect("a text");
    assert!(why.starts_with("shard 1: requests under way: "), "{why}");
    let status = cluster.hosts[0].status();
    assert!(status["rollout"]["not_held"].is_null(), "{status}");
    let failures = cluster.hosts[0].metric("ostrakon_barrier_failures_total");
    assert!(failures > 0);
    let worst = worst.into_inner().expect("no holder panics");
    println!("{requests} requests, {failures} tries that were put off, the longest wait {worst:?}");
    assert!(worst < Duration::from_secs(4), "{worst:?}");
}
