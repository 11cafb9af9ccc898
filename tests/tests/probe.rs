//! A shard in memory and a running host give the same responses, and so do several: the tests that
//! authors write show what their guests will do.

use ostrakon_guest::testing::{Builder, Reply, TestCluster, TestShard};
use ostrakon_tests::client::Response;
use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::host::{Files, Host, Shard, config, guest};
use probe::{Probe, Step, script};

const PART: u8 = 96;
const SETTINGS: [(&str, &str); 2] = [("number", " 42\n"), ("json", "{\"a\":[1]}")];
const SECRET: (&str, &str) = ("some", "a secret");

fn in_memory() -> Builder<Probe> {
    let [(number, of_number), (json, of_json)] = SETTINGS;
    TestShard::new()
        .setting(number, of_number)
        .setting(json, of_json)
        .secret(SECRET.0, SECRET.1)
}

fn secrets() -> Files {
    [
        SECRET,
        ("peer-token", "a token of at least thirty-two characters"),
    ]
    .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
    .into()
}

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

fn are_the_same(at: usize, step: &Step, reply: &Reply, response: &Response) {
    let request = format!("{at}: {} {}", step.method, step.path);
    let of_the_host = response.header("ostrakon-error");
    let told = || format!("{request}: {:?}, {:?}", reply, response.text());
    assert_eq!(reply.status, response.status, "{}", told());
    assert_eq!(
        reply.failed,
        of_the_host.is_some_and(|code| code.starts_with("guest-")),
        "{}",
        told()
    );
    if of_the_host.is_some() {
        assert!(reply.body.is_empty(), "{}", told());
        return;
    }
    assert_eq!(
        String::from_utf8_lossy(&reply.body),
        response.text(),
        "{request}"
    );
    for name in OF_A_GUEST {
        assert_eq!(
            reply.header(name),
            response.header(name),
            "{request}: {name}"
        );
    }
}

/// Sends the script to the hosts in turn, and to the shards in memory.
fn compare(hosts: &[Host], mut in_memory: impl FnMut(u32, &Step) -> Reply) -> usize {
    let steps = script();
    for (at, step) in steps.iter().enumerate() {
        let shard = at % hosts.len();
        let mut client = hosts[shard].client();
        let response = client.send(step.method, &step.path, &step.headers, &step.body);
        let shard = u32::try_from(shard).expect("there are few");
        are_the_same(
            at,
            step,
            &in_memory(shard, step),
            &response.expect("an answer"),
        );
    }
    steps.len()
}

#[test]
fn a_shard_in_memory_responds_as_a_running_one() {
    let mut shard = Shard::new(&config(&guest("probe"), &SETTINGS));
    shard.secrets.publish(&secrets()).expect("published");
    let host = shard.start();
    let mut memory = in_memory().start().expect("it starts");
    let hosts = [host];
    let compared = compare(&hosts, |_, step| {
        memory.send(step.method, &step.path, &step.headers, &step.body)
    });
    println!("{compared} requests, each response the same");
    let [host] = hosts;
    host.stop();
}

#[test]
fn three_shards_in_memory_respond_as_three_running_ones() {
    let files = config(&guest("probe"), &SETTINGS);
    let cluster = Cluster::start_with(PART, 3, 3, &files, &secrets());
    let mut memory = TestCluster::start(3, in_memory).expect("it starts");
    let compared = compare(&cluster.hosts, |shard, step| {
        let mut asked = memory.ask(shard);
        asked.send(step.method, &step.path, &step.headers, &step.body)
    });
    println!("{compared} requests to three shards in turn, each response the same");
}

/// While shards swap one by one, a guest is told which parts are of another generation, and so is a
/// client whose response cannot be joined.
#[test]
fn parts_of_another_generation_are_told_apart() {
    let generation = |number| config(&guest("probe"), &[("number", number)]);
    let in_memory =
        |number: &'static str| move || TestShard::<Probe>::new().setting("number", number);
    let (old, new) = (generation("1"), generation("2"));
    let cluster = Cluster::start_each(PART + 1, 2, &[&old, &new]);
    let mut memory = TestCluster::start(2, in_memory("1")).expect("it starts");
    memory.swap(1, in_memory("2")).expect("it serves");
    for (shard, path, told) in [
        (0, "/all", "\"same\":false"),
        (1, "/all", "\"same\":false"),
        (
            0,
            "/all/unreadable",
            "shard 0 gave a part that cannot be read",
        ),
        (
            1,
            "/all/unreadable",
            "shard 0 gave a part of another generation (probe 1.0.0) that cannot be read",
        ),
    ] {
        let response = cluster.hosts[shard].client().get(path).expect("an answer");
        assert!(
            response.text().contains(told),
            "shard {shard}, {path}: {}",
            response.text()
        );
        let asked = u32::try_from(shard).expect("there are few");
        let reply = memory.ask(asked).get(path);
        assert_eq!(
            (reply.status, reply.text()),
            (response.status, response.text())
        );
    }
}
