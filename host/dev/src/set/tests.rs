use super::*;

/// Takes the set's steps until there are none, up to a bound, and returns them.
fn run(set: &mut Set) -> Vec<Act> {
    let mut acts = Vec::new();
    loop {
        while let Some(act) = set.next() {
            acts.push(act);
            match act {
                Act::Create(ordinal) => set.is_now(ordinal, Phase::Ready),
                Act::End(ordinal) => set.is_gone(ordinal),
                Act::Publish(_) => {}
            }
            assert!(acts.len() < 100, "{acts:?}");
        }
        if set.is_settled() || set.is_ending() {
            return acts;
        }
        set.observe(&stable(set.published()), true);
        if set.is_settled() {
            return acts;
        }
    }
}

fn stable(shards: u32) -> Topology {
    Topology {
        shards,
        shards_before: shards,
        stable: true,
        ..Topology::default()
    }
}

fn moving(before: u32, shards: u32) -> Topology {
    Topology {
        shards,
        shards_before: before,
        stable: false,
        ..Topology::default()
    }
}

fn settled(shards: u32) -> Set {
    let mut set = Set::new(Numbers::Published, shards, None);
    run(&mut set);
    assert!(set.is_settled());
    set
}

#[test]
fn each_pod_is_made_when_the_one_before_is_ready() {
    let mut set = Set::new(Numbers::Published, 3, None);
    for ordinal in 0..3 {
        assert_eq!(set.next(), Some(Act::Create(ordinal)));
        assert_eq!(set.next(), None);
        set.is_now(ordinal, Phase::Ready);
    }
    assert_eq!(set.next(), None);
    assert!(!set.is_settled(), "nothing is known of the topology");
    set.observe(&stable(3), false);
    assert!(!set.is_settled(), "the settings are not in force");
    set.observe(&stable(3), true);
    assert!(set.is_settled());
}

#[test]
fn more_shards_are_published_when_all_their_pods_are_ready() {
    let mut set = settled(1);
    set.scale(3);
    assert_eq!(
        run(&mut set),
        [Act::Create(1), Act::Create(2), Act::Publish(3)]
    );
}

#[test]
fn pods_go_in_reverse_order_and_only_when_their_shards_are_empty() {
    let mut set = settled(4);
    set.scale(2);
    assert_eq!(set.next(), Some(Act::Publish(2)));
    for seen in [stable(4), moving(4, 2)] {
        set.observe(&seen, true);
        assert_eq!(set.next(), None);
    }
    set.observe(&stable(2), false);
    assert_eq!(set.next(), None, "the status is from before the settings");
    set.observe(&stable(2), true);
    assert_eq!(set.next(), Some(Act::End(3)));
    assert_eq!(set.next(), None);
    set.is_gone(3);
    assert_eq!(run(&mut set), [Act::End(2)]);
}

#[test]
fn a_change_of_mind_leads_from_where_things_are() {
    let mut set = settled(3);
    set.scale(5);
    assert_eq!(set.next(), Some(Act::Create(3)));
    set.scale(3);
    assert_eq!(set.next(), Some(Act::End(3)), "shard 3 has never had data");
    set.is_gone(3);
    assert!(set.is_settled());

    set.scale(5);
    assert_eq!(
        run(&mut set),
        [Act::Create(3), Act::Create(4), Act::Publish(5)]
    );
    set.scale(2);
    assert_eq!(set.next(), Some(Act::Publish(2)));
    set.observe(&moving(3, 5), true);
    set.scale(4);
    assert_eq!(run(&mut set), [Act::Publish(4), Act::End(4)]);
}

/// A coordinator that has accepted a number of shards needs them, even if that number was wanted
/// only for a moment.
#[test]
fn shards_that_a_change_needs_are_made_again() {
    let mut set = settled(2);
    set.observe(&moving(2, 3), true);
    assert_eq!(set.next(), Some(Act::Create(2)));
    set.is_now(2, Phase::Ready);
    assert_eq!(run(&mut set), [Act::End(2)]);
}

#[test]
fn data_in_more_shards_than_wanted_is_fetched_from_them_first() {
    let mut set = Set::new(Numbers::Published, 2, Some(3));
    let creates = [0, 1, 2].map(Act::Create);
    assert_eq!(set.published(), 2);
    assert_eq!(run(&mut set), [&creates[..], &[Act::End(2)]].concat());

    let mut set = Set::new(Numbers::Published, 3, Some(2));
    assert_eq!(
        set.published(),
        2,
        "the number must stay until there are three shards"
    );
    assert_eq!(run(&mut set), [&creates[..], &[Act::Publish(3)]].concat());
}

#[test]
fn a_restart_replaces_pods_in_reverse_order_and_waits_for_each() {
    let mut set = settled(2);
    set.restart();
    assert!(!set.is_settled());
    assert_eq!(set.next(), Some(Act::End(1)));
    assert_eq!(set.next(), None);
    set.is_gone(1);
    assert_eq!(set.next(), Some(Act::Create(1)));
    assert_eq!(set.next(), None);
    set.is_now(1, Phase::Ready);
    assert_eq!(run(&mut set), [Act::End(0), Act::Create(0)]);
}

#[test]
fn a_pod_that_is_not_ready_holds_up_restarts_but_not_its_own() {
    let mut set = settled(3);
    set.is_now(1, Phase::Down);
    set.restart();
    assert_eq!(set.next(), Some(Act::End(1)));
    set.is_gone(1);
    assert_eq!(set.next(), Some(Act::Create(1)));
    assert_eq!(set.next(), None);
}

#[test]
fn a_process_that_dies_is_left_to_be_started_again() {
    let mut set = settled(3);
    set.is_now(0, Phase::Down);
    assert!(!set.is_settled());
    assert_eq!(set.next(), None);
}

#[test]
fn an_end_takes_all_pods_in_reverse_order_whatever_they_do() {
    let mut set = settled(3);
    set.scale(4);
    assert_eq!(set.next(), Some(Act::Create(3)));
    set.is_now(1, Phase::Down);
    set.end();
    assert_eq!(set.next(), Some(Act::End(3)));
    set.is_now(3, Phase::Ready);
    assert_eq!(set.next(), None, "the shard must still end");
    set.is_gone(3);
    assert_eq!(run(&mut set), [Act::End(2), Act::End(1), Act::End(0)]);
    assert!(set.has_ended());
}

#[test]
fn pods_go_at_once_where_the_shards_hear_of_the_number_by_themselves() {
    let mut set = Set::new(Numbers::Heard, 3, None);
    let made = [0, 1, 2].map(Act::Create);
    assert_eq!(run(&mut set), made);
    set.scale(5);
    assert!(!set.is_settled(), "the coordinator has not confirmed yet");
    assert_eq!(run(&mut set), [3, 4].map(Act::Create));
    set.observe(&stable(5), true);
    assert!(set.is_settled());

    // The shards' contents are unknown, and they still leave one after another.
    set.scale(3);
    assert_eq!(set.next(), Some(Act::End(4)));
    assert_eq!(set.next(), None);
    set.is_gone(4);
    set.observe(&moving(5, 3), true);
    assert_eq!(set.next(), Some(Act::End(3)));
    set.is_gone(3);
    assert!(!set.is_settled());
    set.observe(&stable(3), true);
    assert!(set.is_settled());

    // A start does not depend on data in further shards either.
    let mut set = Set::new(Numbers::Heard, 2, Some(5));
    assert_eq!(run(&mut set), [0, 1].map(Act::Create));
}
