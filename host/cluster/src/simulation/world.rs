//! The world of one seed: five shards, their network and disks, clients, and the faults.

use std::collections::BTreeSet;

use ostrakon_protocol::{Epoch, Plan, Shard};
use ostrakon_test_support::random::Random;
use tempfile::TempDir;

use super::clients::{CLIENTS, Client};
use super::disk::Disk;
use super::ground::{Generation, Ground, MAX_SHARDS};
use super::history::History;
use super::mistake::Mistake;
use super::network::{LEAST_DELAY, Network};
use super::process::{Process, Start, forget_releases};
use super::random;
use super::script::{self, Event, Script};
use super::witness::{note, saw};

/// How long the world may take to come to rest once the faults have ended, in milliseconds.
pub(super) const SETTLING: u64 = 60_000;
/// How long clients go on once the faults have ended.
const AFTER: u64 = 1500;
/// How long a volume may take to show the requested content.
const MAX_LAG: u64 = 3000;

pub(super) struct World<'a> {
    pub(super) seed: u64,
    pub(super) random: Random,
    pub(super) ground: &'a Ground,
    pub(super) mistake: Option<Mistake>,
    pub(super) network: Network,
    pub(super) now: u64,
    pub(super) agenda: BTreeSet<(u64, Event)>,
    pub(super) hosts: Vec<Host>,
    pub(super) clients: Vec<Client>,
    pub(super) history: History,
    pub(super) values: u64,
    pub(super) processes: u64,
    /// The last requested configuration: number of shards, and way to place.
    pub(super) asked: (u32, usize),
    /// All that were requested.
    pub(super) configured: BTreeSet<(u32, usize)>,
    /// Whether an operator went back from one.
    pub(super) went_back: bool,
    /// When the faults ended, in milliseconds; `None` until then.
    pub(super) healed: Option<u64>,
    /// The change under way that faults were added to.
    pub(super) troubled: Epoch,
}

/// A place for the processes of one ordinal, one after another.
pub(super) struct Host {
    pub(super) shard: u32,
    pub(super) disk: Disk,
    pub(super) directory: TempDir,
    pub(super) process: Option<Process>,
    /// The configuration in its volume: number of shards, and way to place.
    pub(super) volume: (u32, usize),
    pub(super) paused_until: Option<u64>,
    /// Whether the process was told to stop.
    pub(super) is_stopping: bool,
}

impl<'a> World<'a> {
    pub(super) fn new(ground: &'a Ground, seed: u64, mistake: Option<Mistake>) -> Self {
        forget_releases();
        let mut random = Random::new(seed);
        let script = Script::new(&mut random);
        let host = |shard| Host {
            shard,
            disk: match mistake {
                Some(Mistake::AcknowledgesEarly) => Disk::late(),
                _ => Disk::default(),
            },
            directory: ground.directory(),
            process: None,
            volume: script.first,
            paused_until: None,
            is_stopping: false,
        };
        let hosts: Vec<_> = (0..MAX_SHARDS).map(host).collect();
        let mut agenda: BTreeSet<_> = script.events.into_iter().collect();
        for shard in 0..script.first.0 {
            agenda.insert((random.below(500), Event::Start { shard }));
        }
        Self {
            seed,
            random,
            ground,
            mistake,
            network: Network::new(seed),
            now: 0,
            agenda,
            hosts,
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            history: History::default(),
            values: 0,
            processes: 0,
            asked: script.first,
            configured: BTreeSet::from([script.first]),
            went_back: false,
            healed: None,
            troubled: Epoch::default(),
        }
    }

    /// Runs the world to its end, and returns a digest of everything that happened.
    ///
    /// # Errors
    /// The violation that was found.
    pub(super) fn run(mut self) -> Result<u64, String> {
        loop {
            self.befall();
            let is_over = self.healed.is_some_and(|healed| self.now >= healed + AFTER);
            if is_over && self.clients_are_idle() && self.unrest().is_none() {
                break;
            }
            let limit = self.healed.map(|healed| healed + SETTLING);
            if limit.is_some_and(|limit| self.now >= limit) {
                let unrest = self.unrest();
                let unrest = unrest.unwrap_or_else(|| "a client waits".to_owned());
                return Err(format!("the world does not come to rest: {unrest}"));
            }
            self.trouble();
            self.attend(!is_over);
            self.turn()?;
        }
        self.read_all()?;
        self.check_places()?;
        self.history.check()?;
        let digest = self.network.state().digest;
        Ok(random::of(digest, &[self.now, self.processes, self.values]))
    }

