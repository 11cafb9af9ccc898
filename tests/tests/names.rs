//! Pods that come back at another address, behind a name server that caches. `CoreDNS`, in the
//! configuration of Kubernetes' own addon, repeats an answer for 30 s, even the answer that a Pod
//! has no address. Because of that, each replacement of a Pod was once an outage of 35 s.

use std::time::{Duration, Instant};

use ostrakon_tests::host::{Files, config, guest};
use ostrakon_tests::name_server::NameServer;
use ostrakon_tests::network::alone;
use ostrakon_tests::pods::{LETTERS, Pods, Sample, under_load, worst};

fn files(shards: u32, max_wait: &str) -> Files {
    let toml = format!(
        "[cluster]\nshards = {shards}\nmax_wait = \"{max_wait}\"\n[drain]\nserve_for = \"1s\"\n"
    );
    config(&guest("kv"), &[("ostrakon.toml", &toml)])
}

/// Checks that no request failed, and prints the longest wait for each shard's keys.
#[expect(clippy::print_stdout, reason = "the test prints its results")]
fn none_failed(what: &str, samples: &[Sample]) {
    let failed: Vec<_> = samples.iter().filter(|sample| !sample.is_good()).collect();
    let (requests, failures) = (samples.len(), failed.len());
    println!("{requests} requests over {what}: {failures} failed");
    for (letter, worst) in worst(samples) {
        println!("the longest wait for the shard with `{letter}`: {worst:?}");
    }
    let first: Vec<_> = failed.iter().take(5).collect();
    assert!(
        failed.is_empty(),
        "{failures} failed, the first: {first:#?}"
    );
}

/// Replaces each of three Pods under load.
#[expect(clippy::print_stdout, reason = "the test prints its results")]
fn replace_each(test: &str, keeps_found: bool) {
    alone(test, |network| {
        let names = NameServer::start(keeps_found);
        let mut pods = Pods::start(network, names.clone(), 3, &files(3, "30s"));
        pods.wait_for(3);
        let samples = under_load(&mut pods, |pods| {
            for ordinal in [2, 1, 0] {
                let began = Instant::now();
                pods.replace(ordinal);
                println!(
                    "shard {ordinal}: ready at another address after {:?}",
                    began.elapsed()
                );
            }
        });
        let said = names.said();
        println!("{said:?}");
        let was_wrong = if keeps_found {
            said.stale
        } else {
            said.unknown
        };
        assert!(
            was_wrong > 0,
            "no name was looked up while its Pod was away"
        );
        // A request that waited until the cache forgets would fail.
        none_failed("the replacement of each of three Pods", &samples);
        for (letter, worst) in worst(&samples) {
            assert!(worst < SOON, "`{letter}`: {worst:?}");
        }
    });
}

#[test]
fn a_rolling_update_behind_a_cache_of_missing_names_fails_no_request() {
    let test = "a_rolling_update_behind_a_cache_of_missing_names_fails_no_request";
    replace_each(test, false);
}

#[test]
fn a_rolling_update_behind_a_cache_of_all_names_fails_no_request() {
    let test = "a_rolling_update_behind_a_cache_of_all_names_fails_no_request";
    replace_each(test, true);
}

#[test]
fn new_clusters_and_new_shards_settle_without_a_cache_that_forgets() {
    let test = "new_clusters_and_new_shards_settle_without_a_cache_that_forgets";
    alone(test, |network| {
        let names = NameServer::start(true);
        let began = Instant::now();
        let mut pods = Pods::start(network, names.clone(), 3, &files(3, "30s"));
        pods.wait_for(3);
        println!(
            "three new Pods: settled after {:?}, {:?}",
            began.elapsed(),
            names.said()
        );
        let samples = under_load(&mut pods, |pods| {
            names.forget();
            // Makes the shards look up the new Pods' names before they exist.
            let unknown = names.said().unknown;
            pods.publish(&files(5, "30s"));
            pods.pod(0)
                .host()
                .wait_until("a look for the new ones", |_| {
                    names.said().unknown >= unknown + 2
                });
            let began = Instant::now();
            pods.add(2, &files(5, "30s"));
            pods.wait_for(5);
            println!(
                "two more Pods: settled after {:?}, {:?}",
                began.elapsed(),
                names.said()
            );
        });
        none_failed("a change from three Pods to five", &samples);
    });
}

