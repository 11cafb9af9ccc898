//! The script of a seed: requested changes, and faults.

use ostrakon_test_support::random::Random;

use super::ground::MAX_SHARDS;

/// The numbers of shards that are requested, one after another, from a random place on.
const SHARDS: [u32; 6] = [3, 5, 2, 4, 1, 3];
/// When changes and faults begin at the earliest, in milliseconds: most seeds have their first
/// plan by then.
const SETTLED: u64 = 4500;

/// An event of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// A configuration is requested of all volumes: number of shards, and way to place.
    Configure { shards: u32, sharding: usize },
    /// A shard's volume shows a configuration.
    Volume {
        shard: u32,
        shards: u32,
        sharding: usize,
    },
    /// A process starts, unless one runs.
    Start { shard: u32 },
    /// A process is killed; its system tells its peers if `is_told`.
    Kill { shard: u32, is_told: bool },
    /// A process dies after this many of its next deeds.
    Doom { shard: u32, deeds: u64 },
    /// A process is told to stop.
    Stop { shard: u32 },
    /// A process does not run for this long.
    Pause { shard: u32, millis: u64 },
    /// A process is told to make its data file smaller.
    Compact { shard: u32 },
    /// An operator ends a trial, or goes back to a former generation.
    GoBack,
    /// Nothing gets from one shard to the other.
    Cut { from: u32, to: u32 },
    /// The link works again.
    Mend { from: u32, to: u32 },
    /// The connections between two shards end.
    Reset { one: u32, other: u32 },
    /// No more faults, and all processes run.
    Heal,
}

/// All events of a seed with their times, in order.
pub(super) struct Script {
    pub(super) events: Vec<(u64, Event)>,
    /// The first configuration: number of shards, and way to place.
    pub(super) first: (u32, usize),
}

impl Script {
    pub(super) fn new(random: &mut Random) -> Self {
        let begin = if random.below(4) == 0 { 0 } else { SETTLED };
        let length = 6000 + random.below(8000);
        let at = |random: &mut Random| begin + random.below(length);
        let mut events = Vec::new();
        let mut turn = random.below(SHARDS.len() as u64) as usize;
        let mut wanted = (SHARDS[turn], random.below(2) as usize);
        let first = wanted;
        let mut times: Vec<_> = (0..2 + random.below(3)).map(|_| at(random)).collect();
        times.sort_unstable();
        for time in times {
            if random.below(3) == 0 {
                wanted.1 = 1 - wanted.1;
            }
            if random.below(4) > 0 {
                turn += 1;
                wanted.0 = SHARDS[turn % SHARDS.len()];
            }
            let (shards, sharding) = wanted;
            events.push((time, Event::Configure { shards, sharding }));
        }
        for _ in 0..2 + random.below(9) {
            let time = at(random);
            events.extend(fault(random, time));
        }
        for _ in 0..4 {
            let shard = random.below(u64::from(MAX_SHARDS)) as u32;
            events.push((at(random), Event::Compact { shard }));
        }
        for _ in 0..2 {
            events.push((at(random), Event::GoBack));
        }
        events.push((begin + length, Event::Heal));
        events.retain(|(time, _)| *time <= begin + length);
        events.sort_unstable();
        Self { events, first }
    }
}

/// A fault, and its end.
pub(super) fn fault(random: &mut Random, time: u64) -> Vec<(u64, Event)> {
    let mut events = Vec::new();
    let shard = random.below(u64::from(MAX_SHARDS)) as u32;
    // About half of all faults hit the coordinator.
    let shard = if random.below(3) == 0 { 0 } else { shard };
    let other = (shard + 1 + random.below(u64::from(MAX_SHARDS) - 1) as u32) % MAX_SHARDS;
    let soon = time + 50 + random.below(4000);
    let is_told = random.below(4) > 0;
    match random.below(12) {
        0..=1 => {
            events.push((time, Event::Kill { shard, is_told }));
            events.push((soon, Event::Start { shard }));
        }
        2..=4 => {
            let few = random.below(2) == 0;
            let deeds = random.below(if few { 8 } else { 80 });
            events.push((time, Event::Doom { shard, deeds }));
            events.push((soon, Event::Start { shard }));
            events.push((soon + 2000, Event::Start { shard }));
        }
        5 => {
            events.push((time, Event::Stop { shard }));
            events.push((soon, Event::Start { shard }));
        }
        6..=7 => {
            let millis = match random.below(4) {
                0 => 5000 + random.below(15_000),
                _ => 100 + random.below(3000),
            };
            events.push((time, Event::Pause { shard, millis }));
        }
        8 => cut(random, time, (shard, other), &mut events),
        9 => {
            let (one, other) = (shard, other);
            cut(random, time, (one, other), &mut events);
            cut(random, time, (other, one), &mut events);
        }
        10 => {
            let until = time + 200 + random.below(8000);
            for other in (0..MAX_SHARDS).filter(|other| *other != shard) {
                for (from, to) in [(shard, other), (other, shard)] {
                    events.push((time, Event::Cut { from, to }));
                    events.push((until, Event::Mend { from, to }));
                }
            }
        }
        _ => events.push((time, Event::Reset { one: shard, other })),
    }
    events
}

fn cut(random: &mut Random, time: u64, (from, to): (u32, u32), events: &mut Vec<(u64, Event)>) {
    let until = time + 200 + random.below(6000);
    events.push((time, Event::Cut { from, to }));
    events.push((until, Event::Mend { from, to }));
}
