use super::*;

fn missing() -> Problem {
    Problem::Missing {
        namespace: "shop".to_owned(),
        stateful_set: "kv".to_owned(),
    }
}

fn seen(replicas: i32) -> Seen {
    Seen {
        replicas,
        is_deleting: false,
    }
}

fn version(version: &str) -> String {
    version.to_owned()
}

fn unreachable() -> Problem {
    Problem::Unreachable("refused".to_owned())
}

/// Applies these answers, and compares the number, the problem, the next request and the number of
/// consecutive failures.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the expected values are written at the call"
)]
fn check(heard: &[Heard], replicas: Replicas, problem: Option<Problem>, next: Ask, failures: u32) {
    let mut following = Following::new(missing());
    for heard in heard {
        following.apply(heard.clone());
    }
    assert_eq!(following.replicas(), replicas, "{heard:?}");
    assert_eq!(following.problem(), problem.as_ref(), "{heard:?}");
    assert_eq!(following.next(), next, "{heard:?}");
    assert_eq!(following.failures(), failures, "{heard:?}");
}

fn watch(from: &str) -> Ask {
    Ask::Watch(version(from))
}

#[test]
fn a_list_says_how_it_is_and_a_watch_from_there_how_it_changes() {
    check(&[], Replicas::NotHeard, None, Ask::List, 0);
    let listed = Heard::Listed(version("7"), Some(seen(3)));
    check(
        std::slice::from_ref(&listed),
        Replicas::Are(3),
        None,
        watch("7"),
        0,
    );
    let changed = Heard::Changed(version("9"), seen(5));
    check(
        &[listed.clone(), changed.clone()],
        Replicas::Are(5),
        None,
        watch("9"),
        0,
    );
    let bookmark = Heard::Bookmark(version("20"));
    check(
        &[listed, changed, bookmark],
        Replicas::Are(5),
        None,
        watch("20"),
        0,
    );
}

#[test]
fn a_watch_that_ends_or_fails_is_begun_again_where_it_was() {
    let listed = Heard::Listed(version("7"), Some(seen(3)));
    let long = Heard::Ended(Duration::from_mins(1));
    check(
        &[listed.clone(), long.clone()],
        Replicas::Are(3),
        None,
        watch("7"),
        0,
    );
    // A watch that ends at once must not be repeated in a tight loop.
    let short = Heard::Ended(Duration::from_millis(1));
    check(
        &[listed.clone(), short.clone(), short],
        Replicas::Are(3),
        None,
        watch("7"),
        2,
    );
    let failed = Heard::Failed(unreachable());
    let so_far = [listed, failed.clone(), failed];
    check(
        &so_far,
        Replicas::Are(3),
        Some(unreachable()),
        watch("7"),
        2,
    );
    let again = |heard| [so_far.as_slice(), &[heard]].concat();
    check(
        &again(Heard::Bookmark(version("8"))),
        Replicas::Are(3),
        None,
        watch("8"),
        0,
    );
    check(&again(long), Replicas::Are(3), None, watch("7"), 0);
}

#[test]
fn a_version_that_is_forgotten_means_a_list_and_not_in_a_circle() {
    let listed = Heard::Listed(version("7"), Some(seen(3)));
    check(
        &[listed.clone(), Heard::Gone],
        Replicas::Are(3),
        None,
        Ask::List,
        1,
    );
    let circle = [
        listed.clone(),
        Heard::Gone,
        listed.clone(),
        Heard::Gone,
        listed,
    ];
    check(&circle, Replicas::Are(3), None, watch("7"), 2);
}

#[test]
fn all_is_listed_again_where_a_version_may_be_wrong_and_every_so_often() {
    let listed = Heard::Listed(version("7"), Some(seen(3)));
    let problem = Problem::Refused {
        code: 504,
        said: "Too large resource version".to_owned(),
    };
    let refused = [listed.clone(), Heard::Failed(problem.clone())];
    check(&refused, Replicas::Are(3), Some(problem), Ask::List, 1);
    let ended = Heard::Ended(Duration::from_mins(1));
    let mut watched = vec![listed.clone()];
    watched.extend(vec![ended.clone(); 9]);
    check(&watched, Replicas::Are(3), None, watch("7"), 0);
    watched.push(ended.clone());
    check(&watched, Replicas::Are(3), None, Ask::List, 0);
    watched.extend([listed, ended]);
    check(&watched, Replicas::Are(3), None, watch("7"), 0);
}

#[test]
fn what_cannot_be_asked_leaves_the_last_number() {
    let forbidden = Problem::Forbidden {
        said: "no".to_owned(),
        namespace: "shop".to_owned(),
        stateful_set: "kv".to_owned(),
    };
    let listed = Heard::Listed(version("7"), Some(seen(3)));
    for problem in [forbidden.clone(), unreachable(), Problem::Silent(QUICK)] {
        let failed = Heard::Failed(problem.clone());
        check(
            &[listed.clone(), failed],
            Replicas::Are(3),
            Some(problem),
            watch("7"),
            1,
        );
    }
    // Before a number is known, callers do not wait if waiting cannot help.
    let failed = Heard::Failed(forbidden.clone());
    check(&[failed], Replicas::None, Some(forbidden), Ask::List, 1);
    let failed = Heard::Failed(unreachable());
    check(
        &[failed],
        Replicas::NotHeard,
        Some(unreachable()),
        Ask::List,
        1,
    );
}

#[test]
fn a_set_that_is_gone_going_or_scaled_to_nothing_has_no_number() {
    let listed = Heard::Listed(version("7"), Some(seen(3)));
    let deleting = Seen {
        is_deleting: true,
        ..seen(3)
    };
    let changed = |seen| Heard::Changed(version("8"), seen);
    for (heard, problem) in [
        (Heard::Deleted(version("8")), missing()),
        (changed(deleting), Problem::Deleting),
        (changed(seen(0)), Problem::Zero),
        (changed(seen(1025)), Problem::TooMany(1025)),
        (changed(seen(-1)), Problem::TooMany(-1)),
    ] {
        let so_far = [listed.clone(), heard];
        check(
            &so_far,
            Replicas::None,
            Some(problem.clone()),
            watch("8"),
            0,
        );
        // A failure is shown only while it lasts.
        let mut so_far = so_far.to_vec();
        so_far.push(Heard::Failed(unreachable()));
        check(&so_far, Replicas::None, Some(unreachable()), watch("8"), 1);
        so_far.push(Heard::Bookmark(version("9")));
        check(&so_far, Replicas::None, Some(problem), watch("9"), 0);
        so_far.push(Heard::Changed(version("10"), seen(2)));
        check(&so_far, Replicas::Are(2), None, watch("10"), 0);
    }
    check(
        &[Heard::Listed(version("7"), None)],
        Replicas::None,
        Some(missing()),
        watch("7"),
        0,
    );
    check(
        &[changed(seen(1024))],
        Replicas::Are(1024),
        None,
        watch("8"),
        0,
    );
}
