//! Swaps under load: no request fails, none is answered by two generations, and no write runs on an
//! older generation than a write before it.
//!
//! Each generation's settings contain its number. If a reply's body and header disagree, two
//! generations made the reply.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ostrakon_tests::host::{Shard, config, guest};
use ostrakon_tests::load::under_load;

const SWAPS: u64 = 120;
const WORKERS: usize = 6;

/// How each version of the guest's code names itself.
const ONE: &str = "this is code one";
const OTHER: &str = "this is code two";

/// The code that a generation has.
fn code_of(generation: u64) -> &'static str {
    if generation.is_multiple_of(4) || generation % 4 == 1 {
        ONE
    } else {
        OTHER
    }
}

/// A component that differs only in the name that it gives.
fn other_code(component: &[u8]) -> Vec<u8> {
    let mut places = component.windows(ONE.len()).enumerate();
    let (at, _) = places
        .find(|(_, bytes)| *bytes == ONE.as_bytes())
        .expect("the mark is in the code's data");
    assert!(places.all(|(_, bytes)| bytes != ONE.as_bytes()));
    let mut other = component.to_vec();
    other[at..at + ONE.len()].copy_from_slice(OTHER.as_bytes());
    other
}

#[test]
fn swaps_under_load_drop_and_mix_no_request() {
    let one = guest("hostile");
    let other = other_code(&one);
    let files = |generation: u64| {
        let number = generation.to_string();
        // By turns, the guest changes together with the settings, and the settings change alone.
        let component = match code_of(generation) {
            ONE => &one,
            _ => &other,
        };
        let runtime = ["writer.max_group = 1024", "writer.max_group = 16"];
        let settings = [
            ("label", number.as_str()),
            ("sequence", number.as_str()),
            (
                "ostrakon.toml",
                runtime[usize::from(generation.is_multiple_of(2))],
            ),
        ];
        config(component, &settings)
    };
    let mut shard = Shard::new(&files(1));
    shard.arguments = ["--log", "info,ostrakon_shard::swap=debug"]
        .map(str::to_owned)
        .to_vec();
    let host = shard.start();
    let seen = Mutex::new(BTreeSet::new());
    let newest: [AtomicU64; WORKERS] = Default::default();

    let request = |client: &mut ostrakon_tests::client::Client, worker: usize, number: u64| {
        let mut get = |path: &str| {
            let response = client.get(path).expect("an answer");
            assert_eq!(response.status, 200, "{path}: {response:?}");
            // This holds for reads and writes together: a client that has seen a generation sees no
            // older one.
            let generation = response.generation();
            let before = newest[worker].fetch_max(generation, Ordering::Relaxed);
            assert!(before <= generation, "{generation} after {before}: {path}");
            response
        };
        match worker {
            // Reads.
            0 | 1 => {
                let response = get("/code");
                let generation = response.generation();
                // Both the setting and the code name their generation.
                let expected = format!("{generation} {}", code_of(generation));
                assert_eq!(response.text(), expected, "two generations: {response:?}");
                seen.lock().expect("no holder panics").insert(generation);
            }
            // Writes to one partition, each of which stores its generation.
            2 | 3 => {
                let response = get("/sequence/k");
                let before: u64 = response.text().parse().unwrap_or(0);
                let generation = response.generation();
                assert!(before <= generation, "{generation} wrote after {before}");
                get("/label");
                // Each generation routes this request to a partition of its own, so it never finds
                // another generation's mark there.
                let response = get("/routed/k");
                let (mark, generation) = (response.text(), response.generation().to_string());
                assert!(mark.is_empty() || mark == generation, "{response:?}");
            }
            // Loads a saved value.
            _ => {
                let value = number.to_string();
                get(&format!("/set/own-{worker}/{value}"));
                assert_eq!(get(&format!("/get/own-{worker}")).text(), value);
            }
        }
    };
    let (requests, ()) = under_load(host.address, WORKERS, request, |_| {
        for generation in 2..=SWAPS + 1 {
            shard.config.publish(&files(generation)).expect("published");
            host.wait_until("the swap", |host| host.generation() >= generation);
            assert_eq!(host.generation(), generation, "one number for each swap");
        }
    });

    assert_eq!(host.metric("ostrakon_swaps_total"), SWAPS + 1);
    assert_eq!(host.metric("ostrakon_swap_refusals_total"), 0);
    assert_eq!(
        host.metric("ostrakon_swap_duration_seconds_count"),
        SWAPS + 1
    );
    let compiled = host
        .stop()
        .lines()
        .filter(|line| line.contains("swap step begins") && line.contains("\"compile\""))
        .count() as u64;
    assert_eq!(compiled, 1 + SWAPS / 2, "settings alone must not compile");
    let seen = seen.into_inner().expect("no holder panics").len() as u64;
    assert!(
        seen > SWAPS / 2,
        "only {seen} generations were seen by readers"
    );
    println!(
        "at least {requests} requests over {SWAPS} swaps, {compiled} compiled: 0 failed, 0 mixed; \
         readers saw {seen} generations"
    );
}