/// A Pod is replaced while one of its two peers hangs. It becomes ready after it has told its
/// address to the other peer, and has briefly tried the one that hangs.
#[test]
fn a_pod_is_ready_when_its_peers_were_told_and_waits_for_none_that_hangs() {
    let test = "a_pod_is_ready_when_its_peers_were_told_and_waits_for_none_that_hangs";
    alone(test, |network| {
        let names = NameServer::start(true);
        let mut pods = Pods::start(network, names, 3, &files(3, "30s"));
        pods.wait_for(3);
        // Otherwise the only shard that has met both others might be the one that hangs.
        pods.meet();
        pods.pod(0).host().signal("STOP");
        pods.exchange(1);
        let (began, mut telling) = (Instant::now(), None);
        loop {
            let said = pods.pod(1).host().admin("GET", "/readyz");
            let said = said.expect("it answers");
            if said.status == 200 {
                break;
            }
            if said.text().contains("telling its peers where it is") {
                telling.get_or_insert_with(Instant::now);
            }
            assert!(began.elapsed() < SOON, "{said:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let told_for = telling.expect("it tells its peers before").elapsed();
        println!(
            "ready after {:?}, of which it told its peers for {told_for:?}",
            began.elapsed()
        );
        // The other peer reaches it at once, whatever the name server answers.
        let began = Instant::now();
        let through = pods.pod(2).host().client().get("/save/a/word");
        let answer = through.expect("an answer");
        assert_eq!((answer.status, answer.text()), (200, "word"));
        assert!(began.elapsed() < GENEROUS, "{:?}", began.elapsed());
        pods.pod(0).host().signal("CONT");
    });
}

/// Half of the time for which Kubernetes' name server repeats an answer.
const SOON: Duration = Duration::from_secs(15);
const MAX_WAIT: Duration = Duration::from_secs(5);
/// How long a shard hangs.
const HANGS_FOR: Duration = Duration::from_secs(15);
/// Far longer than it takes to detect a hung shard, and shorter than it hangs.
const GENEROUS: Duration = Duration::from_secs(5);

/// Makes the second of three shards hang, under load through the other two.
#[expect(clippy::print_stdout, reason = "the test prints its results")]
fn one_hangs(test: &str, hang: impl Fn(&Pods<'_>, bool)) {
    alone(test, |network| {
        let names = NameServer::start(true);
        let max_wait = format!("{}s", MAX_WAIT.as_secs());
        let mut pods = Pods::start(network, names, 3, &files(3, &max_wait));
        pods.wait_for(3);
        pods.take_out(1);
        let (mut hung, mut back) = (Instant::now(), Instant::now());
        let samples = under_load(&mut pods, |pods| {
            std::thread::sleep(Duration::from_secs(1));
            hung = Instant::now();
            hang(pods, true);
            std::thread::sleep(HANGS_FOR);
            hang(pods, false);
            back = Instant::now();
            std::thread::sleep(MAX_WAIT + GENEROUS);
        });
        let of = |letter: char, is_write: bool| {
            let of = move |sample: &&Sample| (sample.letter, sample.is_write) == (letter, is_write);
            samples.iter().filter(of)
        };
        let (hanging, others) = (LETTERS[0], &LETTERS[1..]);
        for letter in others {
            for is_write in [true, false] {
                let worst = of(*letter, is_write).map(|sample| sample.waited).max();
                println!("others, `{letter}`, writes: {is_write}: longest {worst:?}");
                let bad = of(*letter, is_write).find(|sample| !sample.is_good());
                assert!(bad.is_none(), "{bad:?}");
                assert!(worst < Some(GENEROUS), "{worst:?}");
            }
        }
        let count = |is_write, status| {
            let all = of(hanging, is_write).filter(|sample| sample.status == Some(status));
            all.count()
        };
        let longest = of(hanging, false).chain(of(hanging, true));
        let longest = longest
            .max_by_key(|sample| sample.waited)
            .expect("there is one");
        println!(
            "while one hangs for {HANGS_FOR:?}: reads {} good, {} 503; writes {} good, {} 503, {} 502; longest wait {:?}",
            count(false, 200),
            count(false, 503),
            count(true, 200),
            count(true, 503),
            count(true, 502),
            longest.waited,
        );
        // A request waits for `max_wait`, and its reply is sent at the end of it.
        assert!(longest.waited < MAX_WAIT + GENEROUS, "{longest:?}");
        assert!(count(false, 503) > 0 && count(true, 503) > 0);
        let is_known = |sample: &&Sample| matches!(sample.status, Some(200 | 503));
        let other = of(hanging, false).find(|sample| !is_known(sample));
        assert!(other.is_none(), "a read must be retried: {other:?}");
        for unknown in of(hanging, true).filter(|sample| !is_known(sample)) {
            assert_eq!(unknown.status, Some(502), "{unknown:?}");
            assert!(
                unknown.said.contains("may have written or not"),
                "{unknown:?}"
            );
            assert!(
                unknown.waited < GENEROUS,
                "the hung shard was detected too late: {unknown:?}"
            );
            assert!(
                unknown.began < hung + GENEROUS,
                "the response does not say that the write was sent: {unknown:?}"
            );
        }
        let again =
            of(hanging, true).find(|sample| sample.is_good() && sample.began > hung + GENEROUS);
        let again = again.expect("writes go on");
        let ended = again.began + again.waited;
        println!("the first write after it: {:?} after its end", ended - back);
        assert!(ended < back + MAX_WAIT + GENEROUS);
    });
}

#[test]
fn requests_for_a_shard_that_nothing_reaches_end_in_time() {
    let test = "requests_for_a_shard_that_nothing_reaches_end_in_time";
    one_hangs(test, |pods, is_cut| pods.cut(1, is_cut));
}

#[test]
fn requests_for_a_shard_that_is_stopped_end_in_time() {
    let test = "requests_for_a_shard_that_is_stopped_end_in_time";
    one_hangs(test, |pods, stops| {
        let signal = if stops { "STOP" } else { "CONT" };
        pods.pod(1).host().signal(signal);
    });
}
