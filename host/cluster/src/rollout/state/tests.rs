use bytes::Bytes;
use ostrakon_protocol::{ClusterId, Next};
use ostrakon_shard::swap::Refusal;

use super::*;

const CLUSTER: ClusterId = ClusterId(7);
const ME: (ClusterId, Incarnation) = (CLUSTER, Incarnation(1));
const WAIT: Duration = Duration::from_secs(10);

fn files(name: &str) -> Files {
    Files::new(BTreeMap::from([(name.to_owned(), Bytes::new())]))
}

fn released(number: u64, name: &str) -> Release {
    let before = number - 1;
    Release::first(CLUSTER, Incarnation(1), before, files(name).digest())
}

/// Shard 0 of two, which serves `one` by its first release and has asked the other.
fn coordinator() -> State {
    let first = released(1, "one");
    let mut state = State::new(Ordinal(0), Some(first), 1, true);
    state.answers(Ordinal(1), ME.1, Some(first), None);
    state.others_were_asked(2, WAIT);
    state.is_live(first.live, Some(first));
    state
}

fn next(state: &mut State) -> Next {
    state.next(ME, 2)
}

/// Content in an attempt of shard 0's process.
fn candidate(name: &str, attempt: u64) -> Candidate {
    Candidate {
        digest: files(name).digest(),
        by: ME.1,
        attempt: Attempt(attempt),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "as it is compared")]
fn says(name: &str, attempt: u64, says: Says) -> Option<Said> {
    Some(Said {
        candidate: candidate(name, attempt),
        says,
        step: Some("check".to_owned()),
        reason: Some("no".to_owned()),
    })
}

/// Shard 0 has prepared this content.
fn prepared(state: &mut State, name: &str) {
    state.begins(&files(name));
    state.is_prepared(files(name).digest(), Way::default());
}

/// Shard 1 answers.
fn answers(state: &mut State, said: Option<Said>) {
    state.answers(Ordinal(1), ME.1, state.known(), said);
}

/// All have prepared `two`, and shard 0 is about to store this release.
fn going(state: &mut State) -> Release {
    prepared(state, "two");
    answers(state, says("two", 1, Says::Prepared));
    let Next::GoLive(release) = next(state) else {
        panic!("all are prepared");
    };
    assert!(state.goes_live(release));
    release
}

fn goes_live(state: &State, name: &str) -> Option<Release> {
    match state.decided(files(name).digest()) {
        Some(Decided::GoLive(Some(release))) => Some(release),
        other => {
            assert!(other.is_none(), "{other:?}");
            None
        }
    }
}

#[test]
fn content_goes_live_when_all_have_prepared_it() {
    let mut state = coordinator();
    assert_eq!(next(&mut state), Next::Nothing);
    prepared(&mut state, "two");
    assert!(matches!(next(&mut state), Next::Ask(_, _, silent) if silent == [Ordinal(1)]));
    assert_eq!(goes_live(&state, "two"), None);
    let release = going(&mut state);
    assert_eq!(goes_live(&state, "two"), Some(release));
    state.is_live(release.live, Some(release));
    assert_eq!(state.candidate(), None);
    assert_eq!(next(&mut state), Next::Nothing);
    assert_eq!((release.live.number, state.going()), (2, None));
}

#[test]
fn what_a_shard_says_counts_as_long_as_it_says_so_and_for_one_attempt() {
    let mut state = coordinator();
    prepared(&mut state, "two");
    answers(&mut state, says("two", 1, Says::Prepared));
    // It has started again.
    answers(&mut state, None);
    assert!(matches!(next(&mut state), Next::Ask(..)));
    prepared(&mut state, "three");
    prepared(&mut state, "two");
    for (name, attempt) in [("two", 1), ("three", 2)] {
        answers(&mut state, says(name, attempt, Says::Prepared));
        assert!(matches!(next(&mut state), Next::Ask(..)), "{attempt}");
    }
    answers(&mut state, says("two", 3, Says::Prepared));
    assert!(matches!(next(&mut state), Next::GoLive(_)));
}

