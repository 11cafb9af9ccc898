//! The shard in memory behaves like the host.

use ostrakon_guest::{
    Description, Error, Guest, Migration, Request, RequestHead, Response, Result, Route, Secret,
    Settings, StoreError,
    testing::{Limits, TestShard},
};

/// Does what the request's path says. `SCHEMA` is the schema of its data.
struct Probe<const SCHEMA: u32>;

impl<const SCHEMA: u32> Guest for Probe<SCHEMA> {
    fn describe(_: Settings) -> Description {
        Description::new("probe", "1.0.0").with_schema(SCHEMA)
    }

    fn new(settings: Settings) -> Result<Self, String> {
        match settings.text("mode")?.as_deref() {
            Some("bad") => Err("mode is bad".into()),
            _ => Ok(Self),
        }
    }

    fn check(&self) -> Result<(), String> {
        if Secret::named("refuse").is_some() {
            Err("a secret refuses".into())
        } else {
            Ok(())
        }
    }

    fn route(&self, head: &RequestHead) -> Route {
        match head.path() {
            "/shard" | "/store-in-here" => Route::here(),
            "/long" => Route::read("k".repeat(1025)),
            _ if head.method() == "GET" => Route::read("p"),
            _ => Route::write("p"),
        }
    }

    fn handle(&self, request: &Request) -> Result<Response> {
        let store = request.store();
        match request.path() {
            "/set" => store.set("k", request.body())?,
            "/set-and-fail" => {
                store.set("k", "lost")?;
                return Err(Error::bad_request("no"));
            }
            "/set-and-discard" => {
                store.set("k", "lost")?;
                return Ok(Response::text("kept to itself").discard());
            }
            "/set-and-panic" => {
                store.set("k", "lost")?;
                panic!("asked for");
            }
            "/set-and-42" => {
                store.set("k", "lost")?;
                return Ok(Response::new(42));
            }
            "/forbidden" => return Ok(Response::text("x").header("Content-Length", "1")),
            "/smuggle" => return Ok(Response::text("x").header("x", "a\r\nb: c")),
            "/batch" => {
                let all = store.set_many([("a", "1"), ("b", "2"), ("", "3")]);
                assert_eq!(all, Err(StoreError::KeySize(1024)));
                assert_eq!(store.get("a"), None);
                store.set_many((0..700).map(|number| (format!("{number:03}"), "x")))?;
                assert_eq!(store.get_many(["001", "none"]), [Some(b"x".to_vec()), None]);
                let keys = |scan: ostrakon_guest::Scan| {
                    scan.map(|entry| String::from_utf8(entry.key).unwrap())
                        .collect::<Vec<_>>()
                };
                let forward = keys(store.scan().page_size(7));
                assert_eq!((forward.len(), forward.is_sorted()), (700, true));
                let mut backward = keys(store.scan().reverse().page_size(7));
                backward.reverse();
                assert_eq!(forward, backward);
                assert_eq!(
                    keys(store.scan().prefix("12").reverse())[..2],
                    ["129", "128"]
                );
                assert_eq!(keys(store.scan().from("005").until("007")), ["005", "006"]);
                assert_eq!(keys(store.scan().from("7").until("2")).len(), 0);
                assert_eq!(store.delete_many(["001", "001", "none"])?, 1);
                assert!(store.delete("002")?);
                assert!(!store.delete("002")?);
            }
            // As many values in one call as the body says.
            "/take" => {
                let values = store.get_many(numbers(request).map(|_| "k"));
                return Ok(Response::text(values.len().to_string()));
            }
            "/give" => store.set_many(numbers(request).map(|key| (key, "x")))?,
            "/take-away" => drop(store.delete_many(numbers(request))?),
            "/shard" => {
                let partitions: Vec<_> = request.shard().partitions().page_size(1).collect();
                let entries = request.shard().scan().page_size(1).count();
                return Ok(Response::text(format!("{} {entries}", partitions.len())));
            }
            "/header" => {
                return Ok(Response::bytes(
                    "text/plain",
                    request.header("X-One").join(&b';'),
                ));
            }
            "/secret" => {
                return Ok(Response::bytes(
                    "text/plain",
                    Secret::named("s").unwrap().reveal(),
                ));
            }
            _ => {}
        }
        Ok(Response::bytes(
            "text/plain",
            store.get("k").unwrap_or_default(),
        ))
    }

    fn migrate(&self, from: u32, shard: &Migration) -> Result<(), String> {
        for mut entry in shard.scan().page_size(1) {
            entry.value.extend(format!(" was {from}").bytes());
            shard.set_many(&[entry])?;
        }
        let stranger = ostrakon_guest::ShardEntry {
            partition: b"new".into(),
            key: b"k".into(),
            value: vec![],
        };
        assert_eq!(
            shard.set_many(&[stranger]).unwrap_err(),
            "a migration cannot create a partition"
        );
        Ok(())
    }
}

