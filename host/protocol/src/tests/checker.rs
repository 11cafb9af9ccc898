//! What the models share.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Mutex;

use stateright::{Checker, HasDiscoveries, Model};

/// Explores a model completely. The number of states must match, because a lower number means that
/// the search no longer covers everything. The search must also still see the events that matter:
/// it puts those that it sees into `found`.
#[track_caller]
pub(super) fn check<M, S>(model: M, found: &Mutex<BTreeSet<S>>, states: usize, seen: &[S])
where
    M: Model<
            State: Debug + Clone + std::hash::Hash + PartialEq + Send + Sync,
            Action: Debug + PartialEq + Clone + Send + Sync,
        > + Send
        + Sync
        + 'static,
    S: Ord + Debug,
{
    let checker = model.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    let found = found.lock().expect("no holder panics");
    let missing: BTreeSet<_> = seen.iter().filter(|seen| !found.contains(seen)).collect();
    assert!(
        missing.is_empty(),
        "these states were never reached: {missing:?}"
    );
    assert_eq!(checker.unique_state_count(), states);
    println!("{states} states, all of them good");
}

/// Checks that a deliberate mistake, which the model makes, breaks this property.
#[track_caller]
pub(super) fn finds<M>(model: M, mistake: impl Debug, broken: &'static str)
where
    M: Model<
            State: Debug + Clone + std::hash::Hash + PartialEq + Send + Sync,
            Action: Debug + PartialEq + Clone + Send + Sync,
        > + Send
        + Sync
        + 'static,
{
    let any_of = HasDiscoveries::AnyOf(BTreeSet::from([broken]).into_iter().collect());
    let checker = model
        .checker()
        .threads(2)
        .finish_when(any_of)
        .spawn_bfs()
        .join();
    assert!(
        checker.discovery(broken).is_some(),
        "{mistake:?} is not found"
    );
    println!(
        "{mistake:?}: {broken} is violated after {} states",
        checker.unique_state_count()
    );
}

/// Lets all actions happen that go on by themselves, until nothing more changes. Returns `None` if
/// that does not happen.
pub(super) fn settle<W: Clone, A>(
    world: &W,
    actions: impl Fn(&W) -> Vec<A>,
    after: impl Fn(&W, A) -> Option<W>,
) -> Option<W> {
    let mut world = world.clone();
    for _ in 0..100 {
        let mut changed = false;
        for action in actions(&world) {
            if let Some(next) = after(&world, action) {
                world = next;
                changed = true;
            }
        }
        if !changed {
            return Some(world);
        }
    }
    None
}
