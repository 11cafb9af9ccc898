//! What happens to a StatefulSet in its everyday life fails no request: all
//! shards are restarted one after another, and their number changes, while
//! clients go to any shard that is ready, as a Service lets them.

use ostrakon_tests::host::{config, guest};
use ostrakon_tests::random::{Random, seed};
use ostrakon_tests::service;
use ostrakon_tests::set::StatefulSet;

const SHARDS: u32 = 5;
const SETTINGS: &str = "[drain]\nserve_for = \"1s\"";

/// Does something with a set of three shards while clients use it; says how many
/// requests were answered, and how long one took at most.
#[expect(clippy::print_stdout, reason = "a load test says what it counted")]
fn under_load(what: &str, meanwhile: impl FnOnce(&StatefulSet)) {
    let seed = seed();
    println!("OSTRAKON_TEST_SEED={seed}");
    let settings = [("ostrakon.toml", SETTINGS), ("sharding", "jump")];
    let mut set = StatefulSet::new(&config(&guest("kv"), &settings), 3);
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
    under_load("a restart of each of three shards", StatefulSet::restart);
}

#[test]
fn scaling_up_and_down_fails_no_request() {
    under_load("changes from 3 shards to 5 and to 3", |set| {
        set.scale(5);
        set.scale(3);
    });
}
