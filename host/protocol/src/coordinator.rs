//! The coordinator's decisions: when a change begins, and when it has ended.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::{ClusterId, Epoch, Ordinal, Placement, Plan};

/// The coordinator's state. The plan in force is persisted, as in each shard. Which shards are
/// done, and which plan each shard follows, is not persisted: shards report both repeatedly.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Coordinator {
    /// The placement that the live settings and guest ask for; none if not known yet.
    desired: Option<Placement>,
    /// The sources that are done with the plan of this epoch.
    done: (Epoch, BTreeSet<Ordinal>),
    /// The plan that each other shard follows, as far as it was asked.
    goes_by: BTreeMap<Ordinal, Option<Plan>>,
}

impl Coordinator {
    /// Sets the wanted placement. If a change is under way, this placement is used for the next
    /// one; only the last placement set in the meantime counts.
    pub fn desire(&mut self, placement: Placement) {
        self.desired = Some(placement);
    }

    /// The placement set last; `None` if none was set yet.
    pub fn desired(&self) -> Option<&Placement> {
        self.desired.as_ref()
    }

    /// Records that a source has given away everything it had to under the plan of `epoch`.
    pub fn done(&mut self, source: Ordinal, epoch: Epoch) {
        if epoch > self.done.0 {
            self.done = (epoch, BTreeSet::new());
        }
        if epoch == self.done.0 {
            self.done.1.insert(source);
        }
    }

    /// The sources that have not reported that they are done with a plan.
    pub fn undone(&self, plan: &Plan) -> Vec<Ordinal> {
        let is_done = |source: &Ordinal| self.done.0 == plan.epoch && self.done.1.contains(source);
        (0..plan.from.shards)
            .map(Ordinal)
            .filter(|source| plan.is_source(*source) && !is_done(source))
            .collect()
    }

    /// Records a shard's answer to this process: the plan that it follows, or none if it knows of
    /// none.
    pub fn goes_by(&mut self, shard: Ordinal, plan: Option<Plan>) {
        self.goes_by.insert(shard, plan);
    }

    /// Whether a shard has told this process that it follows a plan.
    pub fn is_by(&self, shard: Ordinal, plan: &Plan) -> bool {
        let said = self.goes_by.get(&shard);
        said.is_some_and(|said| said.as_ref() == Some(plan))
    }

    /// The number of shards to ask if the coordinator knows no plan.
    pub fn to_ask(&self) -> u32 {
        let desired = self.desired.as_ref().map_or(1, |desired| desired.shards);
        let known = self.newest().map_or(1, Plan::shards);
        desired.max(known)
    }

    /// The plan to begin with if the coordinator knows none: the newest plan that others know or,
    /// if they know none, the first plan. None until every other shard has answered: this disk
    /// may be new while theirs are not, and under an older plan this shard would answer for
    /// partitions of others. `alone` says that the shard has data from running as a single shard.
    pub fn begin(&self, cluster: ClusterId, alone: bool) -> Option<Plan> {
        let desired = self.desired.as_ref()?;
        let has_said = |shard: u32| self.goes_by.contains_key(&Ordinal(shard));
        let first = || Plan::first(cluster, desired.clone(), alone);
        let newest = self.newest().cloned();
        (1..self.to_ask())
            .all(has_said)
            .then(|| newest.unwrap_or_else(first))
    }

    fn newest(&self) -> Option<&Plan> {
        let known = self.goes_by.values().flatten();
        known.max_by_key(|plan| plan.epoch)
    }

    /// The plan to replace this one; none while this one stays. It is in force only once the
    /// coordinator has persisted it.
    ///
    /// A change begins only when all shards that it concerns have said that they follow this
    /// plan. Then no newer plan exists, since only the coordinator makes plans. A coordinator
    /// with an older disk notices it this way, and never makes a second plan of an epoch.
    pub fn next(&self, plan: &Plan) -> Option<Plan> {
        if !plan.is_stable() {
            return self.undone(plan).is_empty().then(|| plan.ended());
        }
        let change = self.change(plan)?;
        let mut others = (1..change.shards()).map(Ordinal);
        others
            .all(|shard| self.is_by(shard, plan))
            .then_some(change)
    }

    /// The change that comes after this plan, once all shards follow it.
    pub fn change(&self, plan: &Plan) -> Option<Plan> {
        let desired = self.desired.as_ref()?;
        let is_change = plan.is_stable() && !desired.places_as(&plan.to);
        is_change.then(|| plan.then(desired))
    }
}

#[cfg(test)]
mod tests {
    use ostrakon_base::digest::Digest;

    use super::*;

    const ID: ClusterId = ClusterId(7);

    fn placement(shards: u32) -> Placement {
        Placement {
            shards,
            owner: Digest::of(b"guest"),
            sharding: 1,
        }
    }

    #[test]
    fn a_coordinator_that_knows_no_plan_begins_with_the_newest_of_all_or_the_first() {
        let mut coordinator = Coordinator::default();
        let begin = |coordinator: &Coordinator| coordinator.begin(ID, false);
        assert_eq!(begin(&coordinator), None);
        coordinator.desire(placement(3));
        coordinator.goes_by(Ordinal(1), None);
        assert_eq!(begin(&coordinator), None);
        coordinator.goes_by(Ordinal(2), None);
        let first = Plan::first(ID, placement(3), false);
        assert_eq!(begin(&coordinator), Some(first.clone()));

        // What others know counts, even if they are more shards than are wanted.
        let newer = first.then(&placement(4));
        coordinator.goes_by(Ordinal(1), Some(newer.clone()));
        coordinator.goes_by(Ordinal(2), Some(first));
        assert_eq!((begin(&coordinator), coordinator.to_ask()), (None, 4));
        coordinator.goes_by(Ordinal(3), None);
        assert_eq!(begin(&coordinator), Some(newer));
    }

    #[test]
    fn what_a_shard_has_from_a_time_alone_moves_by_the_first_plan() {
        let mut coordinator = Coordinator::default();
        coordinator.desire(placement(2));
        coordinator.goes_by(Ordinal(1), None);
        let first = coordinator.begin(ID, true).expect("all have said");
        assert_eq!((first.from.shards, first.to.shards), (1, 2));
        assert_eq!(first.epoch, Epoch(1));
    }

    #[test]
    fn a_change_begins_when_all_that_it_is_about_go_by_the_plan() {
        let plan = Plan::first(ID, placement(2), false);
        let mut coordinator = Coordinator::default();
        coordinator.desire(placement(2));
        assert_eq!(coordinator.change(&plan), None);
        coordinator.desire(placement(3));
        let change = plan.then(&placement(3));
        assert_eq!(coordinator.change(&plan), Some(change.clone()));
        coordinator.goes_by(Ordinal(1), Some(plan.clone()));
        for other in [None, Some(change.clone())] {
            coordinator.goes_by(Ordinal(2), other);
            assert_eq!(coordinator.next(&plan), None);
        }
        coordinator.goes_by(Ordinal(2), Some(plan.clone()));
        assert_eq!(coordinator.next(&plan), Some(change.clone()));

        // It ends when its sources are done, whether or not other shards can be asked.
        coordinator.done(Ordinal(0), change.epoch);
        assert_eq!(coordinator.next(&change), None);
        coordinator.done(Ordinal(1), change.epoch);
        assert_eq!(coordinator.next(&change), Some(change.ended()));
        assert!(change.ended().is_stable());
    }
}
