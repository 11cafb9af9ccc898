//! `/kv?prefix=&after=&limit=`, and where keys live.

use ostrakon_guest::{Target, testing::TestShard};
use ostrakon_kv::Kv;

#[derive(serde::Deserialize, Debug, PartialEq)]
struct Page {
    keys: Vec<String>,
    next: Option<String>,
}

fn page(keys: &[&str], next: Option<&str>) -> Page {
    Page {
        keys: keys.iter().map(ToString::to_string).collect(),
        next: next.map(Into::into),
    }
}

fn shard(ordinal: u32, keys: &[&str]) -> TestShard<Kv> {
    let mut shard = TestShard::new().ordinal(ordinal, 3).start().unwrap();
    for key in keys {
        assert_eq!(
            shard
                .put(&format!("/kv/{}", ostrakon_guest::paths::encode(key)), "x")
                .status,
            201
        );
    }
    shard
}

#[test]
fn a_listing_is_pages_in_order() {
    let mut shard = shard(0, &["b", "a", "a/1", "a/2", "a,\n3", "é"]);
    for (query, expected) in [
        ("", page(&["a", "a,\n3", "a/1", "a/2", "b", "é"], None)),
        ("?limit=2", page(&["a", "a,\n3"], Some("a,\n3"))),
        (
            "?limit=2&after=a%2C%0A3",
            page(&["a/1", "a/2"], Some("a/2")),
        ),
        ("?limit=2&after=a%2F2", page(&["b", "é"], None)),
        ("?prefix=a/", page(&["a/1", "a/2"], None)),
        ("?prefix=a/&limit=1", page(&["a/1"], Some("a/1"))),
        ("?prefix=a/&limit=1&after=a/1", page(&["a/2"], None)),
        ("?prefix=a/&after=z", page(&[], None)),
        ("?prefix=b&after=a", page(&["b"], None)),
        ("?prefix=%C3%A9", page(&["é"], None)),
        ("?after=%C3%A9", page(&[], None)),
    ] {
        let reply = shard.get(&format!("/kv{query}"));
        assert_eq!(
            (reply.status, reply.json::<Page>()),
            (200, expected),
            "{query}"
        );
    }
    assert_eq!(shard.route("GET", "/kv?limit=2").target, Target::Everywhere);
    assert_eq!(shard.route("GET", "/allKeys").target, Target::Here);
}

#[test]
fn a_bad_limit_is_refused() {
    for limit in ["0", "1001", "-1", "x", "99999999999999999999"] {
        assert_eq!(
            shard(0, &[]).get(&format!("/kv?limit={limit}")).status,
            400,
            "{limit}"
        );
    }
}

#[test]
fn the_pages_of_all_shards_are_one_in_order() {
    let mut shards = [
        shard(0, &["c", "f", "moving"]),
        shard(1, &["a", "d", "moving"]),
        shard(2, &["b"]),
    ];
    let mut all = |query: &str| {
        let path = format!("/kv{query}");
        let parts = shards
            .iter_mut()
            .map(|shard| shard.part("GET", &path, &[]))
            .collect();
        shards[1].gather("GET", &path, &[], parts).json::<Page>()
    };
    assert_eq!(all(""), page(&["a", "b", "c", "d", "f", "moving"], None));
    assert_eq!(all("?limit=2"), page(&["a", "b"], Some("b")));
    assert_eq!(all("?limit=2&after=b"), page(&["c", "d"], Some("d")));
    assert_eq!(all("?limit=2&after=d"), page(&["f", "moving"], None));
    assert_eq!(
        all("?limit=6"),
        page(&["a", "b", "c", "d", "f", "moving"], None)
    );
}

#[test]
fn a_listing_that_lacks_a_shard_is_no_listing() {
    let mut shard = shard(0, &["a"]);
    let good = shard.part("GET", "/kv", &[]);
    let bad = ostrakon_guest::Part {
        shard: 1,
        response: ostrakon_guest::Response::new(500),
    };
    let reply = shard.gather("GET", "/kv", &[], vec![good, bad]);
    assert_eq!(
        (reply.status, reply.header("retry-after")),
        (503, Some("1"))
    );
}

#[test]
fn sharding_is_a_setting() {
    let with = |sharding: &str| TestShard::<Kv>::new().setting("sharding", sharding).start();
    let mut course = TestShard::<Kv>::new().start().unwrap();
    let mut modulo = with("modulo\n").unwrap();
    let mut jump = with("jump").unwrap();
    for (letter, number) in ('a'..='z').zip(97..) {
        assert_eq!(course.owner(letter.to_string(), 3), number % 3);
        assert_eq!(modulo.owner(letter.to_string(), 3), number % 3);
    }
    assert!(
        (0..100).any(|key| jump.owner(format!("a{key}"), 3) != modulo.owner(format!("a{key}"), 3))
    );
    assert_eq!(course.description().sharding, modulo.description().sharding);
    assert_ne!(jump.description().sharding, modulo.description().sharding);
    let refused = with("random").unwrap_err();
    assert_eq!(
        refused,
        "setting `sharding` is `random`: it can be `modulo` or `jump`"
    );
}
