use ostrakon_base::digest::Digest;
use ostrakon_protocol::{ClusterId, Epoch, Placement};
use ostrakon_shard::swap::{LiveGeneration, Refused, Step};

use super::*;

fn placement(shards: u32, sharding: u32) -> Placement {
    Placement {
        shards,
        owner: Digest::of(b"guest"),
        sharding,
    }
}

fn plan(epoch: u64, from: u32, to: u32) -> Plan {
    Plan {
        cluster: ClusterId(7),
        epoch: Epoch(epoch),
        from: placement(from, 1),
        to: placement(to, 1),
    }
}

#[test]
fn a_change_is_told_when_it_begins_and_when_it_has_ended() {
    let kinds = |before: &Plan, now: &Plan| -> Vec<_> {
        of_plans(before, now)
            .into_iter()
            .map(|event| event.kind)
            .collect()
    };
    let (started, done) = (Kind::ReshardingStarted, Kind::ReshardingDone);
    let (three, moving, five) = (plan(1, 3, 3), plan(2, 3, 5), plan(3, 5, 5));
    assert_eq!(kinds(&three, &three), []);
    assert_eq!(kinds(&three, &moving), [started]);
    assert_eq!(kinds(&moving, &moving), []);
    assert_eq!(kinds(&moving, &five), [done]);
    assert_eq!(kinds(&three, &five), [started, done]);
    assert_eq!(kinds(&moving, &plan(4, 5, 2)), [started]);
    let events = of_plans(&three, &five);
    assert_eq!(events[0].note, "partitions move from 3 shards to 5");
    assert_eq!(
        events[1].note,
        "all partitions are where they belong, in 5 shards"
    );
    let other = Plan {
        cluster: ClusterId(7),
        epoch: Epoch(2),
        from: placement(3, 1),
        to: placement(3, 2),
    };
    let note = &of_plans(&three, &other)[0].note;
    assert_eq!(
        note,
        "partitions move among 3 shards, to where sharding 2 places them"
    );
}

#[test]
fn a_generation_that_differs_in_its_rehearsal_or_is_slower_is_a_warning() {
    let (candidate, live) = (Digest::of(b"candidate"), Digest::of(b"live"));
    let mut found = Findings::new(candidate, live);
    (found.requests, found.same) = (10, 10);
    (found.live_us, found.candidate_us) = (30, 59);
    assert_eq!(of_rehearsal(&found), None);
    (found.same, found.differ, found.candidate_us) = (7, 3, 60);
    let event = of_rehearsal(&found).unwrap();
    assert_eq!(event.kind, Kind::RehearsalDiffers);
    assert_eq!(
        event.note,
        "the new generation is live, and in its rehearsal 3 of 10 live requests are answered or written differently; a request takes 60 us, and took 30 us; see rehearsal in /status"
    );
}

#[test]
fn shards_that_are_missing_are_a_warning_that_says_what_to_do_and_their_return_is_told() {
    let missing = Missing {
        shards: vec![Ordinal(3), Ordinal(4)],
        wanted: 3,
        having_data: 5,
    };
    let event = of_missing(false, Some(&missing)).expect("it is told");
    assert_eq!(event.kind, Kind::ShardsMissing);
    assert!(event.note.contains("--replicas=5"), "{}", event.note);
    assert_eq!(of_missing(false, None), None);
    let event = of_missing(true, None).expect("it is told");
    assert_eq!(event.kind, Kind::ShardsBack);
}

#[test]
fn writes_that_are_refused_are_a_warning_that_says_why_and_their_return_is_told() {
    let why = "the disk is full".to_owned();
    let event = of_writes(false, Some(&why)).expect("it is told");
    assert_eq!(
        (event.kind, &*event.note),
        (Kind::WritesRefused, "writes are refused: the disk is full")
    );
    assert_eq!(of_writes(false, None), None);
    let event = of_writes(true, None).expect("it is told");
    assert_eq!(event.kind, Kind::WritesResumed);
}

#[test]
fn a_refusal_and_a_generation_in_place_of_another_are_told_once() {
    let live = |generation| LiveGeneration {
        generation,
        digest: Digest::of(b"guest"),
        name: "kv".to_owned(),
        version: "0.1.0".to_owned(),
        sharding: 1,
        schema: 0,
    };
    let refused = Refused {
        digest: None,
        step: Step::Check,
        reason: "no".to_owned(),
        unix_time: 1,
        will_retry: false,
    };
    let (start, first) = (
        Status::default(),
        Status {
            live: Some(live(1)),
            ..Status::default()
        },
    );
    assert_eq!(of_swaps(&start, &first), []);
    let bad = Status {
        refused: Some(refused),
        ..first.clone()
    };
    let events = of_swaps(&first, &bad);
    assert_eq!(events.len(), 1);
    assert_eq!(
        events[0].note,
        "the ConfigMap's content is refused, at the step check: no"
    );
    assert_eq!(of_swaps(&bad, &bad), []);
    let events = of_swaps(&bad, &first);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].kind, Kind::SwapRefusalEnded);
    assert!(events[0].note.ends_with("generation 1, which is live"));
    let next = Status {
        live: Some(live(2)),
        ..Status::default()
    };
    let events = of_swaps(&bad, &next);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].note, "generation 2 is live: kv 0.1.0");
}
