//! The part of the hostile guest that can be tested without Wasm: its good behaviour.

use hostile::Hostile;
use ostrakon_guest::testing::TestShard;

#[test]
fn it_behaves_where_it_is_not_asked_to_misbehave() {
    let new = || {
        TestShard::<Hostile>::new()
            .setting("label", "red")
            .setting("sequence", "1")
    };
    let mut shard = new().start().unwrap();
    assert_eq!(shard.get("/set/a/x").text(), "x");
    assert_eq!(shard.get("/get/a").text(), "x");
    assert_eq!(shard.get("/label").text(), "red");
    assert_eq!(shard.get("/sequence/s").text(), "");
    let mut shard = shard
        .swap::<Hostile>()
        .setting("sequence", "2")
        .start()
        .unwrap();
    assert_eq!(shard.get("/sequence/s").text(), "1");
    assert_eq!(shard.get("/anything?at=everywhere").text(), "behaved");
}

#[test]
fn it_misbehaves_where_it_is_asked() {
    let mut shard = TestShard::<Hostile>::new().start().unwrap();
    for path in [
        "/panic",
        "/status",
        "/header-bad-name",
        "/header-bad-value",
        "/header-ostrakon",
        "/shard",
        "/reply-enormous",
        "/store?at=here",
        "/panic?at=gather",
        "/write-then-panic?access=write",
    ] {
        assert!(shard.get(path).failed, "{path}");
    }
    assert_eq!(shard.get("/write").text(), "read-only");
    assert_eq!(
        shard.get("/key-enormous?access=write").text(),
        "key-size 1024"
    );
    assert_eq!(
        shard.get("/partition-enormous?access=write").text(),
        "partition-full 16777216"
    );
}

#[test]
fn settings_make_it_misbehave_in_other_exports() {
    let with = |misbehave: &str| {
        TestShard::<Hostile>::new()
            .setting("misbehave", misbehave)
            .start()
    };
    assert_eq!(
        with("error-in-check").unwrap_err(),
        "an error was asked for"
    );
    assert_eq!(with("panic-in-describe").unwrap_err(), "describe panicked");
    let shard = with("sharding=7,name=other").unwrap();
    assert_eq!(
        (
            shard.description().sharding,
            shard.description().name.as_str()
        ),
        (7, "other")
    );
    let with_data = || {
        let mut shard = with("").unwrap();
        shard.get("/set/a/x");
        shard
    };
    let refused = with_data()
        .swap::<Hostile>()
        .setting("misbehave", "schema=2,error-in-migrate")
        .start();
    assert_eq!(refused.unwrap_err(), "an error was asked for");
    let mut shard = with_data()
        .swap::<Hostile>()
        .setting("misbehave", "schema=2")
        .start()
        .unwrap();
    assert_eq!(shard.get("/get/a").text(), "x~");
}