    /// Runs all processes for a while, as if at once.
    pub(super) fn turn(&mut self) -> Result<(), String> {
        let until = self.now + LEAST_DELAY;
        for at in 0..self.hosts.len() {
            let host = &mut self.hosts[at];
            let Some(process) = &mut host.process else {
                continue;
            };
            if host.paused_until.is_some_and(|paused| paused > self.now) {
                continue;
            }
            if host.paused_until.take().is_some() {
                process.resume(self.now);
            }
            process.run_until(until);
            if let Some(stopped) = process.stopped() {
                return Err(format!("shard {} stops: {stopped}", host.shard));
            }
            if process.life.is_over() {
                let is_told = host.is_stopping || self.random.below(4) > 0;
                self.bury(at, is_told, until);
            }
        }
        self.now = until;
        self.hear();
        let mut network = self.network.state();
        for _ in 0..std::mem::take(&mut network.resets) {
            saw("a connection was reset");
        }
        Ok(())
    }

    /// Adds faults to a change: a change is short, so most changes get faults of their own.
    fn trouble(&mut self) {
        let plan = self.plan().filter(|plan| !plan.is_stable());
        let Some(plan) = plan.filter(|plan| plan.epoch > self.troubled) else {
            return;
        };
        self.troubled = plan.epoch;
        if self.healed.is_some() {
            return;
        }
        for _ in 0..self.random.below(4) {
            let time = self.now + self.random.below(400);
            self.agenda.extend(script::fault(&mut self.random, time));
        }
    }

    /// Applies the events that are due.
    fn befall(&mut self) {
        while let Some((time, event)) = self.agenda.first().copied()
            && time <= self.now
        {
            self.agenda.pop_first();
            note(self.now, "world", format_args!("{event:?}"));
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Configure { shards, sharding } => self.configure(shards, sharding),
            Event::Volume {
                shard,
                shards,
                sharding,
            } => {
                let host = &mut self.hosts[shard as usize];
                host.volume = (shards, sharding);
                if let Some(process) = &host.process {
                    process.show(self.ground.generation(shards, sharding));
                }
            }
            Event::Start { shard } => self.start(shard),
            Event::Kill { shard, is_told } => {
                if let Some(process) = &self.hosts[shard as usize].process {
                    process.life.end();
                    if !is_told {
                        saw("a process was silent from one moment to the next");
                    }
                    self.bury(shard as usize, is_told, self.now);
                }
            }
            Event::Doom { shard, deeds } => {
                if let Some(process) = &self.hosts[shard as usize].process {
                    process.life.end_after(deeds);
                }
            }
            Event::Stop { shard } => {
                let host = &mut self.hosts[shard as usize];
                if let (Some(process), false) = (&host.process, host.is_stopping) {
                    host.is_stopping = true;
                    process.stop();
                }
            }
            Event::Pause { shard, millis } => {
                let host = &mut self.hosts[shard as usize];
                if host.process.is_some() {
                    saw("a process was paused");
                    let until = self.now + millis;
                    host.paused_until = host.paused_until.max(Some(until));
                }
            }
            Event::Compact { shard } => {
                if let Some(process) = &self.hosts[shard as usize].process {
                    process.compact();
                }
            }
            Event::GoBack => self.go_back(),
            Event::Cut { from, to } => self.network.set_cut((from, to), true, self.now),
            Event::Mend { from, to } => {
                saw("a link was mended");
                self.network.set_cut((from, to), false, self.now);
            }
            Event::Reset { one, other } => self.network.reset_between(one, other, self.now),
            Event::Heal => self.heal(),
        }
    }

    /// Requests a configuration. Each volume shows it at another time; a set of Pods grows at
    /// once, and shrinks some time later.
    fn configure(&mut self, shards: u32, sharding: usize) {
        if self.plan().is_some_and(|plan| !plan.is_stable()) {
            saw("a change was requested during another");
        }
        if sharding != self.asked.1 {
            saw("a change of placement was requested");
        }
        self.configured.insert((shards, sharding));
        let before = std::mem::replace(&mut self.asked, (shards, sharding)).0;
        for shard in 0..MAX_SHARDS {
            let time = self.now + self.random.below(MAX_LAG);
            let volume = Event::Volume {
                shard,
                shards,
                sharding,
            };
            // The content that was to be shown is outdated.
            self.agenda.retain(
                |(_, event)| !matches!(event, Event::Volume { shard: of, .. } if *of == shard),
            );
            self.agenda.insert((time, volume));
        }
        for shard in before..shards {
            let time = self.now + self.random.below(2000);
            self.agenda.insert((time, Event::Start { shard }));
        }
        for shard in shards..before {
            if self.random.below(2) == 0 {
                let time = self.now + 1000 + self.random.below(6000);
                self.agenda.insert((time, Event::Stop { shard }));
            }
        }
    }

