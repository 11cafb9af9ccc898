//! The sessions example, in memory.

use std::{collections::BTreeMap, time::Duration};

use ostrakon_guest::testing::{Reply, TestCluster, TestShard};
use ostrakon_test_support::random::{Random, seed};
use sessions::Sessions;

fn shard() -> TestShard<Sessions> {
    TestShard::new().start().unwrap()
}

fn id(created: &Reply) -> String {
    assert_eq!(created.status, 201, "{}", created.text());
    let body: BTreeMap<String, String> = created.json();
    body["id"].clone()
}

fn minutes(minutes: u64) -> Duration {
    Duration::from_mins(minutes)
}

#[test]
fn a_session_is_made_read_changed_and_deleted() {
    let mut shard = shard();
    let json = [("content-type", "application/json")];
    let made = shard.send("POST", "/sessions", &json, r#"{"user":"ann"}"#);
    let path = format!("/sessions/{}", id(&made));
    assert_eq!(made.header("location"), Some(path.as_str()));
    assert_eq!(made.header("set-cookie"), None);
    let read = shard.get(&path);
    assert_eq!(
        (read.status, read.text(), read.header("content-type")),
        (200, r#"{"user":"ann"}"#, Some("application/json"))
    );
    assert_eq!(read.header("etag"), made.header("etag"));
    assert_eq!(read.header("session-ttl"), Some("1800"));
    assert_eq!(read.header("cache-control"), Some("no-store"));
    let bytes = [0, 255, 10];
    assert_eq!(shard.put(&path, bytes).status, 204);
    let read = shard.get(&path);
    assert_eq!(
        (&read.body[..], read.header("content-type")),
        (&bytes[..], Some("application/octet-stream"))
    );
    assert_eq!(shard.delete(&path).status, 204);
    for method in ["GET", "PUT", "DELETE"] {
        assert_eq!(shard.send(method, &path, &[], "").status, 404, "{method}");
    }
    assert_eq!(shard.partition(&path["/sessions/".len()..][..3]), None);
}

#[test]
fn a_client_cannot_choose_an_id() {
    let mut shard = shard();
    let unknown = "0".repeat(35);
    for id in [&*unknown, "a", "..", &"A".repeat(35), &"é".repeat(17)] {
        let path = format!("/sessions/{id}");
        for method in ["GET", "PUT", "DELETE"] {
            assert_eq!(shard.send(method, &path, &[], "x").status, 404, "{id}");
        }
        assert_eq!(shard.post(&format!("{path}/touch"), "").status, 404);
    }
    assert_eq!(shard.partition("000"), None);
    assert_eq!(shard.get("/sessions").status, 405);
    let path = format!("/%73essions/{}", id(&shard.post("/sessions", "data")));
    assert_eq!(shard.get(&path).text(), "data");
}

#[test]
fn the_cookie_names_the_session() {
    let mut shard = shard();
    let made = shard.post("/sessions?cookie", "data");
    let id = id(&made);
    let expected = format!("session={id}; Path=/; HttpOnly; SameSite=Lax; Secure");
    assert_eq!(made.header("set-cookie"), Some(expected.as_str()));
    let cookie = format!("other=1; session={id}");
    let own = [("cookie", cookie.as_str())];
    assert_eq!(shard.send("GET", "/session", &own, "").text(), "data");
    assert_eq!(shard.send("PUT", "/session", &own, "more").status, 204);
    assert_eq!(shard.send("POST", "/session/touch", &own, "").status, 204);
    assert_eq!(shard.get(&format!("/sessions/{id}")).text(), "more");
    let deleted = shard.send("DELETE", "/session", &own, "");
    let removed = "session=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0";
    assert_eq!(
        (deleted.status, deleted.header("set-cookie")),
        (204, Some(removed))
    );
    assert_eq!(shard.send("GET", "/session", &own, "").status, 404);
    assert_eq!(
        shard.send("GET", "/session?missing=401", &own, "").status,
        401
    );
    assert_eq!(shard.get("/session").status, 404);
    assert_eq!(shard.get("/session?missing=401").status, 401);

    let mut plain = TestShard::<Sessions>::new()
        .setting("secure", "false")
        .start()
        .unwrap();
    let made = plain.post("/sessions?cookie", "");
    assert!(!made.header("set-cookie").unwrap().contains("Secure"));
}

#[test]
fn pages_of_other_sites_cannot_use_the_cookie() {
    let mut shard = shard();
    let made = shard.post("/sessions", "data");
    let cookie = format!("session={}", id(&made));
    let requests = [
        ("POST", "/sessions?cookie", 201),
        ("PUT", "/session", 204),
        ("POST", "/session/touch", 204),
        ("DELETE", "/session", 204),
    ];
    let own = [
        vec![("sec-fetch-site", "same-origin")],
        vec![("sec-fetch-site", "none")],
        vec![("origin", "https://a.example"), ("host", "a.example")],
    ];
    let others = [
        vec![("sec-fetch-site", "cross-site")],
        vec![("sec-fetch-site", "same-site")],
        vec![("origin", "https://b.example"), ("host", "a.example")],
        vec![("origin", "null"), ("host", "a.example")],
        vec![("origin", "https://a.example")],
    ];
    for (method, path, status) in requests {
        for mut headers in others.clone() {
            headers.push(("cookie", &cookie));
            let refused = shard.send(method, path, &headers, "x");
            assert_eq!(refused.status, 403, "{method} {path} {headers:?}");
        }
        for mut headers in own.clone() {
            if method != "DELETE" || headers.len() == 2 {
                headers.push(("cookie", &cookie));
                assert_eq!(shard.send(method, path, &headers, "x").status, status);
            }
        }
    }
}

#[test]
fn a_sliding_session_lives_as_long_as_it_is_used() {
    let mut shard = shard();
    let path = format!("/sessions/{}", id(&shard.post("/sessions", "data")));
    for _ in 0..5 {
        shard.advance(minutes(29));
        assert_eq!(shard.post(&format!("{path}/touch"), "").status, 204);
        shard.advance(minutes(29));
        assert_eq!(shard.put(&path, "data").status, 204);
    }
    shard.advance(minutes(30).saturating_sub(Duration::from_nanos(1)));
    assert_eq!(shard.get(&path).header("session-ttl"), Some("0"));
    shard.advance(Duration::from_nanos(1));
    assert_eq!(shard.get(&path).status, 404);
    // The write finds none, and deletes what is left.
    let partition = path["/sessions/".len()..][..3].to_owned();
    assert!(shard.partition(&partition).is_some());
    assert_eq!(shard.put(&path, "late").status, 404);
    assert_eq!(shard.partition(&partition), None);
}

#[test]
fn a_fixed_session_ends_when_it_was_said_to() {
    let settings = TestShard::<Sessions>::new()
        .setting("expiry", "fixed")
        .setting("ttl", "60");
    let mut shard = settings.start().unwrap();
    let short = format!("/sessions/{}", id(&shard.post("/sessions", "")));
    let long = format!("/sessions/{}", id(&shard.post("/sessions?ttl=120", "")));
    shard.advance(Duration::from_secs(59));
    for path in [&short, &long] {
        assert_eq!(shard.put(path, "x").status, 204);
        assert_eq!(shard.post(&format!("{path}/touch"), "").status, 204);
    }
    shard.advance(Duration::from_secs(1));
    assert_eq!(
        (shard.get(&short).status, shard.get(&long).status),
        (404, 200)
    );
    shard.advance(minutes(1));
    assert_eq!(shard.get(&long).status, 404);
}

#[test]
fn a_change_of_what_was_read_is_atomic() {
    let mut shard = shard();
    let made = shard.post("/sessions", "0");
    let path = format!("/sessions/{}", id(&made));
    let read = made.header("etag").unwrap().to_owned();
    let put = |shard: &mut TestShard<Sessions>, tag: &str, body: &str| {
        shard.send("PUT", &path, &[("if-match", tag)], body).status
    };
    assert_eq!(put(&mut shard, &read, "1"), 204);
    assert_eq!(put(&mut shard, &read, "2"), 412);
    assert_eq!(put(&mut shard, &format!("\"x\", {read}"), "2"), 412);
    assert_eq!(
        shard
            .send("DELETE", &path, &[("if-match", &*read)], "")
            .status,
        412
    );
    assert_eq!(shard.get(&path).text(), "1");
    let now = shard.get(&path).header("etag").unwrap().to_owned();
    // A touch is no change of the data.
    assert_eq!(shard.post(&format!("{path}/touch"), "").status, 204);
    assert_eq!(put(&mut shard, &format!("\"x\", {now}"), "2"), 204);
    assert_eq!(put(&mut shard, "*", "3"), 204);
    assert_eq!(shard.get(&path).text(), "3");
}

#[test]
fn bad_requests_and_settings_are_told_what_to_do() {
    let mut shard = TestShard::<Sessions>::new()
        .setting("max_bytes", "4")
        .start()
        .unwrap();
    for (path, body, status) in [
        ("/sessions", "12345", 413),
        ("/sessions?ttl=0", "", 400),
        ("/sessions?ttl=-1", "", 400),
        ("/sessions?ttl=soon", "", 400),
        ("/sessions?ttl=99999999999", "", 400),
        ("/sessions?ttl=%f", "", 400),
        ("/nowhere", "", 404),
    ] {
        assert_eq!(shard.post(path, body).status, status, "{path}");
    }
    let long = "x".repeat(256);
    let long = [("content-type", long.as_str())];
    assert_eq!(shard.send("POST", "/sessions", &long, "").status, 400);
    let path = format!("/sessions/{}", id(&shard.post("/sessions", "1234")));
    assert_eq!(shard.put(&path, "12345").status, 413);
    assert_eq!(shard.get(&path).text(), "1234");
    for (name, value, said) in [
        (
            "ttl",
            "0",
            "setting `ttl`: give 1 to 31536000 seconds, not 0",
        ),
        ("ttl", "1h", "setting `ttl`: invalid digit found in string"),
        (
            "expiry",
            "never",
            "setting `expiry`: give `sliding` or `fixed`, not `never`",
        ),
        (
            "secure",
            "no",
            "setting `secure`: provided string was not `true` or `false`",
        ),
        (
            "max_bytes",
            "9 MB",
            "setting `max_bytes`: invalid digit found in string",
        ),
    ] {
        let refused = TestShard::<Sessions>::new().setting(name, value).start();
        assert_eq!(refused.err().as_deref(), Some(said));
    }
}

/// Sessions as a model knows them, on three shards that become five: each one shows its own data, expired ones are gone,
/// and when all have expired, writes leave nothing of them.
#[test]
fn sessions_of_many_clients_are_never_mixed_up() {
    let seed = seed();
    println!("OSTRAKON_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let start = move || TestShard::<Sessions>::new().seed(seed);
    let mut cluster = TestCluster::start(3, start).unwrap();
    let mut shards = 3;
    // By id: the data, when it expires, and the lifetime.
    let mut model: BTreeMap<String, (String, u64, u64)> = BTreeMap::new();
    let (mut now, mut expired) = (0, 0);
    for step in 0..3000 {
        if step == 1500 {
            shards = 5;
            cluster.scale(shards);
        }
        let mut ask = cluster.ask(u32::try_from(random.below(shards.into())).unwrap());
        let data = format!("data of step {step}");
        let known = model.len() as u64;
        let action = if known == 0 { 0 } else { random.below(6) };
        if action == 0 {
            let ttl = 1 + random.below(60);
            let id = id(&ask.post(&format!("/sessions?ttl={ttl}"), &data));
            assert_eq!(model.insert(id, (data, now + ttl, ttl)), None);
        } else if action == 1 {
            let seconds = random.below(4);
            cluster.advance(Duration::from_secs(seconds));
            now += seconds;
        } else {
            let at = usize::try_from(random.below(known)).unwrap();
            let id = model.keys().nth(at).unwrap().clone();
            let path = format!("/sessions/{id}");
            let session = model.get_mut(&id).unwrap();
            let is_live = now < session.1;
            match action {
                2 | 3 => {
                    let read = ask.get(&path);
                    let expected = if is_live { 200 } else { 404 };
                    assert_eq!(read.status, expected);
                    assert!(!is_live || read.text() == session.0);
                }
                4 => {
                    let put = ask.put(&path, &data);
                    assert_eq!(put.status, if is_live { 204 } else { 404 });
                    *session = (data, now + session.2, session.2);
                }
                _ => {
                    let deleted = ask.send("DELETE", &path, &[], "");
                    assert_eq!(deleted.status, if is_live { 204 } else { 404 });
                }
            }
            if !is_live || action == 5 {
                expired += u32::from(!is_live);
                model.remove(&id);
            }
        }
    }
    assert!(expired > 10, "only {expired} expired");
    cluster.advance(minutes(2));
    for id in model.keys() {
        assert_eq!(
            cluster.ask(0).put(&format!("/sessions/{id}"), "").status,
            404
        );
        assert_eq!(cluster.partition(&id[..3]), None);
    }
}

#[test]
fn a_write_deletes_abandoned_sessions_of_its_partition() {
    let mut shard = shard();
    let mut ids = Vec::new();
    let mut of_one = BTreeMap::<String, Vec<String>>::new();
    for _ in 0..300 {
        let id = id(&shard.post("/sessions", "data"));
        of_one
            .entry(id[..3].to_owned())
            .or_default()
            .push(id.clone());
        ids.push(id);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 300);
    let (partition, some) = of_one.iter().max_by_key(|(_, ids)| ids.len()).unwrap();
    assert!(
        some.len() > 1,
        "300 sessions share none of 4,096 partitions"
    );
    shard.advance(minutes(31));
    assert_eq!(shard.put(&format!("/sessions/{}", some[0]), "").status, 404);
    assert_eq!(shard.partition(partition), None);
}

#[test]
fn an_expired_session_stays_so_when_it_moves_to_another_shard() {
    let mut cluster = TestCluster::start(1, TestShard::<Sessions>::new).unwrap();
    let ids: Vec<_> = (0..20)
        .map(|_| id(&cluster.ask(0).post("/sessions", "")))
        .collect();
    cluster.advance(minutes(31));
    cluster.scale(5);
    for id in ids {
        assert_eq!(cluster.get(&format!("/sessions/{id}")).status, 404);
    }
}
