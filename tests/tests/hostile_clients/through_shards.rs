//! The same through another shard: clients behind a forwarding shard are told apart, and requests
//! that they have cancelled are not run on the owner either.

use std::time::Duration;

use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::host::{Host, config, guest};

use super::large_reads::{
    LARGE, STREAMS, check_run, gone, greedy, handled, until_answered, worst_of_others,
};

const TOML: &str = "[cluster]\nshards = 2\n";

/// A path that belongs to the second shard, found through the first.
fn of_the_second(first: &Host, path: impl Fn(u32) -> String) -> String {
    let paths = (0..100).map(path);
    let mut client = first.client();
    let mut theirs = paths.filter(|path| {
        let answer = client.get(path).expect("an answer");
        answer.header("ostrakon-shard") == Some("1")
    });
    theirs.next().expect("it has one of a hundred")
}

fn slow(host: &Host) -> u64 {
    host.metric("ostrakon_slow_reads_total")
}

#[test]
fn what_waits_at_another_shard_is_not_run_once_its_client_is_gone() {
    const ASKED: u64 = 30;
    let toml = format!("{TOML}[guest]\nread_deadline = \"3s\"\n");
    let files = config(&guest("hostile"), &[("ostrakon.toml", &toml)]);
    let cluster = Cluster::start(201, 2, 2, &files);
    let [first, second] = &cluster.hosts[..] else {
        panic!("there must be two shards");
    };
    let path = of_the_second(first, |key| format!("/nothing?partition={key}"));
    let path = path.replace("nothing", "loop");

    // Each of the requests is either run or dropped.
    let before = handled(second);
    let mut client = greedy(first);
    for _ in 0..ASKED {
        client.get(&path);
    }
    client.send_said().expect("it is sent");
    second.wait_until("its reads to wait", |second| slow(second) == ASKED);
    drop(client);
    second.wait_until("all to be counted", |second| {
        let run = handled(second) - before - ASKED;
        run + gone(second) == ASKED
    });
    let gone = gone(second);
    println!("{gone} of {ASKED} reads of another shard not run");
    assert!(gone >= ASKED / 2, "{gone}");

    // One client's reads wait there, and another client's read is served before them.
    let mut other = greedy(first);
    for _ in 0..ASKED {
        other.get(&path);
    }
    other.send_said().expect("it is sent");
    second.wait_until("its reads to wait", |second| slow(second) == 2 * ASKED);
    check_run(&first.client().get(&path).expect("an answer"));
}

#[test]
fn large_reads_of_another_shard_hold_nobody_up() {
    const CONNECTIONS: usize = 4;
    let files = config(&guest("kv"), &[("ostrakon.toml", TOML)]);
    let cluster = Cluster::start(202, 2, 2, &files);
    let [first, second] = &cluster.hosts[..] else {
        panic!("there must be two shards");
    };
    let path = of_the_second(first, |key| format!("/kv/{key}"));
    let stored = first
        .client()
        .put(&path, &vec![b'x'; LARGE])
        .expect("an answer");
    assert_eq!(stored.status, 201);
    let (alone, ()) = worst_of_others(first, |answered| until_answered(first, answered, 500));
    let attack = |answered: &_| {
        let mut attackers = [(); CONNECTIONS].map(|()| greedy(first));
        for raw in &mut attackers {
            for _ in 0..STREAMS {
                raw.get(&path);
            }
            raw.send_said().expect("it is sent");
        }
        let good: usize = attackers
            .iter_mut()
            .map(|raw| raw.answers(STREAMS).expect("frames"))
            .sum();
        until_answered(first, answered, 50);
        good
    };
    let (worst, good) = worst_of_others(first, attack);
    println!(
        "{CONNECTIONS} connections: {good} of {} large reads of another shard answered; {worst}; \
         without them {alone}; {} calls of the guest there",
        CONNECTIONS * STREAMS,
        handled(second)
    );
    assert!(good > 0);
    assert!(
        worst.took < alone.took * 20 + Duration::from_secs(1),
        "{worst}, alone {alone}"
    );
    let again = second.client().get(&path).expect("an answer");
    assert_eq!((again.status, again.body.len()), (200, LARGE));
}
