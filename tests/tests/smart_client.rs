//! The course's smart client against a cluster, with each way of routing.

use std::process::Command;

use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::host::{Files, binary, config, guest};

const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyz";

fn kv(part: u8, routing: &str) -> Files {
    let public_url = Cluster::public_url(part);
    let toml = format!(
        "[cluster]\nshards = 3\nmax_wait = \"200ms\"\nrouting = \"{routing}\"\n{public_url}\n[rollout]\nwait = \"1s\"\n"
    );
    config(&guest("kv"), &[("ostrakon.toml", &toml)])
}

/// The lines that the client prints for its rounds.
fn rounds(servers: &str, arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new(binary().with_file_name("smart-client"));
    command.args([servers, "--interval", "0s"]).args(arguments);
    let output = command.output().expect("it is built with the workspace");
    assert!(output.status.success(), "{output:?}");
    let output = String::from_utf8(output.stdout).expect("text");
    output.lines().skip(2).map(str::to_owned).collect()
}

/// A line with `mark` for each letter, except where `other` gives another mark.
fn line(mark: char, other: impl Fn(char) -> Option<char>) -> String {
    let marks = ALPHABET.chars().map(|letter| other(letter).unwrap_or(mark));
    let marks: String = marks.collect();
    let hits = marks.matches('h').count();
    format!("{marks} | hits = {hits} ({}%)", hits * 100 / 26)
}

fn all(mark: char) -> String {
    line(mark, |_| None)
}

/// Whether a letter belongs to the shard that is down: `a` (97), and every third letter from there.
fn of_1(letter: char) -> bool {
    u32::from(letter) % 3 == 1
}

fn check(cluster: &Cluster, routing: &str) {
    let servers = cluster.servers();
    let list: Vec<&str> = servers.split(',').collect();
    let (two, one) = (list[..2].join(","), list[2]);
    let hits = [all('h')];
    let check = |servers: &str, expected: &[String]| {
        let shown = rounds(servers, &["readonly", "--rounds", "1"]);
        assert_eq!(shown, expected, "{routing}: {servers}");
    };
    check(&servers, &hits);
    if routing == "local" {
        // The client uses the wrong number of shards, and learns so only when it writes.
        let by = |servers: u32| {
            move |letter: char| {
                (u32::from(letter) % servers != u32::from(letter) % 3).then_some('m')
            }
        };
        check(&two, &[line('h', by(2))]);
        let wrote = rounds(&two, &["--rounds", "1"]);
        assert_eq!(wrote[0].replace('w', "m"), line('h', by(2)));
    } else {
        check(&two, &hits);
        check(one, &hits);
    }
}

#[test]
fn a_list_of_any_length_and_any_one_server_find_all_keys() {
    let mut cluster = Cluster::start(16, 3, 3, &kv(16, "forward"));
    let servers = cluster.servers();
    let first = servers.split(',').next().expect("a server").to_owned();
    assert_eq!(rounds(&first, &["--rounds", "2"]), [all('w'), all('h')]);
    for (generation, routing) in [(1, "forward"), (2, "redirect"), (3, "local")] {
        if generation > 1 {
            cluster.publish(&kv(16, routing));
            cluster.wait_for_generation(generation);
        }
        check(&cluster, routing);
    }

    // Each key is stored once, where a client that shards by itself looks for it.
    for (shard, host) in (0..).zip(&cluster.hosts) {
        let keys = host.client().get("/allKeys").expect("an answer");
        let own = ALPHABET
            .chars()
            .filter(|letter| u32::from(*letter) % 3 == shard);
        let own: Vec<String> = own.map(String::from).collect();
        assert_eq!(keys.text(), own.join(","), "shard {shard}");
    }

    // A shard is down: the client prints `.` if it asked that shard itself; other shards wait for
    // it and answer 503.
    cluster.hosts.remove(1).stop();
    let without = |mark| [line('h', move |letter| of_1(letter).then_some(mark))];
    let round = ["readonly", "--rounds", "1"];
    assert_eq!(rounds(&servers, &round), without('.'), "local");
    cluster.publish(&kv(16, "forward"));
    cluster.wait_for_generation(4);
    assert_eq!(rounds(&servers, &round), without('.'), "forward");
    let last = servers.rsplit(',').next().expect("a server");
    assert_eq!(
        rounds(last, &round),
        without('5'),
        "another shard must forward the requests"
    );
    cluster.publish(&kv(16, "redirect"));
    cluster.wait_for_generation(5);
    assert_eq!(rounds(&servers, &round), without('.'), "redirect");
    cluster.hosts.insert(1, cluster.shards[1].start());
    cluster.wait_for(3);
    assert_eq!(rounds(&servers, &round), [all('h')], "the shard is back");
}
