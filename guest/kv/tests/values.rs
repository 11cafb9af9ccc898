//! `/kv/<key>`: values of any bytes, and conditional requests.

use ostrakon_guest::{
    Access, Target,
    testing::{Limits, Reply, TestShard},
};
use ostrakon_kv::Kv;

fn shard() -> TestShard<Kv> {
    TestShard::new().start().unwrap()
}

fn code(reply: &Reply) -> (u16, String) {
    let body: std::collections::BTreeMap<String, String> = reply.json();
    assert_eq!(body.keys().collect::<Vec<_>>(), ["error", "message"]);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    (reply.status, body["error"].clone())
}

#[test]
fn a_value_is_any_bytes_of_a_type() {
    let mut shard = shard();
    let bytes: Vec<u8> = (0..=255).collect();
    let reply = shard.send("PUT", "/kv/a", &[("content-type", "image/png")], &bytes);
    assert_eq!(reply.status, 201);
    let etag = reply.header("etag").unwrap().to_owned();
    let reply = shard.get("/kv/a");
    assert_eq!((reply.status, &reply.body), (200, &bytes));
    assert_eq!(
        (reply.header("content-type"), reply.header("etag")),
        (Some("image/png"), Some(etag.as_str()))
    );

    assert_eq!(shard.put("/kv/a", "").status, 204);
    let reply = shard.get("/kv/a");
    assert_eq!((reply.status, reply.text()), (200, ""));
    assert_eq!(
        reply.header("content-type"),
        Some("application/octet-stream")
    );
    assert_ne!(reply.header("etag"), Some(etag.as_str()));
}

#[test]
fn a_deleted_value_is_gone_and_so_is_its_partition() {
    let mut shard = shard();
    shard.put("/kv/a", "x");
    assert_eq!(shard.delete("/kv/a").status, 204);
    assert_eq!(code(&shard.delete("/kv/a")), (404, "key_not_found".into()));
    assert_eq!(code(&shard.get("/kv/a")), (404, "key_not_found".into()));
    assert_eq!(shard.partition("a"), None);
}

#[test]
fn a_head_is_a_get_without_a_body_and_reads() {
    let mut shard = shard();
    shard.put("/kv/a", "x");
    let reply = shard.send("HEAD", "/kv/a", &[], "");
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    assert_eq!(reply.header("etag"), shard.get("/kv/a").header("etag"));
    for (method, access) in [
        ("GET", Access::Read),
        ("HEAD", Access::Read),
        ("PUT", Access::Write),
        ("DELETE", Access::Write),
    ] {
        let route = shard.route(method, "/kv/a%2Fb");
        assert_eq!(
            (route.target, route.access),
            (Target::Partition(b"a/b".to_vec()), access),
            "{method}"
        );
    }
}

#[test]
fn all_after_kv_is_the_key() {
    let mut shard = shard();
    shard.put("/kv/users/17/name", "ann");
    assert_eq!(shard.get("/kv/users%2F17%2Fname").text(), "ann");
    assert_eq!(code(&shard.put("/kv/", "x")), (400, "bad_key".into()));
    let long = "k".repeat(1024);
    assert_eq!(shard.put(&format!("/kv/{long}"), "x").status, 201);
    assert_eq!(
        code(&shard.put(&format!("/kv/{long}k"), "x")),
        (400, "bad_key".into())
    );
}

#[test]
fn reads_on_condition() {
    let mut shard = shard();
    let etag = shard.put("/kv/a", "x").header("etag").unwrap().to_owned();
    let weak = format!("W/{etag}");
    let list = format!("\"other\", {weak}");
    for (name, value, status) in [
        ("if-none-match", etag.as_str(), 304),
        ("if-none-match", &weak, 304),
        ("if-none-match", &list, 304),
        ("if-none-match", "*", 304),
        ("if-none-match", "\"other\"", 200),
        ("if-match", &etag, 200),
        ("if-match", "*", 200),
        ("if-match", &weak, 412),
        ("if-match", "\"other\"", 412),
        ("if-match", "unquoted", 400),
        ("if-none-match", "", 400),
    ] {
        for method in ["GET", "HEAD"] {
            let reply = shard.send(method, "/kv/a", &[(name, value)], "");
            assert_eq!(reply.status, status, "{method} {name}: {value}");
            if status == 304 {
                assert_eq!(
                    (reply.header("etag"), reply.body.len()),
                    (Some(etag.as_str()), 0)
                );
            }
        }
    }
    assert_eq!(
        shard
            .send("GET", "/kv/none", &[("if-match", "*")], "")
            .status,
        404
    );
}