/// As many keys of four bytes as the body says.
fn numbers(request: &Request) -> impl Iterator<Item = String> {
    let text = str::from_utf8(request.body()).expect("the text is a number");
    let count: usize = text.parse().expect("the text is a number");
    (0..count).map(|number| format!("{number:04}"))
}

fn shard() -> TestShard<Probe<1>> {
    TestShard::new().start().unwrap()
}

#[test]
fn a_request_is_all_or_nothing() {
    let mut shard = shard();
    shard.put("/set", "first");
    for (path, status) in [
        ("/set-and-fail", 400),
        ("/set-and-discard", 200),
        ("/set-and-panic", 500),
        ("/set-and-42", 500),
        ("/forbidden", 500),
        ("/smuggle", 500),
    ] {
        assert_eq!(shard.put(path, "").status, status, "{path}");
        assert_eq!(shard.get("/get").text(), "first", "{path}");
    }
}

#[test]
fn a_read_cannot_write() {
    let mut shard = shard();
    let reply = shard.get("/set");
    assert_eq!(
        (reply.status, reply.text().contains("read_only")),
        (500, true)
    );
    assert_eq!(shard.partition("p"), None);
}

#[test]
fn imports_are_for_some_exports_only() {
    let mut shard = shard();
    assert!(shard.get("/store-in-here").failed);
    assert_eq!(shard.get("/shard").text(), "0 0");
    assert_eq!(shard.get("/long").status, 400);
}

#[test]
fn batches_and_scans_go_over_pages() {
    let mut shard = shard();
    let reply = shard.put("/batch", "");
    assert!(!reply.failed);
    assert_eq!(shard.partition("p").unwrap().len(), 698);
    assert_eq!(shard.get("/shard").text(), "1 698");
}

#[test]
fn limits_are_kept() {
    let limits = Limits {
        value: 10,
        partition: 8,
        ..Limits::default()
    };
    let mut shard = TestShard::<Probe<1>>::new().limits(limits).start().unwrap();
    assert_eq!(shard.put("/set", "1234567").status, 200);
    assert_eq!(shard.put("/set", "12345678").status, 507);
    assert_eq!(shard.put("/set", "12345678901").status, 413);
    assert_eq!(shard.get("/get").text(), "1234567");
}

/// Counts like the host: 64 bytes for each value returned, 24 for each key and value passed.
#[test]
fn one_call_hands_over_so_much_either_way() {
    let limits = Limits {
        call: 1000,
        ..Limits::default()
    };
    let mut shard = TestShard::<Probe<1>>::new().limits(limits).start().unwrap();
    shard.put("/set", "v".repeat(36));
    for (path, most) in [("/take", 10), ("/give", 18), ("/take-away", 35)] {
        let reply = shard.put(path, most.to_string());
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let reply = shard.put(path, (most + 1).to_string());
        assert!(reply.failed, "{path}");
    }
}

#[test]
fn headers_and_secrets_come_on_demand() {
    let mut shard = TestShard::<Probe<1>>::new()
        .secret("s", "old")
        .start()
        .unwrap();
    let headers = [("X-ONE", "1"), ("x-two", "2"), ("x-one", "3")];
    assert_eq!(shard.send("GET", "/header", &headers, "").text(), "1;3");
    assert_eq!(shard.get("/secret").text(), "old");
    shard.rotate("s", "new");
    assert_eq!(shard.get("/secret").text(), "new");
}

#[test]
fn a_bad_guest_is_refused_and_data_is_migrated() {
    assert_eq!(
        TestShard::<Probe<1>>::new()
            .setting("mode", "bad")
            .start()
            .unwrap_err(),
        "mode is bad"
    );
    assert_eq!(
        TestShard::<Probe<1>>::new()
            .secret("refuse", "")
            .start()
            .unwrap_err(),
        "a secret refuses"
    );
    let mut shard = shard();
    shard.put("/set", "value");
    let mut shard = shard.swap::<Probe<3>>().start().unwrap();
    assert_eq!(shard.get("/get").text(), "value was 1");
    assert_eq!(
        shard.swap::<Probe<2>>().start().unwrap_err(),
        "the data has schema 3, the guest 2"
    );
}

#[test]
fn a_body_that_the_host_would_refuse_is_refused() {
    let limits = Limits {
        body: 10,
        ..Limits::default()
    };
    let mut shard = TestShard::<Probe<1>>::new().limits(limits).start().unwrap();
    assert_ne!(shard.post("/set", [0; 10]).status, 413);
    assert_eq!(shard.partition("p").unwrap()["k".as_bytes()], [0; 10]);
    assert_eq!(shard.post("/set", [1; 11]).status, 413);
    assert_eq!(shard.partition("p").unwrap()["k".as_bytes()], [0; 10]);
}
