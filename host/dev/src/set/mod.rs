//! Decides the next step of a StatefulSet: a pure function of the wanted and the current state.
//!
//! Pods are created in order, each only when those before it are ready, and removed in reverse
//! order. The number of shards over which the data is distributed follows: when scaling up, it
//! changes once all new Pods are ready; when scaling down, it changes first, and a Pod goes only
//! when it holds no more data. No step waits for a command to be done: if the wanted state changes
//! meanwhile, [`Set::next`] leads to it from the current state.
//!
//! If the shards learn the number by themselves ([`Numbers::Heard`]), the set behaves as in
//! Kubernetes: Pods come and go as wanted, whatever data they hold.

use std::collections::BTreeMap;

use super::observation::Topology;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Create a Pod and start its process.
    Create(u32),
    /// End a Pod: SIGTERM, and SIGKILL after the grace period.
    End(u32),
    /// Set the number of shards in the ConfigMap.
    Publish(u32),
}

/// How the shards learn their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numbers {
    /// From `cluster.shards` in the ConfigMap, which the controller sets.
    #[default]
    Published,
    /// From an API server. A surplus Pod is ended at once.
    Heard,
}

/// The state of a Pod's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is no process now; it is restarted independently of other Pods.
    Down,
    /// The process runs, and is not ready.
    Running,
    Ready,
    /// The process was told to end for good.
    Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) phase: Phase,
    revision: u64,
}

/// A StatefulSet, with the setting for the number of shards.
#[derive(Clone, Debug)]
pub(super) struct Set {
    numbers: Numbers,
    wanted: u32,
    published: u32,
    /// Shards from this ordinal on are known to be empty.
    spread: u32,
    /// Whether the coordinator reported that the data is distributed as published.
    confirmed: bool,
    revision: u64,
    ending: bool,
    pods: BTreeMap<u32, Pod>,
}

impl Set {
    /// A set without Pods. Its data, if there is any, is distributed over `spread` shards.
    pub(super) fn new(numbers: Numbers, wanted: u32, spread: Option<u32>) -> Self {
        let spread = spread.unwrap_or(wanted);
        let published = match numbers {
            Numbers::Published => wanted.min(spread),
            Numbers::Heard => wanted,
        };
        Self {
            numbers,
            wanted,
            published,
            spread,
            confirmed: false,
            revision: 0,
            ending: false,
            pods: BTreeMap::new(),
        }
    }

    pub(super) fn scale(&mut self, wanted: u32) {
        self.wanted = wanted;
        if self.numbers == Numbers::Heard && self.published != wanted {
            self.published = wanted;
            self.confirmed = false;
        }
    }

    /// Replaces each Pod by a new one, in reverse order.
    pub(super) fn restart(&mut self) {
        self.revision += 1;
    }

    pub(super) fn end(&mut self) {
        self.ending = true;
    }

    pub(super) fn wanted(&self) -> u32 {
        self.wanted
    }

    pub(super) fn published(&self) -> u32 {
        self.published
    }

    pub(super) fn spread(&self) -> u32 {
        self.spread
    }

    pub(super) fn pod(&self, ordinal: u32) -> Option<Pod> {
        self.pods.get(&ordinal).copied()
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending
    }

    /// Whether the set was told to end and has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.ending && self.pods.is_empty()
    }

    /// Sets the state of a Pod's process. A Pod that is ending for good stays so.
    pub(super) fn is_now(&mut self, ordinal: u32, phase: Phase) {
        if let Some(pod) = self.pods.get_mut(&ordinal)
            && pod.phase != Phase::Ending
        {
            pod.phase = phase;
        }
    }

    /// Removes a Pod that has ended.
    pub(super) fn is_gone(&mut self, ordinal: u32) {
        self.pods.remove(&ordinal);
    }

    /// Takes the coordinator's report on the topology. `current` means that the published settings
    /// are in force.
    pub(super) fn observe(&mut self, topology: &Topology, current: bool) {
        let all = topology.shards.max(topology.shards_before);
        self.confirmed = current && topology.stable && topology.shards == self.published;
        if self.confirmed {
            self.spread = self.published;
        } else {
            // A change that is no longer wanted is still completed, and needs all its shards.
            self.spread = self.spread.max(all);
        }
    }

    /// Notes that the topology is unknown now.
    pub(super) fn unobserved(&mut self) {
        self.confirmed = false;
    }

    pub(super) fn is_settled(&self) -> bool {
        let all_ready = self
            .pods
            .values()
            .all(|pod| pod.phase == Phase::Ready && pod.revision == self.revision);
        !self.ending
            && self.confirmed
            && self.published == self.wanted
            && all_ready
            && self.pods.keys().copied().eq(0..self.wanted)
    }

    /// The next step, which counts as taken. `None` means that nothing is to be done until
    /// something changes.
    pub(super) fn next(&mut self) -> Option<Act> {
        let act = self.choose()?;
        match act {
            Act::Create(ordinal) => {
                let pod = Pod {
                    phase: Phase::Running,
                    revision: self.revision,
                };
                self.pods.insert(ordinal, pod);
            }
            Act::End(ordinal) => {
                let pod = self
                    .pods
                    .get_mut(&ordinal)
                    .expect("the step was chosen for an existing Pod");
                pod.phase = Phase::Ending;
            }
            Act::Publish(shards) => {
                self.published = shards;
                self.spread = self.spread.max(shards);
                self.confirmed = false;
            }
        }
        Some(act)
    }

    fn choose(&self) -> Option<Act> {
        let is_ending = self.pods.values().any(|pod| pod.phase == Phase::Ending);
        let last = self.pods.last_key_value().map(|(&ordinal, _)| ordinal);
        if self.ending {
            return last.filter(|_| !is_ending).map(Act::End);
        }
        if self.wanted < self.published {
            return Some(Act::Publish(self.wanted));
        }
        let replicas = match self.numbers {
            Numbers::Published => self.wanted.max(self.spread),
            Numbers::Heard => self.wanted,
        };
        for ordinal in 0..replicas {
            match self.pods.get(&ordinal) {
                None if is_ending => return None,
                None => return Some(Act::Create(ordinal)),
                Some(pod) if pod.phase == Phase::Ready => {}
                // A broken Pod does not delay its own replacement.
                Some(pod) if pod.revision < self.revision && !is_ending => {
                    return Some(Act::End(ordinal));
                }
                Some(_) => return None,
            }
        }
        if self.wanted > self.published {
            return Some(Act::Publish(self.wanted));
        }
        if is_ending {
            return None;
        }
        let condemned = last.filter(|&ordinal| ordinal >= replicas);
        let old = self
            .pods
            .iter()
            .rev()
            .find(|(_, pod)| pod.revision < self.revision);
        let old = old.map(|(&ordinal, _)| ordinal);
        condemned.into_iter().chain(old).next().map(Act::End)
    }
}

#[cfg(test)]
mod tests;
