use std::collections::BTreeSet;

use http::HeaderMap;
use ostrakon_test_support::pages::{code, rows};

use super::*;

const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn headers(values: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(TRACEPARENT, value.parse().unwrap());
    }
    headers
}

fn all() -> Sampler {
    Sampler::new("parentbased_always_on", None).unwrap()
}

/// The recorded spans of a tracer.
fn spans(tracer: Tracer, mut queue: Queue) -> Vec<Span> {
    drop(tracer);
    std::iter::from_fn(|| queue.spans.try_recv().ok()).collect()
}

#[test]
fn a_traceparent_is_taken_as_the_standard_has_it() {
    let of = |value: &str| Context::of(&headers(&[value]));
    let given = of(GIVEN).unwrap();
    assert_eq!(given.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(given.span.to_string(), "00f067aa0ba902b7");
    assert!(given.is_sampled);
    assert_eq!(given.header(), GIVEN);
    assert!(!of(&GIVEN.replace("-01", "-00")).unwrap().is_sampled);
    // Unknown flags are not a reason for rejection.
    assert!(of(&GIVEN.replace("-01", "-ff")).unwrap().is_sampled);
    // A later version may append fields.
    let later = GIVEN.replacen("00-", "01-", 1);
    assert!(of(&later).is_some() && of(&format!("{later}-more")).is_some());
    for wrong in [
        "",
        "00",
        &GIVEN[..54],
        &format!("{GIVEN}-more"),
        &format!("{later}more"),
        &GIVEN.replacen("00-", "ff-", 1),
        &GIVEN.replacen("4b", "4B", 1),
        &GIVEN.replacen("4b", "4g", 1),
        &GIVEN.replacen('-', "_", 1),
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
    ] {
        assert_eq!(of(wrong), None, "{wrong:?}");
    }
    assert_eq!(Context::of(&headers(&[GIVEN, GIVEN])), None, "twice");
    assert_eq!(Context::of(&HeaderMap::new()), None);
}

#[test]
fn without_export_a_trace_is_known_and_nothing_is_made() {
    let tracer = Tracer::default();
    let (trace, span) = tracer.begin(&headers(&[GIVEN]), Operation::Request);
    assert_eq!(
        trace.id().unwrap().to_string(),
        "4bf92f3577b34da6a3ce929d0e0e4736"
    );
    assert!(span.is_none() && trace.span(Operation::Commit).is_none());
    assert_eq!(
        trace.header(None),
        None,
        "the header must be forwarded unchanged"
    );
    let (trace, span) = tracer.begin(&HeaderMap::new(), Operation::Request);
    assert!(trace.id().is_none() && span.is_none());
}

#[test]
fn spans_are_within_each_other_and_the_next_shard_hears_of_the_innermost() {
    let (tracer, queue) = Tracer::new(all(), 8);
    let (trace, root) = tracer.begin(&headers(&[GIVEN]), Operation::Request);
    let mut hop = trace.span(Operation::Forward).unwrap();
    hop.set_attribute(Attribute::Peer, 2_u32);
    hop.fail("away".to_owned());
    let sent = trace.header(Some(&hop)).unwrap();
    drop((hop, root, trace));
    let spans = spans(tracer, queue);
    let [hop, root] = &spans[..] else {
        panic!("{spans:?}")
    };
    let given = Context::of(&headers(&[GIVEN])).unwrap();
    assert_eq!((root.name.as_ref(), root.kind), ("request", Kind::Server));
    assert_eq!(root.parent, Some(given.span));
    assert_eq!(hop.parent, Some(root.context.span));
    assert_eq!(hop.failed.as_deref(), Some("away"));
    assert_eq!(hop.attributes, [("ostrakon.peer", Value::Number(2))]);
    assert!(spans.iter().all(|span| span.context.trace == given.trace));
    assert_eq!(sent, hop.context.header());
    assert!(root.took >= hop.took && root.began <= hop.began);
}

#[test]
fn a_request_that_its_caller_does_not_record_is_not_recorded() {
    let unsampled = GIVEN.replace("-01", "-00");
    let (tracer, queue) = Tracer::new(all(), 8);
    let (trace, root) = tracer.begin(&headers(&[&unsampled]), Operation::Request);
    assert!(root.is_none() && trace.span(Operation::Commit).is_none());
    assert_eq!(trace.header(None).unwrap(), unsampled);
    trace.record(Operation::Commit, Instant::now());
    assert_eq!(spans(tracer, queue), []);
}

#[test]
fn what_is_decided_where_a_trace_begins_is_accepted_by_those_after() {
    let none = Sampler::new("parentbased_always_off", None).unwrap();
    let (tracer, queue) = Tracer::new(none, 8);
    let (trace, root) = tracer.begin(&HeaderMap::new(), Operation::Request);
    assert!(root.is_none());
    let sent = trace.header(None).unwrap();
    let (next, next_queue) = Tracer::new(all(), 8);
    let (there, root) = next.begin(&headers(&[sent.to_str().unwrap()]), Operation::Request);
    assert!(root.is_none());
    assert_eq!(there.id(), trace.id());
    assert_eq!(spans(tracer, queue), []);
    assert_eq!(spans(next, next_queue), []);
}

#[test]
fn what_finds_no_room_is_counted() {
    let (tracer, queue) = Tracer::new(all(), 2);
    for _ in 0..5 {
        drop(tracer.begin(&HeaderMap::new(), Operation::Request));
    }
    assert_eq!((queue.take_dropped(), queue.take_dropped()), (3, 0));
    assert_eq!(spans(tracer, queue).len(), 2);
}

#[test]
fn a_request_that_tries_again_and_again_has_only_so_many_spans_and_says_so() {
    let (tracer, queue) = Tracer::new(all(), 1000);
    let (trace, root) = tracer.begin(&HeaderMap::new(), Operation::Request);
    for _ in 0..500 {
        drop(trace.span(Operation::GuestRoute));
    }
    drop((root, trace));
    let spans = spans(tracer, queue);
    assert_eq!(spans.len(), 129);
    let left_out = ("ostrakon.spans_left_out", Value::Number(372));
    assert_eq!(spans[128].attributes, [left_out]);
}

#[test]
fn samplers_are_named_as_elsewhere_and_take_their_part() {
    let taken = |name, ratio, given: &[&str]| {
        let sampler = Sampler::new(name, ratio).unwrap();
        let (tracer, queue) = Tracer::new(sampler, 1000);
        for _ in 0..1000 {
            drop(tracer.begin(&headers(given), Operation::Request));
        }
        spans(tracer, queue).len()
    };
    let unsampled = GIVEN.replace("-01", "-00");
    assert_eq!(taken("always_on", None, &[&unsampled]), 1000);
    assert_eq!(taken("parentbased_always_on", None, &[&unsampled]), 0);
    assert_eq!(taken("always_off", None, &[GIVEN]), 0);
    assert_eq!(taken("parentbased_always_off", None, &[GIVEN]), 1000);
    assert_eq!(taken("traceidratio", Some("0"), &[]), 0);
    assert_eq!(taken("parentbased_traceidratio", Some("1"), &[]), 1000);
    let half = taken("traceidratio", Some("0.5"), &[]);
    assert!((400..600).contains(&half), "{half}");
    for (name, ratio) in [
        ("sometimes", None),
        ("parentbased_", None),
        ("traceidratio", Some("2")),
        ("traceidratio", Some("half")),
    ] {
        assert!(Sampler::new(name, ratio).is_err(), "{name} {ratio:?}");
    }
}

#[test]
fn the_reference_has_exactly_these_spans_with_their_kinds_and_attributes() {
    let readme = include_str!("../../../README.md");
    let spans = rows(readme, "| span | kind |");
    let shown = spans.iter().flat_map(|row| {
        let of_one = |name: &str| format!("{name}: {}", row[1]);
        code(row[0]).map(of_one)
    });
    let all = Operation::ALL.iter().map(|operation| {
        let kind = format!("{:?}", operation.kind()).to_lowercase();
        format!("{}: {kind}", operation.name())
    });
    assert_eq!(
        shown.collect::<BTreeSet<_>>(),
        all.collect(),
        "host/README.md, and the spans"
    );
    let attributes = rows(readme, "| attribute | of |");
    let shown = attributes.iter().flat_map(|row| code(row[0]));
    let all = Attribute::ALL.iter().map(|attribute| attribute.name());
    assert_eq!(
        shown.collect::<BTreeSet<_>>(),
        all.collect(),
        "host/README.md, and the attributes of spans"
    );
}
