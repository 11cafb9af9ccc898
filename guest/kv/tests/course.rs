//! The course's API, request by request.

use ostrakon_guest::testing::{Reply, TestShard};
use ostrakon_kv::Kv;

fn shard() -> TestShard<Kv> {
    TestShard::new().start().unwrap()
}

fn check(reply: &Reply, status: u16, body: &str) {
    assert_eq!((reply.status, reply.text()), (status, body), "{reply:?}");
}

#[test]
fn what_is_saved_is_loaded() {
    let mut shard = shard();
    check(&shard.get("/load/a"), 200, "_key_not_found_");
    check(&shard.get("/save/a/word"), 200, "word");
    check(&shard.get("/load/a"), 200, "word");
    check(&shard.get("/save/a/other"), 200, "other");
    check(&shard.get("/load/a"), 200, "other");
}

#[test]
fn all_keys_are_joined_by_commas() {
    let mut shard = shard();
    check(&shard.get("/allKeys"), 200, "");
    for key in ["b", "a", "c"] {
        shard.get(&format!("/save/{key}/x"));
    }
    check(&shard.get("/allKeys"), 200, "a,b,c");
}

#[test]
fn keys_and_words_are_what_is_decoded() {
    let mut shard = shard();
    check(&shard.get("/save/%C3%A9%2Fb/%E6%97%A5%20%25"), 200, "日 %");
    check(&shard.get("/load/%c3%a9%2fb"), 200, "日 %");
    check(&shard.get("/allKeys"), 200, "é/b");
    check(&shard.get("/save/%61/x"), 200, "x");
    check(&shard.get("/load/a"), 200, "x");
    check(&shard.get("/load/a?some=query"), 200, "x");
}

#[test]
fn bad_encodings_are_refused_and_store_nothing() {
    let mut shard = shard();
    for path in [
        "/save/%/x",
        "/save/a/%zz",
        "/save/%ff/x",
        "/save/a/%ff",
        "/load/%4",
        "/kv/%ff",
    ] {
        let reply = shard.get(path);
        assert_eq!(reply.status, 400, "{path}");
        assert!(
            reply
                .text()
                .starts_with(r#"{"error":"bad_encoding","message":""#),
            "{path}: {}",
            reply.text()
        );
    }
    check(&shard.get("/allKeys"), 200, "");
}

#[test]
fn other_paths_and_methods_are_refused() {
    let mut shard = shard();
    for path in [
        "/",
        "/save",
        "/save/a",
        "/save/a/",
        "/save//x",
        "/save/a/b/c",
        "/load",
        "/load/",
        "/load/a/b",
        "/allKeys/",
        "/KV",
    ] {
        assert_eq!(shard.get(path).status, 404, "{path}");
    }
    for (method, path, allow) in [
        ("HEAD", "/save/a/x", "GET"),
        ("POST", "/save/a/x", "GET"),
        ("PUT", "/load/a", "GET, HEAD"),
        ("DELETE", "/allKeys", "GET, HEAD"),
    ] {
        let reply = shard.send(method, path, &[], "");
        assert_eq!(
            (reply.status, reply.header("allow")),
            (405, Some(allow)),
            "{method} {path}"
        );
    }
    check(&shard.get("/allKeys"), 200, "");
}

#[test]
fn the_clients_26_letters_are_hits() {
    let mut shard = shard();
    for letter in 'a'..='z' {
        check(
            &shard.get(&format!("/load/{letter}")),
            200,
            "_key_not_found_",
        );
        check(
            &shard.get(&format!("/save/{letter}/{letter}")),
            200,
            &letter.to_string(),
        );
    }
    for letter in 'a'..='z' {
        check(
            &shard.get(&format!("/load/{letter}")),
            200,
            &letter.to_string(),
        );
    }
}

#[test]
fn both_apis_have_the_same_data() {
    let mut shard = shard();
    shard.get("/save/a/word");
    let reply = shard.get("/kv/a");
    check(&reply, 200, "word");
    assert_eq!(
        reply.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    shard.send("PUT", "/kv/b", &[("content-type", "text/html")], "<p>");
    let reply = shard.get("/load/b");
    check(&reply, 200, "<p>");
    assert_eq!(reply.header("content-type"), Some("text/html"));
}
