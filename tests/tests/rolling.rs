//! Everyday events of a StatefulSet fail no request. All shards are restarted one after another,
//! and their number and their guest change, while clients use any shard that is ready, as they
//! would through a Service.

use std::time::{Duration, Instant};

use ostrakon_dev::Propagation;
use ostrakon_test_support::random::{Random, seed};
use ostrakon_tests::host::{Files, config, guest};
use ostrakon_tests::service;
use ostrakon_tests::set::StatefulSet;

const SHARDS: u32 = 5;
const SETTINGS: &str = "[drain]\nserve_for = \"1s\"";

fn files(component: &[u8]) -> Files {
    let settings = [("ostrakon.toml", SETTINGS), ("sharding", "jump")];
    config(component, &settings)
}

/// The component with another custom section: an id of 0, then the length of the rest, which begins
/// with the name's length and the name. It behaves the same but is a different component.
fn marked(component: &[u8], mark: u8) -> Vec<u8> {
    [component, &[0, 5, 3, b'm', b'a', b'r', mark]].concat()
}

/// Changes a set of three shards while clients use it. Prints how many requests were answered, and
/// the longest one.
#[expect(clippy::print_stdout, reason = "the test prints its results")]
fn under_load(what: &str, propagation: Propagation, meanwhile: impl FnOnce(&StatefulSet)) {
    let seed = seed();
    println!("OSTRAKON_TEST_SEED={seed}");
    let mut set = StatefulSet::new(&files(&guest("kv")), 3);
    set.options.propagation = propagation;
    set.start();
    let load = service::under_load(&set, SHARDS, Random::new(seed), || meanwhile(&set));
    let keys = load.check(&mut set.client(0));
    let (requests, worst) = (load.requests, load.worst);
    println!(
        "{requests} requests over {what}: 0 failed, the longest took {worst} ms; {keys} keys, each found"
    );
    set.stop();
}

#[test]
fn a_rolling_restart_fails_no_request() {
    let what = "a restart of each of three shards";
    under_load(what, Propagation::default(), StatefulSet::restart);
}

#[test]
fn scaling_up_and_down_fails_no_request() {
    let what = "changes from 3 shards to 5 and to 3";
    under_load(what, Propagation::default(), |set| {
        set.scale(5);
        set.scale(3);
    });
}

#[test]
fn swaps_that_each_shard_sees_at_another_time_fail_no_request() {
    const SWAPS: u8 = 10;
    let delays = [0, 150, 400].map(Duration::from_millis);
    let kv = guest("kv");
    let what = format!("{SWAPS} swaps of code in each of three shards");
    under_load(&what, Propagation::Each(delays.to_vec()), |set| {
        let mut longest = Duration::ZERO;
        for swap in 1..=SWAPS {
            let began = Instant::now();
            set.publish(&files(&marked(&kv, swap)));
            set.settle();
            longest = longest.max(began.elapsed());
        }
        for shard in 0..3 {
            let generation = &set.status(shard).expect("it is up")["generation"]["generation"];
            assert_eq!(*generation, 1 + u64::from(SWAPS), "shard {shard}");
        }
        println!("{longest:?} at most until the last shard had swapped");
    });
}
