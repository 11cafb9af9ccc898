//! What shards in memory respond to the script, as JSON: `probe-in-memory one`, `three` or `two-generations`.
//!
//! A program, because the tests of running hosts do not depend on guests' code.

use std::{collections::BTreeMap, env, io};

use ostrakon_guest::testing::{Builder, Reply, TestCluster, TestShard};
use probe::{Probe, Step, script};
use serde::Serialize;

/// The headers of a response that a guest has set.
const OF_A_GUEST: [&str; 9] = [
    "allow",
    "cache-control",
    "content-type",
    "etag",
    "location",
    "retry-after",
    "set-cookie",
    "x-a",
    "x-spout",
];

/// A request to a shard, and the response.
#[derive(Serialize)]
struct Exchange {
    shard: u32,
    #[serde(flatten)]
    step: Step,
    status: u16,
    /// Whether the guest failed.
    failed: bool,
    response: Vec<u8>,
    response_headers: BTreeMap<&'static str, Option<String>>,
}

impl Exchange {
    fn new(shard: u32, step: Step, reply: &Reply) -> Self {
        let header = |name| (name, reply.header(name).map(str::to_owned));
        Self {
            shard,
            step,
            status: reply.status,
            failed: reply.failed,
            response: reply.body.clone(),
            response_headers: OF_A_GUEST.map(header).into(),
        }
    }
}

fn shard() -> Builder<Probe> {
    TestShard::new()
        .setting("number", " 42\n")
        .setting("json", "{\"a\":[1]}")
        .secret("some", "a secret")
}

fn one() -> Vec<Exchange> {
    let mut shard = shard().start().expect("it starts");
    let answered = script().into_iter().map(|step| {
        let reply = shard.send(step.method, &step.path, &step.headers, &step.body);
        Exchange::new(0, step, &reply)
    });
    answered.collect()
}

/// Sends each request to the next shard.
fn several(mut cluster: TestCluster, shards: u32, steps: Vec<Step>) -> Vec<Exchange> {
    let turns = (0..shards).cycle();
    let answered = turns.zip(steps).map(|(at, step)| {
        let mut asked = cluster.ask(at);
        let reply = asked.send(step.method, &step.path, &step.headers, &step.body);
        Exchange::new(at, step, &reply)
    });
    answered.collect()
}

/// A listing, and one that cannot be joined, of each of two shards: the second has other settings.
fn two_generations() -> Vec<Exchange> {
    let shard = |number: &'static str| move || TestShard::<Probe>::new().setting("number", number);
    let mut cluster = TestCluster::start(2, shard("1")).expect("it starts");
    cluster.swap(1, shard("2")).expect("it serves");
    let listings = script()
        .into_iter()
        .filter(|step| step.path == "/all?q=x" || step.path == "/all/unreadable");
    let twice = listings.flat_map(|step| [step.clone(), step]).collect();
    several(cluster, 2, twice)
}

fn main() {
    let exchanges = match env::args().nth(1).as_deref() {
        Some("one") => one(),
        Some("three") => {
            let cluster = TestCluster::start(3, shard).expect("it starts");
            several(cluster, 3, script())
        }
        Some("two-generations") => two_generations(),
        _ => panic!("give one, three or two-generations"),
    };
    serde_json::to_writer(io::stdout().lock(), &exchanges).expect("the output is read");
}
