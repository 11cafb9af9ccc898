//! Shards that cannot be reached, and addresses at which another server answers.

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_test_support::tools::output;
use ostrakon_tests::cluster::{Cluster, shards};
use ostrakon_tests::host::{Files, Host, Shard, binary, config, guest};
use serde_json::json;

fn kv(shards: u32, max_wait: &str) -> Files {
    let toml = format!("[cluster]\nshards = {shards}\nmax_wait = \"{max_wait}\"");
    config(&guest("kv"), &[("ostrakon.toml", &*toml)])
}

/// Both peers stay away for longer than a restart takes. The log has one line about each peer that
/// goes, and one about each that returns.
#[test]
fn a_peer_that_cannot_be_asked_is_told_of_once_and_so_is_its_return() {
    let mut cluster = Cluster::start(80, 3, 3, &kv(3, "1s"));
    for host in cluster.hosts.drain(1..) {
        host.kill();
    }
    let host = &cluster.hosts[0];
    let status = host.wait_for_status("the loss of both", |status| {
        status["topology"]["away"] == json!([1, 2])
    });
    assert_eq!(status["topology"]["stable"], true, "nothing moves");
    let problems = status["problems"].to_string();
    assert!(
        problems.contains("shards 1 and 2 cannot be asked"),
        "{problems}"
    );
    let said = |what: &str| host.log().matches(what).count();
    let lost = "a shard cannot be asked";
    host.wait_until("a warning for each", |_| said(lost) == 2);
    let admin = host.admin.to_string();
    let shown = output(Command::new(binary()).args(["status", "--admin", &admin]));
    for row in [
        "! shards 1 and 2",
        "shard 1 cannot be asked, since",
        "shard 2 cannot be",
    ] {
        assert!(shown.contains(row), "{row}: {shown}");
    }
    let get = host.client().get("/load/b").expect("an answer");
    assert_eq!(get.status, 503);
    assert!(
        get.text().contains("has not been there for a while"),
        "{get:?}"
    );

    let back: Vec<Host> = cluster.shards[1..].iter().map(Shard::start).collect();
    let host = &cluster.hosts[0];
    host.wait_for_status("the return of both", |status| {
        let reached = |peer: &serde_json::Value| peer["reached"] == true;
        let peers = status["topology"]["peers"].as_array();
        peers.is_some_and(|peers| peers.len() == 2 && peers.iter().all(reached))
            && status["problems"] == json!([])
    });
    host.wait_until("a line for each", |_| {
        said("a shard can be asked again") == 2
    });
    assert_eq!(said(lost), 2, "one line for each peer");
    // Every shard knows the state of its peers, not only shard 0.
    back[1].wait_for_status("the others", |status| {
        status["topology"]["peers"].as_array().map(Vec::len) == Some(2)
    });
}

/// The address behind a name. It can change while connections are open, as the address of a Pod
/// can.
struct Name {
    to: Mutex<SocketAddr>,
    open: Mutex<Vec<TcpStream>>,
    connections: AtomicU64,
}

impl Name {
    fn at(address: SocketAddr, to: SocketAddr) -> Arc<Self> {
        let listener = TcpListener::bind(address).expect("it is free");
        let name = Arc::new(Self {
            to: Mutex::new(to),
            open: Mutex::default(),
            connections: AtomicU64::new(0),
        });
        let of_thread = Arc::clone(&name);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                of_thread.connections.fetch_add(1, Ordering::Relaxed);
                of_thread.pass_on(stream);
            }
        });
        name
    }

    fn pass_on(&self, stream: TcpStream) {
        let Ok(other) = TcpStream::connect(*self.to.lock().unwrap()) else {
            return;
        };
        let both = [(&stream, &other), (&other, &stream)].map(|(from, to)| {
            (
                from.try_clone().expect("the stream can be cloned"),
                to.try_clone().expect("the stream can be cloned"),
            )
        });
        for (mut from, mut to) in both {
            thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
        self.open.lock().unwrap().extend([stream, other]);
    }

    fn leads_to(&self, to: SocketAddr) {
        *self.to.lock().unwrap() = to;
    }

    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A server that answers requests but is not Ostrakon.
fn stranger() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has one");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
        }
    });
    address
}

