//! The limiter example, in memory.

use std::time::Duration;

use limiter::Limiter;
use ostrakon_guest::testing::{Partition, Reply, TestCluster, TestShard};
use ostrakon_test_support::random::{Random, seed};
use serde_json::Value;

const SECOND: u64 = 1_000_000_000;

fn rates(capacity: u64, refill: &str) -> String {
    format!(r#"{{"default":{{"capacity":{capacity},"refill_per_second":{refill}}}}}"#)
}

fn shard(rates: impl Into<Vec<u8>>) -> TestShard<Limiter> {
    TestShard::new()
        .setting("rates.json", rates)
        .start()
        .unwrap()
}

fn shown(shard: &mut TestShard<Limiter>, path: &str) -> Value {
    let shown = shard.get(path);
    assert_eq!(shown.status, 200, "{}", shown.text());
    shown.json()
}

/// How many of so many requests are allowed.
fn allowed(shard: &mut TestShard<Limiter>, path: &str, requests: u32) -> usize {
    let taken = (0..requests).map(|_| shard.get(path).status);
    taken.filter(|status| *status == 204).count()
}

fn headers(reply: &Reply) -> [Option<&str>; 3] {
    ["ratelimit-policy", "ratelimit", "retry-after"].map(|name| reply.header(name))
}

#[test]
fn a_bucket_gives_its_capacity_and_then_what_flows_in() {
    let mut shard = shard(rates(3, "0.5"));
    let policy = Some("\"default\";q=3;w=6");
    let first = shard.get("/take/ann");
    assert_eq!(first.status, 204);
    assert_eq!(headers(&first), [policy, Some("\"default\";r=2;t=2"), None]);
    assert_eq!(first.header("cache-control"), Some("no-store"));
    // Time stands still.
    assert_eq!(allowed(&mut shard, "/take/ann", 10), 2);
    let rejected = shard.post("/take/ann", "");
    assert_eq!(rejected.status, 429);
    assert_eq!(
        headers(&rejected),
        [policy, Some("\"default\";r=0;t=6"), Some("2")]
    );
    assert_eq!(rejected.json::<Value>()["error"], "rate_limited");
    // What `retry-after` says is enough, and less is not.
    shard.advance(Duration::from_nanos(2 * SECOND - 1));
    assert_eq!(shard.get("/take/ann").status, 429);
    shard.advance(Duration::from_nanos(1));
    assert_eq!(allowed(&mut shard, "/take/ann", 10), 1);
    shard.advance(Duration::from_hours(1));
    assert_eq!(allowed(&mut shard, "/take/ann", 10), 3);
}

#[test]
fn a_request_may_cost_more_than_one() {
    let mut shard = shard(rates(10, "2"));
    assert_eq!(shard.get("/take/ann?cost=7").status, 204);
    let rejected = shard.get("/take/ann?cost=7");
    assert_eq!(
        (rejected.status, rejected.header("retry-after")),
        (429, Some("2"))
    );
    // The rejection took nothing.
    assert_eq!(shard.get("/take/ann?cost=3").status, 204);
    for cost in ["0", "11", "-1", "1.5", "many", ""] {
        let bad = shard.get(&format!("/take/ann?cost={cost}"));
        assert_eq!(bad.status, 400, "{cost}");
        assert!(bad.text().contains("from 1 to 10"), "{}", bad.text());
    }
}

#[test]
fn buckets_are_shown_and_refilled_and_rejections_store_nothing() {
    let mut shard = shard(rates(4, "0.25"));
    assert_eq!(shown(&mut shard, "/buckets/ann")["tokens"], 4);
    assert_eq!(shard.partition("default/name/ann"), None);
    shard.get("/take/ann?cost=4");
    let stored: Partition = shard.partition("default/name/ann").unwrap().clone();
    shard.advance(Duration::from_secs(3));
    assert_eq!(shard.get("/take/ann").status, 429);
    assert_eq!(shard.partition("default/name/ann"), Some(&stored));
    shard.advance(Duration::from_secs(2));
    let expected =
        r#"{"class":"default","tokens":1,"capacity":4,"refill_per_second":0.25,"full_in":11}"#;
    assert_eq!(shard.get("/buckets/ann").text(), expected);
    assert_eq!(shard.delete("/buckets/ann").status, 204);
    assert_eq!(shown(&mut shard, "/buckets/ann")["tokens"], 4);
    assert_eq!(shard.partition("default/name/ann"), None);
}

#[test]
fn clients_are_named_by_path_header_cookie_or_address() {
    let rates = r#"{"default":{"capacity":1,"refill_per_second":1},"login-2":{"capacity":2,"refill_per_second":1}}"#;
    let mut shard = shard(rates);
    let address = [("x-real-ip", "192.0.2.1")];
    let key = [("x-api-key", "192.0.2.1")];
    let cookie = [("cookie", "a=b; session=192.0.2.1")];
    // All have the same name, and none has the bucket of another.
    let ways: [(&str, &[(&str, &str)]); 4] = [
        ("/take/192.0.2.1", &[]),
        ("/take", &address),
        ("/take?header=X-Api-Key", &key),
        ("/take?cookie=session", &cookie),
    ];
    for (path, headers) in ways {
        for (class, capacity) in [("default", 1), ("login-2", 2)] {
            let mark = if path.contains('?') { '&' } else { '?' };
            let path = format!("{path}{mark}class={class}");
            for at in 0..3 {
                let status = if at < capacity { 204 } else { 429 };
                assert_eq!(
                    shard.send("GET", &path, headers, "").status,
                    status,
                    "{path} {at}"
                );
            }
            let path = path.replace("/take", "/buckets");
            let shown: Value = shard.send("GET", &path, headers, "").json();
            assert_eq!(
                (&shown["tokens"], &shown["class"]),
                (&0.into(), &class.into())
            );
        }
    }
    for (path, status) in [
        ("/take", 400),
        ("/take?cookie=none", 400),
        ("/take/ann?class=unknown", 400),
        ("/take/ann?class=A/B", 400),
        ("/take/ann?reject=500", 400),
        ("/take/%zz", 400),
        ("/take/192.0.2.1?reject=403", 403),
        ("/elsewhere", 404),
    ] {
        assert_eq!(shard.get(path).status, status, "{path}");
    }
    assert_eq!(shard.put("/take/ann", "").status, 405);
}

#[test]
fn settings_that_cannot_be_are_refused() {
    for (rates, said) in [
        (
            "{}",
            "setting `rates.json` has no class: add one, such as `default`",
        ),
        (
            "[]",
            "setting `rates.json`: invalid type: sequence, expected a map at line 1 column 0",
        ),
        (
            r#"{"a":{"capacity":1}}"#,
            "setting `rates.json`: missing field `refill_per_second` at line 1 column 19",
        ),
        (
            r#"{"a":{"capacity":0,"refill_per_second":1}}"#,
            "setting `rates.json`: class `a`: `capacity` is 0: give 1 to 1000000 tokens",
        ),
        (
            r#"{"a":{"capacity":1,"refill_per_second":0}}"#,
            "setting `rates.json`: class `a`: `refill_per_second` is 0: give 0.000001 to 1000000 tokens",
        ),
        (
            r#"{"A":{"capacity":1,"refill_per_second":1}}"#,
            "setting `rates.json`: class `A`: a class's name has 1 to 64 of a-z, 0-9 and -",
        ),
    ] {
        let refused = TestShard::<Limiter>::new()
            .setting("rates.json", rates)
            .start();
        assert_eq!(refused.err().as_deref(), Some(said));
    }
    for rates in [
        r#"{"a":{"capacity":-1,"refill_per_second":1}}"#,
        r#"{"a":{"capacity":1.5,"refill_per_second":1}}"#,
        r#"{"a":{"capacity":1,"refill_per_second":-1}}"#,
        r#"{"a":{"capacity":1,"refill_per_second":1e99}}"#,
        r#"{"a":{"capacity":1,"refill_per_second":1,"burst":2}}"#,
        r#"{"a":{"capacity":1000001,"refill_per_second":1}}"#,
    ] {
        let refused = TestShard::<Limiter>::new()
            .setting("rates.json", rates)
            .start();
        let said = refused.err().unwrap();
        assert!(said.starts_with("setting `rates.json`: "), "{said}");
    }
}

/// The clock is set back by an hour. The bucket neither gives more than is in it, nor waits for an hour.
#[test]
fn a_clock_that_is_set_back_stops_no_bucket() {
    let settings = rates(2, "1");
    let mut ahead = shard(settings);
    assert_eq!(allowed(&mut ahead, "/take/ann", 5), 2);
    let back = ahead.now().saturating_sub(Duration::from_hours(1));
    let mut shard = ahead.swap::<Limiter>().now(back).start().unwrap();
    assert_eq!(allowed(&mut shard, "/take/ann", 5), 0);
    shard.advance(Duration::from_secs(1));
    assert_eq!(allowed(&mut shard, "/take/ann", 5), 1);
}

#[test]
fn a_change_of_rates_keeps_the_fraction_that_is_left() {
    let mut shard = shard(rates(10, "0.001"));
    shard.get("/take/ann?cost=5");
    for (capacity, tokens) in [(100, 50), (7, 3), (1_000_000, 500_000), (10, 5)] {
        let next = shard
            .swap::<Limiter>()
            .setting("rates.json", rates(capacity, "0.001"));
        shard = next.start().unwrap();
        assert_eq!(shown(&mut shard, "/buckets/ann")["tokens"], tokens);
        // A bucket that is written has the new capacity; the cost is given back by the model below.
    }
    // The time before the change counts at the new rate, too.
    shard = shard
        .swap::<Limiter>()
        .setting("rates.json", rates(10, "2"))
        .start()
        .unwrap();
    shard.advance(Duration::from_secs(2));
    assert_eq!(shown(&mut shard, "/buckets/ann")["tokens"], 9);
}

/// In no window are more tokens taken than the capacity and what flows in, and whoever waits as told gets them: with any
/// costs and pauses. Taking once as much as possible, or in small parts, gives the same: nothing is lost to rounding.
#[test]
fn no_window_has_more_than_the_capacity_and_the_rate_allow() {
    let seed = seed();
    println!("OSTRAKON_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    for _ in 0..30 {
        let capacity = 1 + random.below(20);
        // In billionths of a token per second.
        let rate = [1_000_000_000, 333_333_333, 7_000_001, 123_456_789_012]
            [usize::try_from(random.below(4)).unwrap()];
        let refill = format!("{}.{:09}", rate / SECOND, rate % SECOND);
        let mut shard = shard(rates(capacity, &refill));
        let start = shard.now();
        let mut taken: Vec<(u64, u64)> = Vec::new();
        for _ in 0..200 {
            let cost = 1 + random.below(capacity);
            let reply = shard.get(&format!("/take/ann?cost={cost}"));
            let now = u64::try_from(shard.now().saturating_sub(start).as_nanos()).unwrap();
            if reply.status == 204 {
                taken.push((now, cost));
            } else {
                let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
                if random.below(3) == 0 {
                    shard.advance(Duration::from_secs(wait));
                    assert_eq!(
                        shard.get(&format!("/take/ann?cost={cost}")).status,
                        204,
                        "seed {seed}"
                    );
                    taken.push((now + wait * SECOND, cost));
                }
            }
            // About the time of one token, or none.
            let pause = random.below(2) * random.below(2 * SECOND * SECOND / rate);
            shard.advance(Duration::from_nanos(pause));
        }
        for (first, (from, _)) in taken.iter().enumerate() {
            let mut sum = 0;
            for (to, cost) in &taken[first..] {
                sum += u128::from(*cost);
                let flown = u128::from(to - from) * u128::from(rate);
                let most = u128::from(capacity) * u128::from(SECOND).pow(2) + flown;
                assert!(
                    sum * u128::from(SECOND).pow(2) <= most,
                    "seed {seed}: {sum} from {from} to {to}"
                );
            }
        }
    }
}

/// A client that takes as soon as it may gets exactly the capacity and what has flown in, however small the steps are.
#[test]
fn nothing_is_lost_to_rounding() {
    let mut shard = shard(rates(5, "0.333333333"));
    assert_eq!(allowed(&mut shard, "/take/ann", 9), 5);
    let mut taken = 0;
    for _ in 0..90_000 {
        // A third of a token flows in within a second, and 90 s are 29.99999997 tokens.
        shard.advance(Duration::from_millis(1));
        taken += u32::from(shard.get("/take/ann").status == 204);
    }
    assert_eq!(taken, 29);
    shard.advance(Duration::from_micros(1));
    assert_eq!(shard.get("/take/ann").status, 204);
}

/// Rates change at random, back and forth. A model with fractions knows what is in the bucket.
#[test]
fn nothing_is_lost_or_won_when_rates_change() {
    let seed = seed();
    println!("OSTRAKON_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let mut capacity = 10;
    let mut rate = 3;
    let mut shard = shard(rates(capacity, "3"));
    #[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
    let float = |number: u64| number as f64;
    let (mut tokens, mut changes) = (float(capacity), 0);
    for _ in 0..2000 {
        let seconds = random.below(1000);
        shard.advance(Duration::from_millis(seconds));
        tokens = (tokens + float(seconds * rate) / 1000.0).min(float(capacity));
        let cost = 1 + random.below(capacity);
        let expected = float(cost) <= tokens;
        // Too close for the model to say.
        if (tokens - float(cost)).abs() > 1e-6 {
            let status = shard.get(&format!("/take/ann?cost={cost}")).status;
            assert_eq!(status == 204, expected, "seed {seed}: {cost} of {tokens}");
            if expected {
                tokens -= float(cost);
            }
        }
        if random.below(4) == 0 {
            // What flows in until now counts at the old rate only if a request stored it.
            if tokens >= 1.000_001 {
                assert_eq!(shard.get("/take/ann").status, 204, "seed {seed}");
                tokens -= 1.0;
            } else {
                continue;
            }
            let before = float(capacity);
            // With a capacity of 1, the model would never be sure of a whole token, and no change would follow.
            (capacity, rate) = (2 + random.below(999), 1 + random.below(100));
            let next = shard
                .swap::<Limiter>()
                .setting("rates.json", rates(capacity, &rate.to_string()));
            shard = next.start().unwrap();
            tokens *= float(capacity) / before;
            changes += 1;
        }
    }
    println!("{changes} changes");
    assert!(changes > 300, "only {changes} changes");
}

/// Every client has its own bucket, whichever shard is asked, also after partitions have moved.
#[test]
fn buckets_are_the_same_through_all_shards() {
    let start = || TestShard::<Limiter>::new().setting("rates.json", rates(4, "1"));
    let mut cluster = TestCluster::start(3, start).unwrap();
    for client in 0..20 {
        for shard in 0..3 {
            assert_eq!(
                cluster.ask(shard).get(&format!("/take/{client}")).status,
                204
            );
        }
    }
    cluster.scale(5);
    for client in 0..20 {
        assert_eq!(cluster.ask(4).get(&format!("/take/{client}")).status, 204);
        assert_eq!(cluster.ask(3).get(&format!("/take/{client}")).status, 429);
    }
}
