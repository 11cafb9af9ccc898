//! `/kv?prefix=&after=&limit=`, and where keys are stored.

use std::collections::BTreeSet;

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
    assert_eq!(shard.route("GET", "/keys").target, Target::Everywhere);
    assert_eq!(shard.route("GET", "/allKeys").target, Target::Here);
    assert_eq!(shard.get("/keys").text(), "a,a,\n3,a/1,a/2,b,é");
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

/// Shards whose keys are not where an owner function would place them, as during a change. The
/// responses must depend only on where the keys are.
struct Sharded {
    shards: Vec<TestShard<Kv>>,
    keys: BTreeSet<String>,
}

impl Sharded {
    /// Makes shards that see a cluster of `of` shards. The more shards there are, the shorter each
    /// part may be.
    fn new(random: &mut Random, of: u32) -> Self {
        let count = 1 + random.below(4);
        let shard = |ordinal| TestShard::new().ordinal(ordinal, of).start().unwrap();
        let mut shards: Vec<TestShard<Kv>> = (0..count).map(shard).collect();
        let mut keys = BTreeSet::new();
        for _ in 0..random.below(40) {
            let prefix = ["", "a", "a/", "é,", "b%"][random.below(5) as usize];
            let length = [1, 8, 400][random.below(3) as usize];
            let key: String = prefix
                .chars()
                .chain((0..length).map(|_| random.letter()))
                .collect();
            // One key in eight is on two shards.
            let copies = 1 + u32::from(random.below(8) == 0);
            for _ in 0..copies {
                let shard = &mut shards[random.below(count) as usize];
                let path = format!("/kv/{}", ostrakon_guest::paths::encode(&key));
                assert!(shard.put(&path, "x").status < 300);
            }
            keys.insert(key);
        }
        Self { shards, keys }
    }

    fn get(&mut self, path: &str) -> ostrakon_guest::testing::Reply {
        let parts = self.shards.iter_mut();
        let parts = parts.map(|shard| shard.part("GET", path, &[])).collect();
        self.shards[0].gather("GET", path, &[], parts)
    }
}

/// A generator whose numbers follow from its seed (Marsaglia's xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 % u64::from(bound)).unwrap()
    }

    fn letter(&mut self) -> char {
        char::from(b'a' + u8::try_from(self.below(3)).unwrap())
    }
}

#[test]
fn pages_over_any_sharding_are_all_keys_in_order_each_once() {
    let mut short = 0;
    for seed in 1..=300 {
        let random = &mut Random(seed);
        let of = [3, 24 << 10, 40 << 10][random.below(3) as usize];
        let mut sharded = Sharded::new(random, of);
        let keys: Vec<_> = sharded.keys.iter().cloned().collect();
        let all = sharded.get("/keys");
        if of == 3 || all.status == 200 {
            assert_eq!(all.text(), keys.join(","), "seed {seed}");
        } else {
            assert!(all.text().contains("too_many_keys"), "seed {seed}");
        }
        for prefix in ["", "a", "a/", "é", "x"] {
            let limit = 1 + random.below(12) as usize;
            let prefix_path = ostrakon_guest::paths::encode(prefix);
            let of_prefix = keys.iter().filter(|key| key.starts_with(prefix));
            let of_prefix: Vec<_> = of_prefix.cloned().collect();
            let (mut listed, mut after) = (Vec::new(), String::new());
            loop {
                let path = format!("/kv?prefix={prefix_path}&limit={limit}&after={after}");
                let page = sharded.get(&path).json::<Page>();
                assert!(page.keys.len() <= limit, "seed {seed}: {path}");
                listed.extend(page.keys.iter().cloned());
                let Some(next) = page.next else {
                    break;
                };
                short += u32::from(page.keys.len() < limit);
                assert_eq!(Some(&next), page.keys.last(), "seed {seed}: {path}");
                after = ostrakon_guest::paths::encode(&next);
            }
            assert_eq!(listed, of_prefix, "seed {seed}: {prefix} by {limit}");
        }
    }
    assert!(short > 100, "too few parts were cut short: {short}");
}

#[test]
fn what_is_not_a_part_is_never_taken_for_an_empty_one() {
    let mut shard = shard(0, &["a"]);
    for path in ["/kv", "/keys"] {
        let good = shard.part("GET", path, &[]);
        let body = good.body().unwrap().to_vec();
        let reply = shard.gather("GET", path, &[], vec![good.clone(), good.clone()]);
        assert_eq!(reply.status, 200);
        let mut bad: Vec<Vec<u8>> = (0..body.len()).map(|end| body[..end].to_vec()).collect();
        // The part of an empty shard is one byte.
        bad.retain(|body| body != b".");
        bad.extend([b"a\n".to_vec(), b"?".to_vec(), [&body[..], b"x"].concat()]);
        for body in bad {
            let response = ostrakon_guest::Response::bytes("text/plain", body.clone());
            let part = ostrakon_guest::Part { shard: 1, response };
            let reply = shard.gather("GET", path, &[], vec![good.clone(), part]);
            assert_eq!(reply.status, 503, "{path}: {body:?}");
            assert!(
                reply
                    .text()
                    .contains("shard 1 gave a part that cannot be read"),
                "{}",
                reply.text()
            );
        }
    }
}

/// If the keys do not fit into one response, the response is an error. They are not cut off and do
/// not exhaust memory.
#[test]
fn too_many_keys_are_refused_with_what_to_do() {
    let mut long = TestShard::<Kv>::new().ordinal(0, 24 << 10).start().unwrap();
    for letter in ["a", "b"] {
        assert_eq!(
            long.put(&format!("/kv/{}", letter.repeat(800)), "x").status,
            201
        );
    }
    let reply = long.get("/keys");
    assert_eq!(reply.status, 400);
    let text = reply.text();
    assert!(
        text.starts_with(r#"{"error":"too_many_keys","#) && text.contains("/kv?limit="),
        "{text}"
    );
    let page = long.get("/kv").json::<Page>();
    assert_eq!((page.keys.len(), page.next), (1, Some("a".repeat(800))));

    let empty = |ordinal| TestShard::<Kv>::new().ordinal(ordinal, 3).start().unwrap();
    let keys = |first: u8| {
        let mut body = b".".to_vec();
        for number in 0..5000_u32 {
            body.extend(1000_u32.to_be_bytes());
            let key = format!("{}{number:0999}", char::from(first));
            body.extend(key.as_bytes());
        }
        let response = ostrakon_guest::Response::bytes("text/plain", body);
        ostrakon_guest::Part { shard: 0, response }
    };
    let one = empty(0).gather("GET", "/keys", &[], vec![keys(b'a')]);
    assert_eq!((one.status, one.text().len()), (200, 5000 * 1001 - 1));
    let two = empty(0).gather("GET", "/keys", &[], vec![keys(b'a'), keys(b'b')]);
    assert_eq!(two.status, 400);
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
