//! What a shard does with a request for another shard's partition: it forwards it, redirects the
//! client, or answers from its own data. Also the number of shards that guests see.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ostrakon_tests::client::{Client, Response};
use ostrakon_tests::cluster::Cluster;
use ostrakon_tests::host::{Files, Host, Shard, config, guest};

/// Shards with the key/value guest. It places keys by their first character: of three shards, `a`
/// (97) belongs to the second.
fn kv(part: u8, shards: u32, routing: &str) -> Files {
    let public_url = Cluster::public_url(part);
    let toml = format!("[cluster]\nshards = {shards}\nrouting = \"{routing}\"\n{public_url}\n");
    config(&guest("kv"), &[("ostrakon.toml", &toml)])
}

/// The address and the path of a `location` header.
fn location(response: &Response) -> (SocketAddr, String) {
    let location = response.header("location").expect("a location");
    let location = location.strip_prefix("http://").expect("a URL");
    let (address, path) = location.split_once('/').expect("a path");
    (address.parse().expect("an address"), format!("/{path}"))
}

fn told(response: &Response) -> (u16, Option<&str>, Option<&str>) {
    let header = |name| response.header(name);
    (
        response.status,
        header("ostrakon-error"),
        header("ostrakon-shard"),
    )
}

#[test]
fn redirect_sends_each_client_to_the_owner_with_method_path_and_body() {
    let cluster = Cluster::start(11, 3, 3, &kv(11, 3, "redirect"));
    let clients: &mut Vec<Client> = &mut cluster.hosts.iter().map(Host::client).collect();
    let path = "/kv/a%2Fb?x=%20y";
    for shard in [0, 2] {
        for method in ["PUT", "GET", "DELETE"] {
            let sent = clients[shard]
                .send(method, path, &[], b"body")
                .expect("an answer");
            assert_eq!(told(&sent), (307, Some("redirected"), Some("1")));
            let there = (cluster.hosts[1].address, path.to_owned());
            assert_eq!(location(&sent), there, "{method} at {shard}");
        }
    }
    let saved = clients[1].put(path, b"body").expect("an answer");
    assert_eq!(told(&saved), (201, None, Some("1")));
    // Requests that are not for a single shard are not redirected.
    for path in ["/allKeys", "/kv", "/keys", "/nowhere"] {
        let sent = clients[0].get(path).expect("an answer");
        assert!(sent.status != 307, "{path}: {sent:?}");
    }
    let redirected = r#"ostrakon_requests_total{target="partition",access="write",status="307"}"#;
    assert_eq!(cluster.hosts[0].metric(redirected), 2);
}

/// A client that follows redirects and counts them.
fn follow(first: SocketAddr, path: &str) -> (usize, Response) {
    let (mut address, mut hops) = (first, 0);
    loop {
        let response = Client::new(address).get(path).expect("an answer");
        if !matches!(response.status, 307 | 421) {
            return (hops, response);
        }
        hops += 1;
        (address, _) = location(&response);
        assert!(hops < 10, "{path} was redirected too often");
    }
}

#[test]
fn no_client_is_sent_about_while_partitions_move() {
    let mut cluster = Cluster::start(12, 3, 2, &kv(12, 2, "redirect"));
    let addresses: Vec<_> = cluster.hosts.iter().map(|host| host.address).collect();
    let ended = AtomicBool::new(false);
    let (requests, most) = thread::scope(|scope| {
        let worker = |worker: usize| {
            let (addresses, ended) = (&addresses, &ended);
            move || {
                let (mut requests, mut most) = (0, 0);
                let mut stored = BTreeMap::new();
                while !ended.load(Ordering::Relaxed) {
                    let letter = char::from(b'a' + u8::try_from(requests % 26).expect("a letter"));
                    let (key, word) = (format!("{letter}{worker}"), requests.to_string());
                    let first = addresses[requests % addresses.len()];
                    let (hops, saved) = follow(first, &format!("/save/{key}/{word}"));
                    assert_eq!((saved.status, saved.text()), (200, &*word), "{saved:?}");
                    stored.insert(key.clone(), word.clone());
                    let (more, loaded) = follow(first, &format!("/load/{key}"));
                    assert_eq!((loaded.status, loaded.text()), (200, &*word), "{loaded:?}");
                    most = most.max(hops).max(more);
                    requests += 1;
                }
                for (key, word) in stored {
                    let (_, loaded) = follow(addresses[0], &format!("/load/{key}"));
                    assert_eq!(loaded.text(), word, "{key}");
                }
                (requests, most)
            }
        };
        let workers: Vec<_> = (0..3).map(|number| scope.spawn(worker(number))).collect();
        let ending = Ending(&ended);
        for shards in [3, 2, 3, 1, 3, 2, 3] {
            cluster.publish(&kv(12, shards, "redirect"));
            cluster.wait_for(shards.into());
        }
        drop(ending);
        let done = workers
            .into_iter()
            .map(|worker| worker.join().expect("it ends well"));
        done.fold((0, 0), |(requests, most), (more, hops)| {
            (requests + more, most.max(hops))
        })
    });
    assert!(most > 0, "no request was redirected");
    println!("{requests} pairs of requests over 7 changes, of at most {most} redirects each");
}

