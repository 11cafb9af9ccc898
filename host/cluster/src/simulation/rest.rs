//! Whether a world is at rest, and whether all partitions are at their owners then.

use std::collections::BTreeMap;

use ostrakon_protocol::Shard;
use ostrakon_store::unbounded;

use super::history::KEYS;
use super::witness::saw;
use super::world::World;

impl World<'_> {
    /// Why the world is not at rest, if it is not.
    pub(super) fn unrest(&self) -> Option<String> {
        let wanted = self.asked_for().placement();
        let mut epochs = BTreeMap::new();
        for host in &self.hosts {
            let shard = host.shard;
            let Some(process) = host.process.as_ref().filter(|_| !host.is_stopping) else {
                return Some(format!("shard {shard} does not run"));
            };
            if process.live() != Some(wanted.owner) {
                return Some(format!("shard {shard} has not swapped"));
            }
            let membership = process.membership();
            let Some(plan) = membership.as_ref().and_then(Shard::plan) else {
                return Some(format!("shard {shard} has no plan"));
            };
            if !plan.is_stable() || !plan.to.places_as(&wanted) {
                return Some(format!("shard {shard} goes by {plan:?}"));
            }
            epochs.insert(plan.epoch, shard);
        }
        (epochs.len() > 1).then(|| format!("not all go by one plan: {epochs:?}"))
    }

    /// Checks that each partition is in its owner's store and in no other.
    pub(super) fn check_places(&self) -> Result<(), String> {
        if self.plan().is_some_and(|plan| plan.epoch.0 > 1) {
            saw("a change was made");
        }
        let generation = self.asked_for();
        let mut seen = BTreeMap::new();
        for host in &self.hosts {
            let process = host.process.as_ref().ok_or("a shard does not run")?;
            let view = process.writer.views().get().ok_or("a shard has no view")?;
            let page = view
                .snapshot
                .partitions(None, None, 10 * KEYS, &mut unbounded);
            let page = page.map_err(|error| error.to_string())?;
            for partition in page.entries {
                let (name, owner) = (
                    String::from_utf8_lossy(&partition).into_owned(),
                    generation.owner(&partition),
                );
                if owner != host.shard {
                    return Err(format!(
                        "{name} is on shard {}, but belongs to shard {owner}",
                        host.shard
                    ));
                }
                if let Some(other) = seen.insert(name.clone(), host.shard) {
                    return Err(format!(
                        "{name} is on shard {other} and on shard {}",
                        host.shard
                    ));
                }
            }
        }
        Ok(())
    }
}
