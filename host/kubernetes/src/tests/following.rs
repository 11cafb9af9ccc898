//! The number of replicas arrives despite all failures.

use std::fs;

use ostrakon_test_support::api_server::Faults;
use ostrakon_test_support::certificates::Authority;

use super::*;

#[test]
fn the_number_and_its_changes_are_heard_by_one_list_and_a_watch() {
    let pod = Pod::following();
    for replicas in [5, 2, 1024, 3] {
        pod.server.scale(replicas);
        pod.hears(Replicas::Are(replicas.unsigned_abs()));
        assert_eq!(
            pod.metric("ostrakon_statefulset_replicas"),
            Some(f64::from(replicas))
        );
    }
    assert_eq!((pod.asked("list"), pod.asked("watch")), (1, 1));
    let status = pod.kubernetes.status();
    assert_eq!(
        (
            status.namespace.as_str(),
            status.statefulset.as_str(),
            status.replicas
        ),
        ("shop", SET, Some(3))
    );
    assert!(status.followed && status.heard.is_some() && status.problem.is_none());
    assert!(
        pod.metric("ostrakon_kubernetes_heard_timestamp_seconds")
            .unwrap()
            > 1.7e9
    );
    assert_eq!(pod.metric("ostrakon_kubernetes_failures_total"), Some(0.0));
}

/// Regression: a shard that started while the API server was away did not report any time of last
/// contact, so no alert fired.
#[test]
fn since_when_nothing_is_heard_is_shown_from_the_first_question_on() {
    let pod = Pod::new(3);
    pod.server.open(false);
    let began = ostrakon_base::unix_time::unix_time(std::time::SystemTime::now()).as_secs_f64();
    pod.follow();
    pod.problem("cannot be reached");
    let heard = pod.metric("ostrakon_kubernetes_heard_timestamp_seconds");
    let first = heard.expect("it is shown");
    assert!(first >= began, "{first} is before {began}");
    assert_eq!(pod.kubernetes.status().heard, None);
    // It stays while requests fail, and advances once the number is received.
    let failures = pod.metric("ostrakon_kubernetes_failures_total");
    pod.server.wait_for("more failures", |_| {
        (pod.metric("ostrakon_kubernetes_failures_total") > failures).then_some(())
    });
    assert_eq!(
        pod.metric("ostrakon_kubernetes_heard_timestamp_seconds"),
        Some(first)
    );
    pod.server.open(true);
    pod.hears(Replicas::Are(3));
    assert!(pod.metric("ostrakon_kubernetes_heard_timestamp_seconds") > Some(first));
}

#[test]
fn what_changed_while_nobody_could_be_asked_is_heard_from_where_it_was() {
    let pod = Pod::following();
    pod.server.open(false);
    pod.problem("cannot be reached");
    pod.server.scale(4);
    pod.server.scale(5);
    assert_eq!(*pod.kubernetes.replicas().borrow(), Replicas::Are(3));
    pod.server.open(true);
    pod.hears(Replicas::Are(5));
    pod.is_well();
    assert_eq!(
        pod.asked("list"),
        1,
        "the watch must continue without a new list"
    );
    assert!(pod.metric("ostrakon_kubernetes_failures_total").unwrap() > 0.0);
}

#[test]
fn what_the_server_has_forgotten_is_listed_again() {
    let pod = Pod::following();
    for _ in 0..3 {
        pod.server.open(false);
        pod.problem("cannot be reached");
        pod.server.change(|world| world.pass(1000));
        pod.server.scale(5);
        pod.server
            .change(ostrakon_test_support::api_server::World::forget);
        pod.server.open(true);
        pod.hears(Replicas::Are(5));
        pod.server.scale(3);
        pod.hears(Replicas::Are(3));
    }
    assert_eq!(pod.asked("list"), 4);
}

#[test]
fn a_server_that_is_restored_from_an_older_copy_is_listed_again() {
    let pod = Pod::following();
    pod.server.change(|world| world.pass(1000));
    pod.server.scale(5);
    pod.hears(Replicas::Are(5));
    pod.server.change(|world| world.restore(500));
    pod.server.cut();
    pod.server.scale(4);
    pod.hears(Replicas::Are(4));
    assert_eq!(pod.asked("list"), 2);
}

#[test]
fn bookmarks_spare_the_list() {
    let pod = Pod::following();
    pod.server
        .fail(|faults| faults.bookmark_every = Some(Duration::from_millis(20)));
    pod.server.change(|world| world.pass(1000));
    let heard = || pod.kubernetes.status().heard;
    // Two bookmarks, because the first may have been on its way before the versions advanced.
    for _ in 0..2 {
        let before = heard();
        pod.server
            .wait_for("a bookmark", |_| (heard() != before).then_some(()));
    }
    pod.server
        .change(ostrakon_test_support::api_server::World::forget);
    pod.server.cut();
    pod.server
        .wait_for("another watch", |_| (pod.asked("watch") > 1).then_some(()));
    pod.server.scale(5);
    pod.hears(Replicas::Are(5));
    assert_eq!(pod.asked("list"), 1);
}

#[test]
fn a_watch_that_ends_in_good_order_is_no_failure() {
    let pod = Pod::following();
    pod.server
        .wait_for("three watches", |_| (pod.asked("watch") >= 3).then_some(()));
    pod.server.scale(5);
    pod.hears(Replicas::Are(5));
    assert_eq!(pod.asked("list"), 1);
    assert_eq!(pod.metric("ostrakon_kubernetes_failures_total"), Some(0.0));
    // A watch that ends at once is not repeated without a pause.
    let soon = Some(Duration::ZERO);
    pod.server.fail(|faults| faults.watch_at_most = soon);
    let (before, began) = (pod.asked("watch"), Instant::now());
    pod.server.wait_for("more watches", |_| {
        (pod.asked("watch") >= before + 10).then_some(())
    });
    let took = began.elapsed();
    assert!(took > Duration::from_millis(100), "ten watches in {took:?}");
}