/// Stops the clients when dropped, even by a panic.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn local_answers_what_it_has_and_never_stores_what_is_not_its_own() {
    let mut cluster = Cluster::start(13, 3, 3, &kv(13, 3, "local"));
    let clients: &mut Vec<Client> = &mut cluster.hosts.iter().map(Host::client).collect();
    let own = clients[1].get("/save/a/word").expect("an answer");
    assert_eq!((told(&own), own.text()), ((200, None, Some("1")), "word"));
    for shard in [0, 2] {
        let name = shard.to_string();
        let misplaced = clients[shard].get("/load/a").expect("an answer");
        let said = (told(&misplaced), misplaced.text());
        assert_eq!(said, ((200, None, Some(&*name)), "_key_not_found_"));
        for (method, path) in [
            ("GET", "/save/a/other"),
            ("PUT", "/kv/a"),
            ("DELETE", "/kv/a"),
        ] {
            let refused = clients[shard]
                .send(method, path, &[], b"x")
                .expect("an answer");
            assert_eq!(told(&refused), (421, Some("misplaced"), Some("1")));
            let there = (cluster.hosts[1].address, path.to_owned());
            assert_eq!(location(&refused), there);
        }
    }
    let keys = |clients: &mut Vec<Client>| -> Vec<String> {
        let all = clients.iter_mut().map(|client| client.get("/allKeys"));
        all.map(|keys| keys.expect("an answer").text().to_owned())
            .collect()
    };
    assert_eq!(keys(clients), ["", "a", ""], "a misplaced write was stored");
    assert_eq!(clients[1].get("/load/a").expect("an answer").text(), "word");

    // Without `public_url`, a refusal names the owning shard but not its address.
    let toml = "[cluster]\nshards = 3\nrouting = \"local\"";
    cluster.publish(&config(&guest("kv"), &[("ostrakon.toml", toml)]));
    cluster.wait_for_generation(2);
    let refused = clients[0].get("/save/a/other").expect("an answer");
    assert_eq!(told(&refused), (421, Some("misplaced"), Some("1")));
    assert_eq!(refused.header("location"), None);
    // The setting can be changed by a swap, and applies at once.
    cluster.publish(&kv(13, 3, "forward"));
    cluster.wait_for_generation(3);
    assert_eq!(clients[0].get("/load/a").expect("an answer").text(), "word");
}

#[test]
fn redirect_without_the_shards_addresses_is_refused() {
    let toml = "[cluster]\nrouting = \"redirect\"";
    let mut shard = Shard::new(&config(&guest("kv"), &[]));
    let host = shard.start();
    let broken = config(&guest("kv"), &[("ostrakon.toml", toml)]);
    shard.config.publish(&broken).expect("published");
    let status = host.wait_for_status("the refusal", |status| !status["refused"].is_null());
    assert_eq!(status["refused"]["step"], "verify");
    let reason = status["refused"]["reason"]
        .as_str()
        .expect("there is a reason");
    assert!(reason.contains("set cluster.public_url too"), "{reason}");
    assert_eq!(
        host.generation(),
        1,
        "the previous generation must stay live"
    );
}

#[test]
fn a_guest_is_told_the_number_of_shards_that_there_are() {
    let hostile = |shards: u32| {
        let toml = format!("[cluster]\nshards = {shards}\n");
        config(&guest("hostile"), &[("ostrakon.toml", &toml)])
    };
    let alone = Shard::new(&config(&guest("hostile"), &[])).start();
    let asked = ["/shards?at=here", "/shards", "/shards?access=write"];
    for path in asked {
        assert_eq!(
            alone.client().get(path).expect("an answer").text(),
            "1",
            "{path}"
        );
    }
    let mut cluster = Cluster::start(14, 3, 3, &hostile(3));
    for (generation, shards) in [(1, 3), (2, 2), (3, 3)] {
        if generation > 1 {
            cluster.publish(&hostile(shards));
            cluster.wait_for_generation(generation);
            cluster.wait_for(shards.into());
        }
        let said = shards.to_string();
        let among = usize::try_from(shards).expect("the number is small");
        for host in &cluster.hosts[..among] {
            for path in asked {
                let response = host.client().get(path).expect("an answer");
                assert_eq!(response.text(), said, "{path}: {response:?}");
            }
            // The parts of all shards, and the number that the guest sees when it joins them.
            let all = host
                .client()
                .get("/shards?at=everywhere")
                .expect("an answer");
            assert_eq!(all.text(), vec![&*said; among + 1].join(","), "{all:?}");
        }
    }
}
