//! The course's store as its clients see it: single requests on the wire, and a port of its smart
//! client.

use std::process::Command;

use ostrakon_tests::client::Client;
use ostrakon_tests::host::{Host, Shard, binary, config, guest};

fn check(client: &mut Client, path: &str, status: u16, body: &str) {
    let response = client.get(path).unwrap();
    assert_eq!(
        (response.status, response.text()),
        (status, body),
        "{path}: {response:?}"
    );
}

#[test]
fn each_request_is_answered_as_in_the_course() {
    let shard = Shard::new(&config(&guest("kv"), &[]));
    let host = shard.start();
    let client = &mut host.client();
    check(client, "/allKeys", 200, "");
    check(client, "/load/a", 200, "_key_not_found_");
    check(client, "/save/a/word", 200, "word");
    check(client, "/load/a", 200, "word");
    check(client, "/allKeys", 200, "a");
    check(client, "/save/a/other", 200, "other");
    check(client, "/load/a", 200, "other");
    check(client, "/save/b/1", 200, "1");
    check(client, "/save/key/2", 200, "2");
    check(client, "/allKeys", 200, "a,b,key");
    // The variant with a disk: a Pod that is deleted comes back with its keys.
    host.stop();
    let host = shard.start();
    let client = &mut host.client();
    check(client, "/load/a", 200, "other");
    check(client, "/allKeys", 200, "a,b,key");

    assert_eq!(host.admin("POST", "/drain").unwrap().status, 200);
    for path in ["/save/a/late", "/load/a", "/load/none", "/allKeys"] {
        check(&mut host.client(), path, 503, "_shutting_down_");
    }
    host.stop();
    let host = shard.start();
    check(&mut host.client(), "/load/a", 200, "other");
    host.stop();
}

#[test]
fn keys_and_words_are_any_text_however_it_is_encoded() {
    let shard = Shard::new(&config(&guest("kv"), &[]));
    let host = shard.start();
    let client = &mut host.client();
    check(
        client,
        "/save/%C3%A9t%C3%A9/%E6%97%A5%E6%9C%AC",
        200,
        "日本",
    );
    check(client, "/load/%c3%a9t%c3%a9", 200, "日本");
    // Some clients do not percent-encode.
    check(client, "/load/été", 200, "日本");
    check(client, "/save/clef/🐚", 200, "🐚");
    check(client, "/load/%63lef", 200, "🐚");
    check(client, "/save/a%2Fb%20c/50%25%3F", 200, "50%?");
    check(client, "/load/a%2Fb%20c", 200, "50%?");
    check(client, "/load/a%2fb%20c?and=query", 200, "50%?");
    check(client, "/save/plus+plus/a+b", 200, "a+b");
    check(client, "/allKeys", 200, "a/b c,clef,plus+plus,été");
    for path in ["/save/%ff/x", "/save/x/%F", "/load/%zz"] {
        assert_eq!(client.get(path).unwrap().status, 400, "{path}");
    }
    check(client, "/allKeys", 200, "a/b c,clef,plus+plus,été");
    host.stop();
}

const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyz";

/// The smart client's output without the two lines that say which key belongs to which server.
fn smart_client(servers: &str, arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new(binary().with_file_name("smart-client"));
    let output = command
        .args([servers, "--interval", "0s"])
        .args(arguments)
        .output()
        .expect("it is built with the workspace");
    assert!(output.status.success(), "{output:?}");
    let output = String::from_utf8(output.stdout).unwrap();
    let mut lines = output.lines().map(str::to_owned);
    assert_eq!(lines.next().as_deref(), Some(ALPHABET));
    let count = servers.split(',').count();
    let numbers = ALPHABET.bytes().map(|letter| usize::from(letter) % count);
    let numbers: String = numbers.map(|number| number.to_string()).collect();
    assert_eq!(lines.next(), Some(numbers));
    lines.collect()
}

fn line(marks: &str, hits: u32) -> String {
    format!("{marks} | hits = {hits} ({}%)", hits * 100 / 26)
}

#[test]
fn the_smart_client_writes_then_hits_and_sees_a_drain_and_an_end() {
    let shard = Shard::new(&config(&guest("kv"), &[]));
    let host = shard.start();
    let server = &host.address.to_string();
    let all = |mark: &str| mark.repeat(26);
    let missing = smart_client(server, &["readonly", "--rounds", "1"]);
    assert_eq!(missing, [line(&all("m"), 0)]);
    let filled = smart_client(server, &["--rounds", "3"]);
    let hits = line(&all("h"), 26);
    assert_eq!(filled, [line(&all("w"), 0), hits.clone(), hits.clone()]);
    check(&mut host.client(), "/save/c/other", 200, "other");
    let mismatch = line(&all("h").replacen("hhh", "hhx", 1), 25);
    assert_eq!(smart_client(server, &["--rounds", "1"]), [mismatch]);
    check(&mut host.client(), "/save/c/c", 200, "c");

    assert_eq!(host.admin("POST", "/drain").unwrap().status, 200);
    let draining = smart_client(server, &["--rounds", "1"]);
    assert_eq!(draining, [line(&all("5"), 0)]);
    host.stop();
    let down = smart_client(server, &["--rounds", "1"]);
    assert_eq!(down, [line(&all("."), 0)]);

    // It is back at another address with all of its data.
    let host = shard.start();
    let server = &host.address.to_string();
    assert_eq!(smart_client(server, &["readonly", "--rounds", "1"]), [hits]);
    host.stop();
}

/// No cluster: three independent stores, as in the course.
#[test]
fn the_smart_client_spreads_keys_over_three_servers_and_misses_only_the_one_that_is_down() {
    let shards: Vec<Shard> = (0..3)
        .map(|_| Shard::new(&config(&guest("kv"), &[])))
        .collect();
    let mut hosts: Vec<Host> = shards.iter().map(Shard::start).collect();
    let servers: Vec<String> = hosts.iter().map(|host| host.address.to_string()).collect();
    let servers = servers.join(",");
    let filled = smart_client(&servers, &["--rounds", "2"]);
    assert_eq!(filled[1], line(&"h".repeat(26), 26));
    // `a` is 97, so it belongs to server 1.
    let of_0: Vec<char> = ALPHABET.chars().skip(2).step_by(3).collect();
    let keys = hosts[0].client().get("/allKeys").unwrap();
    let expected: Vec<String> = of_0.iter().map(char::to_string).collect();
    assert_eq!(keys.text(), expected.join(","));
    hosts.remove(0).stop();
    let marks: String = ALPHABET
        .chars()
        .map(|letter| if of_0.contains(&letter) { '.' } else { 'h' })
        .collect();
    let hits = u32::try_from(26 - of_0.len()).unwrap();
    assert_eq!(
        smart_client(&servers, &["--rounds", "1"]),
        [line(&marks, hits)]
    );
    for host in hosts {
        host.stop();
    }
}

/// The defaults once contradicted each other: a value could be stored that no reply could carry.
#[test]
fn the_largest_body_that_is_taken_can_be_read_again() {
    let shard = Shard::new(&config(&guest("kv"), &[]));
    let host = shard.start();
    let client = &mut host.client();
    let largest = vec![b'x'; 8 << 20];
    let stored = client.put("/kv/large", &largest).unwrap();
    assert_eq!(stored.status, 201, "{}", stored.text());
    let loaded = client.get("/kv/large").unwrap();
    assert!(loaded.status == 200 && loaded.body == largest);
    host.stop();
}