#[test]
fn one_refusal_is_all_shards_refusal_until_the_volume_shows_it_again() {
    let mut state = coordinator();
    prepared(&mut state, "two");
    answers(&mut state, says("two", 1, Says::Refused));
    let Next::Refuse(refused) = next(&mut state) else {
        panic!("a shard refuses it");
    };
    state.refuse(refused);
    let Some(Decided::Refused(why)) = state.decided(files("two").digest()) else {
        panic!("it is refused");
    };
    assert_eq!(why.to_string(), "shard 1 refuses it at step check: no");
    assert_eq!((state.candidate(), next(&mut state)), (None, Next::Nothing));
    prepared(&mut state, "two");
    assert!(matches!(next(&mut state), Next::Ask(..)));
}

#[test]
fn content_that_is_given_up_is_not_released() {
    let mut state = coordinator();
    going(&mut state);
    state.gave_up(files("two").digest());
    assert_eq!(state.going(), None);
    assert!(matches!(next(&mut state), Next::Ask(_, _, silent) if silent == [Ordinal(0)]));
}

#[test]
fn a_release_that_may_be_stored_is_made_again_or_not_at_all() {
    for is_stored in [false, true] {
        let mut state = coordinator();
        let release = going(&mut state);
        state.is_uncertain(release);
        prepared(&mut state, "three");
        assert_eq!(next(&mut state), Next::Nothing, "nothing else is released");
        state.is_certain(release, is_stored);
        assert_eq!(state.due(), is_stored.then_some(release));
        if !is_stored {
            assert!(matches!(next(&mut state), Next::Ask(..)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_away_or_fails_for_too_long_is_left_behind() {
    let silent = [Ordinal(1)];
    for said in [None, says("two", 1, Says::Failing)] {
        let mut state = coordinator();
        prepared(&mut state, "two");
        assert!(matches!(next(&mut state), Next::Ask(..)));
        tokio::time::advance(WAIT / 2).await;
        answers(&mut state, said.clone());
        assert!(!state.waits_no_longer(&silent, WAIT));
        tokio::time::advance(WAIT / 2).await;
        // Who answers is waited for, but not if it cannot prepare it.
        assert_eq!(state.waits_no_longer(&silent, WAIT), said.is_some());
        tokio::time::advance(WAIT / 2).await;
        assert!(state.waits_no_longer(&silent, WAIT));
        assert!(matches!(next(&mut state), Next::GoLive(_)));
        let own = [Ordinal(0), Ordinal(1)];
        assert!(
            !state.waits_no_longer(&own, WAIT),
            "what is live anywhere is live here"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_settings_that_are_to_go_live_say_how_long_it_waits_and_a_way_back_waits_for_a_moment()
{
    let silent = [Ordinal(1)];
    let way = || Way {
        wait: Some(2 * WAIT),
        ..Way::default()
    };
    let mut state = coordinator();
    state.volume_shows(files("two").digest());
    state.begins(&files("two"));
    state.is_prepared(files("two").digest(), way());
    assert!(matches!(next(&mut state), Next::Ask(..)));
    tokio::time::advance(WAIT).await;
    assert!(!state.waits_no_longer(&silent, WAIT));
    tokio::time::advance(WAIT).await;
    assert!(state.waits_no_longer(&silent, WAIT));
    let Next::GoLive(second) = next(&mut state) else {
        panic!("the other one is not waited for");
    };
    assert!(state.goes_live(second));
    state.is_live(second.live, Some(second));

    let one = files("one");
    state
        .go_back(one.digest(), None)
        .expect("nothing is under way");
    state.begins(&one);
    state.is_prepared(one.digest(), way());
    assert!(matches!(next(&mut state), Next::Ask(..)));
    tokio::time::advance(BACK / 2).await;
    assert!(!state.waits_no_longer(&silent, WAIT));
    tokio::time::advance(BACK / 2).await;
    assert!(state.waits_no_longer(&silent, WAIT));
    assert!(matches!(next(&mut state), Next::GoLive(_)));
}

#[test]
fn what_the_disk_refuses_for_now_ends_no_way_back() {
    let mut state = coordinator();
    state.volume_shows(files("two").digest());
    let second = going(&mut state);
    state.is_live(second.live, Some(second));
    let one = files("one").digest();
    state.go_back(one, None).expect("nothing is under way");
    let mut refusal = Refusal {
        transient: true,
        ..refusal("one")
    };
    state.refuses(&refusal);
    assert_eq!(
        (state.back().to(), state.back().failed()),
        (Some(one), None)
    );
    refusal.transient = false;
    state.refuses(&refusal);
    assert_eq!(state.back().to(), None);
    assert_eq!(state.back().failed(), Some("no"));
}

#[test]
fn a_start_of_shard_0_serves_the_newest_release_that_the_others_know() {
    let mut state = State::new(Ordinal(0), Some(released(1, "one")), 1, true);
    assert_eq!(state.wanted(), Wanted::Content(files("one").digest(), None));
    prepared(&mut state, "one");
    assert_eq!(goes_live(&state, "one"), None, "it has not asked");
    let newer = released(2, "two");
    state.answers(Ordinal(1), ME.1, Some(newer), None);
    state.others_were_asked(2, WAIT);
    assert_eq!(goes_live(&state, "one"), None);
    assert_eq!(state.wanted(), Wanted::Content(files("two").digest(), None));
    assert_eq!(goes_live(&state, "two"), Some(newer));
    // Nobody has it any longer.
    state.is_lost(files("two").digest());
    assert_ne!(state.wanted(), Wanted::Content(files("two").digest(), None));
}

#[test]
fn a_new_cluster_serves_what_shard_0_shows_before_there_is_a_release() {
    let mut first = State::new(Ordinal(0), None, 0, false);
    assert_eq!(first.wanted(), Wanted::Volume);
    prepared(&mut first, "one");
    let one = files("one").digest();
    assert!(matches!(first.decided(one), Some(Decided::GoLive(None))));
    first.is_live(released(3, "one").live, None);

    assert_eq!(
        first.offer(ME.1).map(|candidate| candidate.digest),
        Some(one)
    );
    let mut other = State::new(Ordinal(1), None, 0, false);
    assert_eq!(
        other.wanted(),
        Wanted::Unknown,
        "its own volume does not count"
    );
    other.coordinator_says(None, Some(candidate("one", 1)), true);
    assert_eq!(
        other.wanted(),
        Wanted::Content(one, Some((ME.1, Attempt(1))))
    );
    other.is_prepared(one, Way::default());
    assert!(matches!(other.decided(one), Some(Decided::GoLive(None))));
    other.is_live(released(1, "one").live, None);

    first.finds_plan();
    first.answers(Ordinal(1), ME.1, None, None);
    first.others_were_asked(2, WAIT);
    let Next::GoLive(release) = next(&mut first) else {
        panic!("the first release needs nobody else");
    };
    assert_eq!(release.live.number, 3, "what is live keeps its number");
}

#[test]
fn other_shards_go_by_what_shard_0_says() {
    let first = released(1, "one");
    let mut state = State::new(Ordinal(1), Some(first), 1, true);
    assert_eq!(goes_live(&state, "one"), None, "it has not asked");
    state.coordinator_says(Some(first), None, true);
    assert_eq!(goes_live(&state, "one"), Some(first));
    state.is_live(first.live, Some(first));
    let two = files("two").digest();
    state.coordinator_says(Some(first), Some(candidate("two", 1)), true);
    assert_eq!(
        state.wanted(),
        Wanted::Content(two, Some((ME.1, Attempt(1))))
    );
    state.is_prepared(two, Way::default());
    assert_eq!(goes_live(&state, "two"), None, "it is not released");
    assert_eq!(
        state.says(false).map(|said| said.says),
        Some(Says::Prepared)
    );
    state.coordinator_says(Some(released(2, "two")), None, true);
    assert_eq!(goes_live(&state, "two"), Some(released(2, "two")));
    // A candidate that is taken back is not wanted any longer.
    state.is_live(released(2, "two").live, Some(released(2, "two")));
    state.coordinator_says(Some(released(2, "two")), None, true);
    assert_eq!(state.wanted(), Wanted::Content(two, None));
}

/// Other content rehearses, if it is to.
#[test]
fn what_is_live_elsewhere_or_gone_back_to_is_not_tried() {
    let [one, two] = ["one", "two"].map(|name| files(name).digest());
    let mut state = coordinator();
    assert!(state.is_to_try(two));
    state.volume_shows(one);
    state.go_back(two, None).expect("nothing is under way");
    assert!(!state.is_to_try(two) && state.is_to_try(one));

    let mut other = State::new(Ordinal(1), Some(released(1, "one")), 1, true);
    other.coordinator_says(Some(released(1, "one")), Some(candidate("two", 1)), true);
    assert!(other.is_to_try(two));
    other.coordinator_goes_back(true);
    assert!(!other.is_to_try(two));
    other.coordinator_says(Some(released(1, "one")), Some(candidate("two", 2)), true);
    assert!(other.is_to_try(two), "shard 0 says so each time");
    other.coordinator_says(Some(released(2, "two")), None, true);
    assert!(!other.is_to_try(two));
}

/// A shard that cannot go over to what is live elsewhere does not hold up what comes after it.
#[tokio::test(start_paused = true)]
async fn a_shard_that_is_behind_is_not_waited_for_without_end() {
    let two = released(2, "two");
    let mut behind = State::new(Ordinal(1), Some(released(1, "one")), 1, true);
    behind.coordinator_says(Some(two), Some(candidate("three", 1)), true);
    let said = behind.says(false).expect("it says why");
    assert_eq!(said.says, Says::Failing);
    assert_eq!(behind.wanted(), Wanted::Content(two.live.digest, None));
    // What it refuses for good does not keep it from what comes next.
    behind.refuses(&refusal("two"));
    behind.coordinator_says(Some(two), Some(candidate("three", 2)), true);
    let three = files("three").digest();
    let wanted = Wanted::Content(three, Some((ME.1, Attempt(2))));
    assert_eq!((behind.wanted(), behind.says(false)), (wanted, None));
    behind.is_prepared(three, Way::default());
    assert_eq!(
        behind.says(false),
        says("three", 2, Says::Prepared).map(|said| Said {
            step: None,
            reason: None,
            ..said
        })
    );
    let mut state = coordinator();
    prepared(&mut state, "three");
    assert!(matches!(next(&mut state), Next::Ask(..)));
    tokio::time::advance(WAIT).await;
    answers(&mut state, Some(said));
    assert!(state.waits_no_longer(&[Ordinal(1)], WAIT));
}

#[test]
fn a_shard_that_drains_says_so() {
    let one = Some(released(1, "one"));
    let mut state = State::new(Ordinal(1), one, 1, true);
    state.coordinator_says(one, None, true);
    state.is_live(released(1, "one").live, one);
    state.coordinator_says(one, Some(candidate("two", 1)), true);
    assert_eq!(state.says(false), None);
    assert_eq!(state.says(true).map(|said| said.says), Some(Says::Failing));
}

/// A new Secret can have the last release refused, and the fix is in the volume.
#[test]
fn what_shard_0_cannot_serve_any_longer_gives_way_to_the_volume() {
    let one = released(1, "one");
    let mut state = State::new(Ordinal(0), Some(one), 1, true);
    state.restores(Some(files("one").digest()));
    state.answers(Ordinal(1), ME.1, Some(one), None);
    state.others_were_asked(2, WAIT);
    assert_eq!(state.wanted(), Wanted::Content(files("one").digest(), None));
    state.refuses(&refusal("one"));
    assert_eq!(state.wanted(), Wanted::Volume);

    // Also if it serves something else already, and hears of it late.
    let mut state = coordinator();
    state.answers(Ordinal(1), ME.1, Some(released(2, "two")), None);
    assert_eq!(state.wanted(), Wanted::Content(files("two").digest(), None));
    state.refuses(&refusal("two"));
    assert_eq!(state.wanted(), Wanted::Volume);
    prepared(&mut state, "three");
    assert!(matches!(next(&mut state), Next::Ask(..)));
}

#[test]
fn what_is_taken_back_is_no_candidate_any_longer() {
    let mut state = coordinator();
    prepared(&mut state, "two");
    assert!(state.candidate().is_some());
    state.gave_up(files("two").digest());
    state.shows_live(files("one").digest());
    assert_eq!((state.candidate(), next(&mut state)), (None, Next::Nothing));
}

/// A refusal can come long before shard 0 is prepared itself.
#[test]
fn an_early_refusal_is_not_forgotten() {
    let mut state = coordinator();
    state.begins(&files("two"));
    answers(&mut state, says("two", 1, Says::Refused));
    let Next::Refuse(refused) = next(&mut state) else {
        panic!("a shard refuses it");
    };
    state.refuse(refused);
    answers(&mut state, None);
    state.is_prepared(files("two").digest(), Way::default());
    let decided = state.decided(files("two").digest());
    assert!(matches!(decided, Some(Decided::Refused(_))));
}

#[test]
fn before_there_is_a_release_others_serve_what_serves_in_shard_0() {
    let mut first = State::new(Ordinal(0), None, 0, false);
    first.is_live(released(1, "one").live, None);
    first.begins(&files("two"));
    let offered = first.offer(ME.1).expect("something serves");
    assert_eq!(offered.digest, files("one").digest());
    // A bad candidate does not keep the first release from being made.
    first.refuses(&refusal("two"));
    first.finds_plan();
    first.answers(Ordinal(1), ME.1, None, None);
    first.others_were_asked(2, WAIT);
    assert!(
        matches!(next(&mut first), Next::GoLive(release) if release.live.digest == files("one").digest())
    );
}

fn refusal(name: &str) -> Refusal {
    Refusal {
        digest: Some(files(name).digest()),
        step: Step::Check,
        reason: "no".to_owned(),
        at: 0,
        transient: false,
    }
}

#[test]
fn what_was_refused_counts_for_one_attempt() {
    let one = Some(released(1, "one"));
    let mut state = State::new(Ordinal(1), one, 1, true);
    state.coordinator_says(one, Some(candidate("two", 1)), true);
    state.is_live(released(1, "one").live, one);
    state.refuses(&refusal("two"));
    assert_eq!(state.says(false), says("two", 1, Says::Refused));
    state.coordinator_says(one, Some(candidate("two", 2)), true);
    assert_eq!(state.says(false), None);
}

#[test]
fn beside_a_shard_0_of_an_earlier_version_each_shard_goes_by_its_own_volume() {
    let mut state = State::new(Ordinal(1), None, 3, true);
    state.coordinator_is_old();
    assert_eq!(state.wanted(), Wanted::Volume);
    let one = files("one").digest();
    assert!(matches!(state.decided(one), Some(Decided::GoLive(None))));
}

#[test]
fn what_was_gone_back_from_is_held_in_all_shards_releases() {
    let mut state = coordinator();
    state.volume_shows(files("two").digest());
    let second = going(&mut state);
    assert_eq!(second.held, None);
    state.is_live(second.live, Some(second));
    answers(&mut state, None);
    assert_eq!(state.wanted(), Wanted::Volume);

    let one = files("one").digest();
    state.go_back(one, None).expect("nothing is under way");
    assert_eq!(state.wanted(), Wanted::Content(one, None));
    prepared(&mut state, "one");
    assert!(matches!(next(&mut state), Next::Ask(..)));
    answers(&mut state, says("one", 2, Says::Prepared));
    let Next::GoLive(third) = next(&mut state) else {
        panic!("all are prepared");
    };
    assert_eq!(third.held, Some(files("two").digest()));
    assert!(state.goes_live(third));
    state.is_live(third.live, Some(third));
    assert_eq!((third.live.number, third.live.digest), (3, one));
    // It is held, and nothing is a candidate.
    assert_eq!(state.wanted(), Wanted::Content(one, None));
    assert_eq!(state.standing().held, Some(files("two").digest()));
    state.shows_live(one);
    assert_eq!((next(&mut state), state.candidate()), (Next::Nothing, None));

    // A process with an empty disk hears of it from the others.
    let mut other = State::new(Ordinal(0), None, 0, false);
    other.volume_shows(files("two").digest());
    other.finds_plan();
    other.answers(Ordinal(1), ME.1, Some(third), None);
    other.others_were_asked(2, WAIT);
    assert_eq!(other.wanted(), Wanted::Content(one, None));
    other.is_live(third.live, Some(third));
    assert_eq!(other.wanted(), Wanted::Content(one, None));
    other.volume_shows(files("three").digest());
    assert_eq!(other.wanted(), Wanted::Volume);
}

#[test]
fn a_candidate_from_the_volume_holds_nothing_and_takes_over_from_going_back() {
    let mut state = coordinator();
    state.volume_shows(files("two").digest());
    let second = going(&mut state);
    state.is_live(second.live, Some(second));
    state
        .go_back(files("one").digest(), None)
        .expect("nothing is under way");
    state.volume_shows(files("three").digest());
    assert_eq!(state.wanted(), Wanted::Volume);
    prepared(&mut state, "three");
    answers(&mut state, says("three", 2, Says::Prepared));
    let Next::GoLive(third) = next(&mut state) else {
        panic!("all are prepared");
    };
    assert_eq!(third.held, None);
}