#[test]
fn a_server_that_hangs_without_a_sign_is_left() {
    let pod = Pod::following();
    // Received through the watch, so that the watch is the request that hangs.
    pod.server.scale(4);
    pod.hears(Replicas::Are(4));
    pod.server.fail(|faults| faults.is_silent = true);
    pod.problem("did not answer for 1.5s");
    assert_eq!(*pod.kubernetes.replicas().borrow(), Replicas::Are(4));
    pod.server.scale(5);
    pod.server.fail(|faults| faults.is_silent = false);
    pod.hears(Replicas::Are(5));
    pod.is_well();
}

#[test]
fn what_comes_late_or_in_halves_is_heard_whole() {
    let pod = Pod::following();
    pod.server
        .fail(|faults| faults.delay = Duration::from_millis(300));
    pod.server.scale(5);
    pod.hears(Replicas::Are(5));
    pod.server.fail(|faults| {
        *faults = Faults {
            breaks_lines: true,
            ..Faults::default()
        };
    });
    let before = pod.asked("watch");
    pod.server.scale(4);
    pod.server.wait_for("more watches", |_| {
        (pod.asked("watch") >= before + 3).then_some(())
    });
    assert_eq!(*pod.kubernetes.replicas().borrow(), Replicas::Are(5));
    pod.server.fail(|faults| faults.breaks_lines = false);
    pod.hears(Replicas::Are(4));
}

#[test]
fn a_server_that_refuses_is_asked_again_and_the_number_stays() {
    let pod = Pod::following();
    for code in [500, 503, 429] {
        pod.server.fail(|faults| faults.refuse = Some(code));
        pod.server.cut();
        pod.problem(&format!("refuses ({code}"));
        assert_eq!(*pod.kubernetes.replicas().borrow(), Replicas::Are(3));
        pod.server.fail(|faults| faults.refuse = None);
        pod.is_well();
    }
}

#[test]
fn who_may_not_ask_is_told_which_role_is_missing() {
    let pod = Pod::new(3);
    let rules = pod.server.change(|world| std::mem::take(&mut world.rules));
    pod.follow();
    // At once, so that callers need not wait.
    pod.hears(Replicas::None);
    let problem = pod.problem("forbids");
    for part in [
        "cannot list resource",
        "a Role",
        "list and watch",
        "`shard`",
        "`shop`",
    ] {
        assert!(problem.contains(part), "{problem}");
    }
    pod.server.change(|world| world.rules = rules);
    pod.hears(Replicas::Are(3));
    pod.is_well();
    // When permission is lost later, the number stays.
    pod.server.change(|world| world.rules.clear());
    pod.server.cut();
    pod.problem("forbids");
    assert_eq!(*pod.kubernetes.replicas().borrow(), Replicas::Are(3));
}

#[test]
fn tokens_and_authorities_change_while_it_goes_on() {
    let pod = Pod::following();
    for replicas in [4, 5, 6] {
        pod.server.rotate_token();
        pod.server.cut();
        pod.server.scale(replicas);
        pod.hears(Replicas::Are(replicas.unsigned_abs()));
    }
    assert_eq!(pod.kubernetes.status().problem, None);
    let path = pod.server.account().join("ca.crt");
    let right = fs::read(&path).unwrap();
    fs::write(&path, Authority::new("another").pem).unwrap();
    pod.server.cut();
    let problem = pod.problem("cannot be reached");
    assert!(problem.contains("certificate"), "{problem}");
    fs::write(&path, right).unwrap();
    pod.server.scale(2);
    pod.hears(Replicas::Are(2));
}

#[test]
fn a_set_that_is_deleted_scaled_to_nothing_or_too_large_leaves_no_number_to_go_by() {
    let pod = Pod::following();
    pod.server.change(|world| world.begin_to_delete(SET));
    pod.hears(Replicas::None);
    pod.problem("is being deleted");
    pod.server.change(|world| world.delete(SET));
    pod.problem("there is no StatefulSet `shard`");
    pod.server.change(|world| world.create(SET, 4));
    pod.hears(Replicas::Are(4));
    pod.is_well();
    for (replicas, problem) in [(0, "no replicas"), (1025, "more than there can be shards")] {
        pod.server.scale(replicas);
        pod.problem(problem);
        assert_eq!(*pod.kubernetes.replicas().borrow(), Replicas::None);
        // The last known number is shown.
        assert_eq!(pod.kubernetes.status().replicas, Some(4));
    }
}

#[test]
fn what_is_not_followed_any_more_does_not_count() {
    let pod = Pod::new(3);
    let kubernetes = pod.kubernetes.clone();
    let following = pod.runtime.spawn(async move { kubernetes.follow().await });
    pod.hears(Replicas::Are(3));
    following.abort();
    pod.hears(Replicas::NotHeard);
    let status = pod.kubernetes.status();
    assert!(!status.followed && status.replicas.is_none() && status.heard.is_none());
    for name in ["statefulset_replicas", "kubernetes_heard_timestamp_seconds"] {
        assert_eq!(pod.metric(&format!("ostrakon_{name}")), None);
    }
}