#[test]
fn writes_on_condition_compare_and_swap() {
    let mut shard = shard();
    let create = [("if-none-match", "*")];
    let reply = shard.send("PUT", "/kv/a", &create, "1");
    assert_eq!(reply.status, 201);
    let first = reply.header("etag").unwrap().to_owned();
    assert_eq!(
        code(&shard.send("PUT", "/kv/a", &create, "2")),
        (412, "precondition_failed".into())
    );

    let reply = shard.send("PUT", "/kv/a", &[("if-match", &first)], "2");
    assert_eq!(reply.status, 204);
    let second = reply.header("etag").unwrap().to_owned();
    for (method, name, value) in [
        ("PUT", "if-match", first.as_str()),
        ("DELETE", "if-match", &first),
        ("PUT", "if-match", &format!("W/{second}")),
        ("DELETE", "if-none-match", &second),
    ] {
        assert_eq!(
            shard.send(method, "/kv/a", &[(name, value)], "3").status,
            412,
            "{method} {name}: {value}"
        );
    }
    assert_eq!(
        code(&shard.send("PUT", "/kv/new", &[("if-match", "*")], "x")),
        (412, "precondition_failed".into())
    );
    assert_eq!(shard.get("/kv/a").text(), "2");
    assert_eq!(
        shard
            .send(
                "DELETE",
                "/kv/a",
                &[("if-match", &format!("\"x\",{second}"))],
                ""
            )
            .status,
        204
    );
}

#[test]
fn several_headers_of_a_condition_are_one_list() {
    let mut shard = shard();
    let etag = shard.put("/kv/a", "x").header("etag").unwrap().to_owned();
    let headers = [("If-Match", "\"other\""), ("If-Match", etag.as_str())];
    assert_eq!(shard.send("PUT", "/kv/a", &headers, "y").status, 204);
}

#[test]
fn a_tag_is_of_content_and_type() {
    let mut shard = shard();
    let mut tag = |content_type: &str, body: &str| {
        shard
            .send("PUT", "/kv/a", &[("content-type", content_type)], body)
            .header("etag")
            .unwrap()
            .to_owned()
    };
    assert_eq!(tag("text/plain", "x"), tag("text/plain", "x"));
    assert_ne!(tag("text/plain", "x"), tag("text/html", "x"));
    assert_ne!(tag("text/plain", "x"), tag("text/plai", "nx"));
}

#[test]
fn what_is_too_large_is_refused() {
    let limits = Limits {
        value: 100,
        ..Limits::default()
    };
    let mut shard = TestShard::<Kv>::new().limits(limits).start().unwrap();
    shard.put("/kv/a", "x");
    assert_eq!(
        code(&shard.put("/kv/a", "x".repeat(100))),
        (413, "value_size".into())
    );
    assert_eq!(shard.get("/kv/a").text(), "x");
    let long = "t".repeat(256);
    assert_eq!(
        code(&shard.send("PUT", "/kv/a", &[("content-type", &long)], "x")),
        (400, "bad_content_type".into())
    );
}

#[test]
fn other_methods_and_paths_say_what_there_is() {
    let mut shard = shard();
    let reply = shard.post("/kv/a", "x");
    assert_eq!(reply.header("allow"), Some("GET, HEAD, PUT, DELETE"));
    assert_eq!(code(&reply), (405, "method_not_allowed".into()));
    assert_eq!(code(&shard.get("/nothing")), (404, "path_not_found".into()));
}
