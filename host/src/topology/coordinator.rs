//! What the coordinator decides: when a change begins, and when it has ended.

use std::collections::BTreeSet;

use super::plan::{Epoch, Ordinal, Placement, Plan};

/// The coordinator's decisions. The plan in force is persisted, as each shard
/// persists it; who is done is not: sources say so again and again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Coordinator {
    /// Where partitions are to be, by what is live now; none: not known yet.
    desired: Option<Placement>,
    /// The sources that are done with the plan of this epoch.
    done: (Epoch, BTreeSet<Ordinal>),
}

impl Coordinator {
    /// Where partitions are to be from now on. While a change is under way this
    /// is the next one; only the last that is asked for meanwhile counts.
    pub fn desire(&mut self, placement: Placement) {
        self.desired = Some(placement);
    }

    /// Where partitions are to be.
    pub fn desired(&self) -> Option<&Placement> {
        self.desired.as_ref()
    }

    /// A source has given away all that it had to under the plan of `epoch`.
    pub fn done(&mut self, source: Ordinal, epoch: Epoch) {
        if epoch > self.done.0 {
            self.done = (epoch, BTreeSet::new());
        }
        if epoch == self.done.0 {
            self.done.1.insert(source);
        }
    }

    /// The sources that are not known to be done with a plan.
    pub fn undone(&self, plan: &Plan) -> Vec<Ordinal> {
        let is_done = |source: &Ordinal| self.done.0 == plan.epoch && self.done.1.contains(source);
        (0..plan.from.shards)
            .map(Ordinal)
            .filter(|source| plan.is_source(*source) && !is_done(source))
            .collect()
    }

    /// The plan to put in this one's place; none while this one is to stay. It
    /// is in force once the coordinator has persisted it, not before.
    pub fn next(&self, plan: &Plan) -> Option<Plan> {
        let epoch = Epoch(plan.epoch.0 + 1);
        if !plan.is_stable() {
            let to = &plan.to;
            return self.undone(plan).is_empty().then(|| Plan {
                epoch,
                from: to.clone(),
                to: to.clone(),
            });
        }
        let desired = self.desired.as_ref()?;
        (!desired.places_as(&plan.to)).then(|| Plan {
            epoch,
            from: plan.to.clone(),
            to: desired.clone(),
        })
    }
}
