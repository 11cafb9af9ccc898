//! What a StatefulSet does next: a pure function of what is wanted and what is there.
//!
//! Pods are made in order, each only when those before it are ready, and go in reverse order. The
//! number of shards that the data is spread over follows: up when all new Pods are ready, down
//! first, and Pods go only when nothing is left in them. Nothing here waits for a command to be
//! done: whatever is wanted meanwhile, [`Set::next`] leads there from where things are.
//!
//! Where the shards hear of the number by themselves ([`Numbers::Heard`]), it is as in Kubernetes:
//! Pods come and go as wanted, whatever is in them.

use std::collections::BTreeMap;

use super::observation::Topology;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Make a Pod and start its process.
    Create(u32),
    /// End a Pod: SIGTERM, and SIGKILL after the grace.
    End(u32),
    /// Set the number of shards in the ConfigMap.
    Publish(u32),
}

/// How the shards learn how many they are to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numbers {
    /// By `cluster.shards` in the ConfigMap, which the controller sets.
    #[default]
    Published,
    /// From an API server. A Pod that is one too many is ended at once.
    Heard,
}

/// How a Pod's process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has none just now: it is started again by itself, whatever the others do.
    Down,
    /// It runs, and is not ready.
    Running,
    /// It is ready.
    Ready,
    /// It was told to end for good.
    Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) phase: Phase,
    revision: u64,
}

/// A StatefulSet with the setting for the number of shards.
#[derive(Clone, Debug)]
pub(super) struct Set {
    numbers: Numbers,
    wanted: u32,
    published: u32,
    /// Shards from this ordinal on are known to be empty.
    spread: u32,
    /// The coordinator was seen to have everything as published.
    confirmed: bool,
    revision: u64,
    ending: bool,
    pods: BTreeMap<u32, Pod>,
}

impl Set {
    /// A set without Pods, whose data is spread over `spread` shards, if there is any.
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

    /// Whether the set was told to end and has.
    pub(super) fn has_ended(&self) -> bool {
        self.ending && self.pods.is_empty()
    }

    /// A Pod's process changed. One that ends for good goes on ending.
    pub(super) fn is_now(&mut self, ordinal: u32, phase: Phase) {
        if let Some(pod) = self.pods.get_mut(&ordinal)
            && pod.phase != Phase::Ending
        {
            pod.phase = phase;
        }
    }

    /// A Pod that was told to end has.
    pub(super) fn is_gone(&mut self, ordinal: u32) {
        self.pods.remove(&ordinal);
    }

    /// What the coordinator says of the topology; `current`: with the published settings in force.
    pub(super) fn observe(&mut self, topology: &Topology, current: bool) {
        let all = topology.shards.max(topology.shards_before);
        self.confirmed = current && topology.stable && topology.shards == self.published;
        if self.confirmed {
            self.spread = self.published;
        } else {
            // A change that nobody wants any more is still carried through, with all it needs.
            self.spread = self.spread.max(all);
        }
    }

    /// Nothing is known of the topology just now.
    pub(super) fn unobserved(&mut self) {
        self.confirmed = false;
    }

    /// Whether all is as wanted.
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

    /// The next step, which is taken as done; none: there is nothing to do until something changes.
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
                let pod = self.pods.get_mut(&ordinal).expect("it was chosen");
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
                // A broken Pod does not hold up its own replacement.
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
