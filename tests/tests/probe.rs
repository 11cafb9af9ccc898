//! A shard in memory and a running host give the same responses, and so do several: the tests that
//! authors write show what their guests will do.

use std::collections::BTreeMap;
use std::process::Command;

use ostrakon_tests::client::Response;
use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::host::{Files, Host, Shard, binary, config, guest};
use serde::Deserialize;

const PART: u8 = 96;

/// The same as in memory.
const SETTINGS: [(&str, &str); 2] = [("number", " 42\n"), ("json", "{\"a\":[1]}")];

/// The guest's secret as in memory, and one of the host's that the guest must not see.
fn secrets() -> Files {
    [
        ("some", "a secret"),
        ("peer-token", "a token of at least thirty-two characters"),
    ]
    .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
    .into()
}

/// A request to a shard, and what shards in memory respond.
#[derive(Debug, Deserialize)]
struct Exchange {
    shard: usize,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    status: u16,
    failed: bool,
    response: Vec<u8>,
    response_headers: BTreeMap<String, Option<String>>,
}

impl Exchange {
    fn request(&self) -> String {
        format!("shard {}: {} {}", self.shard, self.method, self.path)
    }

    /// Sends the request to a running host.
    fn repeat(&self, hosts: &[Host]) -> Response {
        let headers = self.headers.iter();
        let headers: Vec<_> = headers
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let mut client = hosts[self.shard].client();
        let sent = client.send(&self.method, &self.path, &headers, &self.body);
        sent.unwrap_or_else(|error| panic!("{}: {error}", self.request()))
    }

    fn is_the_same(&self, response: &Response) {
        let request = self.request();
        let of_the_host = response.header("ostrakon-error");
        assert_eq!(self.status, response.status, "{request}: {response:?}");
        let failed = of_the_host.is_some_and(|code| code.starts_with("guest-"));
        assert_eq!(self.failed, failed, "{request}: {response:?}");
        if of_the_host.is_some() {
            assert!(self.response.is_empty(), "{request}: {response:?}");
            return;
        }
        let in_memory = String::from_utf8_lossy(&self.response);
        assert_eq!(in_memory, response.text(), "{request}");
        for (name, value) in &self.response_headers {
            assert_eq!(value.as_deref(), response.header(name), "{request}: {name}");
        }
    }
}

fn in_memory(shards: &str) -> Vec<Exchange> {
    let mut program = Command::new(binary().with_file_name("probe-in-memory"));
    let output = program.arg(shards).output();
    let output = output.expect("it is built with the workspace");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("the output is such a list")
}

/// Returns how many requests were compared.
fn compare(shards: &str, hosts: &[Host]) -> usize {
    let exchanges = in_memory(shards);
    for exchange in &exchanges {
        exchange.is_the_same(&exchange.repeat(hosts));
    }
    assert!(!exchanges.is_empty(), "nothing was compared");
    exchanges.len()
}

#[test]
fn a_shard_in_memory_responds_as_a_running_one() {
    let mut shard = Shard::new(&config(&guest("probe"), &SETTINGS));
    shard.secrets.publish(&secrets()).expect("published");
    let hosts = [shard.start()];
    let compared = compare("one", &hosts);
    println!("{compared} requests, each response the same");
    let [host] = hosts;
    host.stop();
}

#[test]
fn three_shards_in_memory_respond_as_three_running_ones() {
    let [number, json] = SETTINGS;
    let files = config(
        &guest("probe"),
        &[("ostrakon.toml", "[cluster]\nshards = 3"), number, json],
    );
    let cluster = Cluster::start_with(PART, 3, 3, &files, &secrets());
    let compared = compare("three", &cluster.hosts);
    println!("{compared} requests to three shards in turn, each response the same");
}

/// While a shard cannot go over to what the others serve, a guest is told which parts are of another
/// generation, and so is a client whose response cannot be joined.
#[test]
fn parts_of_another_generation_are_told_apart() {
    let toml = "[cluster]\nshards = 2\n[rollout]\nwait = \"100ms\"";
    let generation = |number, needs: &[(&str, &str)]| {
        let settings = [&[("ostrakon.toml", toml), ("number", number)], needs].concat();
        config(&guest("probe"), &settings)
    };
    let old = generation("2", &[]);
    let mut cluster = Cluster::start(PART + 1, 2, 2, &old);
    // The second shard refuses it when it is live already.
    let needed = Files::from([("needed".to_owned(), b"it is here".to_vec())]);
    let secrets = &mut cluster.shards[0].secrets;
    secrets.publish(&needed).expect("published");
    cluster.hosts[0].wait_until("the secret", |host| host.log().contains("needed"));
    cluster.hosts[1].signal("STOP");
    let new = generation("1", &[("needs", "needed")]);
    let config = &mut cluster.shards[0].config;
    config.publish(&new).expect("published");
    cluster.hosts[0].wait_for_status("the new one", |status| {
        status["generation"]["generation"] == 2
    });
    cluster.hosts[1].signal("CONT");
    cluster.hosts[1].wait_for_status("the refusal", |status| {
        status["refused"]["step"] == "check" && status["topology"]["stable"] == true
    });
    let compared = compare("two-generations", &cluster.hosts);
    println!("{compared} listings of two generations, each response the same");
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
        let response = cluster.hosts[shard].client().get(path);
        let response = response.expect("an answer");
        assert!(
            response.text().contains(told),
            "shard {shard}, {path}: {response:?}"
        );
    }
}