/// For a while, a shard's address belongs to another cluster with the same token, or to an
/// unrelated server. Connections that were made meanwhile stay open after the name is right again.
/// Nothing was run there, so every request waits and is then answered.
#[test]
fn requests_outlast_an_address_that_is_somebody_elses_for_a_while() {
    let files = kv(2, "40s");
    let mut ours = shards(81, 2, &files);
    let peer = |part: u8, ordinal: u8, port| SocketAddr::from(([127, 7, part, ordinal], port));
    let own = peer(81, 1, 7071);
    ours[1].arguments[3] = own.to_string();
    let name = Name::at(peer(81, 1, 7070), own);
    let theirs = Cluster::start(82, 2, 2, &files);
    let hosts: Vec<Host> = thread::scope(|scope| {
        let starting: Vec<_> = ours
            .iter()
            .map(|shard| scope.spawn(|| shard.start()))
            .collect();
        starting
            .into_iter()
            .map(|host| host.join().unwrap())
            .collect()
    });
    let zero = &hosts[0];
    zero.wait_for_status("the topology", |status| status["topology"]["shards"] == 2);
    let saved = zero.client().get("/save/a/word").expect("an answer");
    assert_eq!(saved.header("ostrakon-shard"), Some("1"), "{saved:?}");
    let (mut requests, mut worst) = (0, Duration::ZERO);
    for (who, at) in [
        ("another cluster", peer(82, 1, 7070)),
        ("another shard of another cluster", peer(82, 0, 7070)),
        ("the shard itself", peer(81, 0, 7070)),
        ("no Ostrakon", stranger()),
        ("nobody", peer(81, 9, 7070)),
    ] {
        name.leads_to(at);
        name.cut();
        let before = name.connections.load(Ordering::Relaxed);
        let ask = |write: bool| {
            let began = Instant::now();
            let path = if write { "/save/a/word" } else { "/load/a" };
            let answer = zero.client().get(path).expect("an answer");
            (answer, began.elapsed())
        };
        ask_own(zero);
        thread::scope(|scope| {
            let asked: Vec<_> = (0..16)
                .map(|number| scope.spawn(move || ask(number % 2 == 0)))
                .collect();
            // The shard tried that address more than once.
            zero.wait_until("attempts", |_| {
                name.connections.load(Ordering::Relaxed) > before + 2
            });
            ask_own(zero);
            // From here on the name is right. Open connections stay open.
            name.leads_to(own);
            for asked in asked {
                let (answer, took) = asked.join().unwrap();
                let is_answered = answer.status == 200 && answer.text() == "word";
                assert!(is_answered, "{who}: {answer:?}");
                requests += 1;
                worst = worst.max(took);
            }
        });
        zero.wait_for_status("its peer", |status| {
            status["topology"]["peers"][0]["reached"] == true
        });
    }
    let said = zero.log();
    assert!(said.contains("belongs to another cluster"), "{said}");
    for host in &theirs.hosts {
        let loaded = host.client().get("/load/a").expect("an answer");
        assert_eq!(loaded.text(), "_key_not_found_");
    }
    println!(
        "{requests} requests, 0 failed; the longest wait was {worst:?}, until the name resolved correctly"
    );
}

/// Requests a key of the host's own partition, which it must answer within 5 s.
fn ask_own(host: &Host) {
    let began = Instant::now();
    let saved = host.client().get("/save/b/word").expect("an answer");
    assert_eq!(saved.status, 200, "{saved:?}");
    let took = began.elapsed();
    assert!(
        took < Duration::from_secs(5),
        "requests for its own partitions waited {took:?}"
    );
}