    /// An operator ends the trial under way or, if there is none, goes back to another generation. What
    /// the coordinator's volume shows is held then.
    fn go_back(&mut self) {
        let process = self.hosts[0].process.as_ref();
        let Some(cluster) = process.and_then(Process::cluster) else {
            return;
        };
        if cluster.give_up() {
            saw("a trial was ended");
            self.went_back = true;
            return;
        }
        let former = self.configured.iter().filter(|of| **of != self.asked);
        let former: Vec<_> = former.collect();
        if former.is_empty() || cluster.serves_by().is_none() {
            return;
        }
        let turn = self.random.below(former.len() as u64) as usize;
        let (shards, sharding) = *former[turn];
        let to = self.ground.generation(shards, sharding).files.digest();
        if cluster.go_back(to, None).is_ok() {
            saw("a former generation was gone back to");
            self.went_back = true;
        }
    }

    fn heal(&mut self) {
        self.healed = Some(self.now);
        for from in 0..MAX_SHARDS {
            for to in 0..MAX_SHARDS {
                self.network.set_cut((from, to), false, self.now);
            }
        }
        for host in &mut self.hosts {
            host.paused_until = host.paused_until.map(|until| until.min(self.now));
            if let Some(process) = &host.process {
                process.life.end_after(u64::MAX);
            }
        }
        // The volumes still show the requested content when it starts.
        self.agenda
            .retain(|(_, event)| matches!(event, Event::Volume { .. } | Event::Start { .. }));
        if self.went_back {
            // What is held goes live only after the volume has shown something else.
            let (shards, sharding) = self.asked;
            let other = (shards, 1 - sharding);
            let is_new = self.hosts[0].volume != other;
            let (shards, sharding) = if is_new { other } else { self.asked };
            self.configure(shards, sharding);
        }
        for shard in 0..MAX_SHARDS {
            let time = self.now + 1 + self.random.below(500);
            self.agenda.insert((time, Event::Start { shard }));
        }
    }

    fn start(&mut self, shard: u32) {
        let host = &mut self.hosts[shard as usize];
        if host.process.is_some() {
            if self.healed.is_some() && host.is_stopping {
                // After it has stopped.
                self.agenda.insert((self.now + 500, Event::Start { shard }));
            }
            return;
        }
        self.processes += 1;
        let (shards, sharding) = host.volume;
        let process = Process::start(&Start {
            ground: self.ground,
            network: &self.network,
            disk: &host.disk,
            directory: host.directory.path(),
            shard,
            number: self.processes,
            generation: self.ground.generation(shards, sharding),
            seed: self.seed,
            now: self.now,
            mistake: self.mistake,
        });
        if process.had_outbox {
            saw("a process started with batches to send again");
        }
        host.process = Some(process);
        host.is_stopping = false;
        host.paused_until = None;
    }

    /// Handles the end of a process: its clients get no more answers.
    fn bury(&mut self, at: usize, is_told: bool, now: u64) {
        let host = &mut self.hosts[at];
        let shard = host.shard;
        let Some(process) = host.process.take() else {
            return;
        };
        let membership = process.membership();
        let moves = membership
            .as_ref()
            .and_then(Shard::plan)
            .is_some_and(|plan| !plan.is_stable());
        if host.is_stopping {
            let view = process.writer.views().get();
            let is_empty = view.is_some_and(|view| {
                view.snapshot
                    .count_partitions(None)
                    .is_ok_and(|count| count == 0)
            });
            if is_empty && shard >= self.asked.0 {
                saw("a stopped shard had handed its partitions over");
            }
        } else {
            match (moves, shard) {
                (true, 0) => saw("the coordinator died in a change"),
                (true, _) => saw("another shard died in a change"),
                _ => {}
            }
            saw("a process died in the middle of its work");
        }
        note(now, "world", format_args!("shard {shard} has ended"));
        self.network.died(&process.life, is_told, now);
        let number = process.life.number();
        drop(process);
        if !host.is_stopping && host.disk.lose_power(random::of(self.seed, &[number, 9])) {
            saw("unsynced writes were lost");
        }
        for client in &mut self.clients {
            if client.waits.is_some_and(|(_, of)| of == shard) {
                client.waits = None;
            }
        }
    }

    /// The coordinator's plan; `None` if it does not run or knows none.
    pub(super) fn plan(&self) -> Option<Plan> {
        self.hosts[0]
            .process
            .as_ref()?
            .membership()?
            .plan()
            .cloned()
    }

    pub(super) fn asked_for(&self) -> &'a Generation {
        self.ground.generation(self.asked.0, self.asked.1)
    }
}
