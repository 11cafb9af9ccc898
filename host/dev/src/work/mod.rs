//! A controller's work: takes the steps that the set decides on, and reports their results to the
//! set.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{oneshot, watch};

use super::config::with_shards;
use super::controller::Options;
use super::handle::Command;
use super::news::{News, Standing, What};
use super::observation::Observation;
use super::process::{Doing, Process};
use super::projection::Files;
use super::set::{Act, Numbers, Phase, Set};
use super::shard::Shard;
use super::state_directory::StateDirectory;

mod obey;

/// The exit code of a shard whose arguments or configuration are wrong.
const REJECTED: i32 = 64;
/// How often the progress of moving partitions is reported.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The events that a controller waits for. One with the number of an earlier process is stale.
#[derive(Debug)]
pub(super) enum Event {
    Command(Command),
    Process(u32, u64, Doing),
    Observed(u32, u64, Option<Observation>),
    /// The pause after a process's end is over.
    Restart(u32, u64),
    /// The grace period is over.
    Grace(u32, u64),
    /// The delay of changed content is over.
    Project(u32),
}

pub(super) struct Work {
    options: Options,
    place: StateDirectory,
    set: Set,
    shards: BTreeMap<u32, Shard>,
    /// `None` until the first publish: no shard can run yet.
    config: Option<Files>,
    secrets: Files,
    events: UnboundedSender<Event>,
    subscribers: Vec<UnboundedSender<News>>,
    waiters: Vec<oneshot::Sender<Standing>>,
    /// How many processes were started.
    processes: u64,
    told_moving: Option<Instant>,
    was_settled: bool,
}

impl Work {
    pub(super) fn new(
        set: Set,
        options: Options,
        place: StateDirectory,
        events: UnboundedSender<Event>,
    ) -> Self {
        Self {
            options,
            place,
            set,
            shards: BTreeMap::new(),
            config: None,
            secrets: Files::new(),
            events,
            subscribers: Vec::new(),
            waiters: Vec::new(),
            processes: 0,
            told_moving: None,
            was_settled: false,
        }
    }

    pub(super) async fn run(mut self, mut events: UnboundedReceiver<Event>) {
        while let Some(event) = events.recv().await {
            self.apply(event);
            self.go_on();
            if self.set.has_ended() {
                return;
            }
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Command(command) => self.obey(command),
            Event::Process(ordinal, _, Doing::Says(what)) => self.tell(Some(ordinal), what),
            Event::Process(ordinal, number, Doing::Ended(status)) => {
                if self.is_of(ordinal, number) {
                    self.ended(ordinal, status);
                }
            }
            Event::Observed(ordinal, number, observation) => {
                if self.is_of(ordinal, number) && self.shards[&ordinal].process.is_some() {
                    self.observed(ordinal, observation);
                }
            }
            Event::Restart(ordinal, number) => {
                if self.is_of(ordinal, number) && self.shards[&ordinal].process.is_none() {
                    self.start(ordinal);
                }
            }
            Event::Grace(ordinal, number) => {
                if self.is_of(ordinal, number)
                    && let Some(process) = &self.shards[&ordinal].process
                {
                    process.signal(Signal::KILL);
                    self.tell(Some(ordinal), What::GracePassed(self.options.grace));
                }
            }
            Event::Project(ordinal) => self.project(ordinal),
        }
    }

    fn is_of(&self, ordinal: u32, number: u64) -> bool {
        self.shards
            .get(&ordinal)
            .is_some_and(|shard| shard.number == number)
    }

    /// Takes all possible steps, and notifies the waiters if the set has settled.
    fn go_on(&mut self) {
        while self.config.is_some() || self.set.is_ending() {
            let Some(act) = self.set.next() else {
                break;
            };
            match act {
                Act::Create(ordinal) => self.create(ordinal),
                Act::End(ordinal) => self.end(ordinal),
                Act::Publish(_) => {
                    self.note_spread();
                    self.propagate();
                }
            }
        }
        let settled = self.is_settled();
        for shard in self.shards.values() {
            shard.ask(shard.ordinal == 0 && !settled && self.told_moving.is_none());
        }
        if settled {
            for waiter in std::mem::take(&mut self.waiters) {
                let _ = waiter.send(self.standing());
            }
        }
        if settled && !self.was_settled {
            let wanted = self.set.wanted();
            let refuses = self.shards.values().any(Shard::has_refused);
            self.tell(
                None,
                if refuses {
                    What::Unchanged(wanted)
                } else {
                    What::Settled(wanted)
                },
            );
        }
        self.was_settled = settled;
    }

    fn is_settled(&self) -> bool {
        // What shard 0 refuses goes live in none.
        let is_refused = self.shards.get(&0).is_some_and(Shard::has_refused);
        let is_done = |shard: &Shard| shard.is_current() || is_refused && shard.is_idle();
        self.set.is_settled() && self.shards.values().all(is_done)
    }

    fn create(&mut self, ordinal: u32) {
        self.note_spread();
        match Shard::create(&self.place, ordinal, &self.projected(), &self.secrets) {
            Ok(shard) => {
                self.shards.insert(ordinal, shard);
                self.start(ordinal);
            }
            Err(error) => {
                self.tell(Some(ordinal), What::Failed(error.to_string()));
                self.set.is_gone(ordinal);
                self.set.end();
            }
        }
    }

    fn start(&mut self, ordinal: u32) {
        self.processes += 1;
        let number = self.processes;
        let shard = self
            .shards
            .get_mut(&ordinal)
            .expect("the shard was created");
        shard.number = number;
        let command = shard.command(&self.options, !self.secrets.is_empty());
        let events = self.events.clone();
        let tell = move |doing| {
            // The receiver is gone if the controller has ended.
            let _ = events.send(Event::Process(ordinal, number, doing));
        };
        match Process::start(command, &shard.log(), tell) {
            Ok(process) => {
                let pid = process.id;
                let admin = self.options.addresses.admin(ordinal);
                let every = shard.ask_every.subscribe();
                let asking = ask(admin, every, ordinal, number, self.events.clone());
                shard.runs(process, tokio::spawn(asking).abort_handle());
                self.set.is_now(ordinal, Phase::Running);
                self.tell(Some(ordinal), What::Started { pid });
            }
            Err(error) => {
                let reason = format!("{}: {error}", self.options.binary.display());
                self.tell(Some(ordinal), What::NotStarted { reason });
                self.again(ordinal, Duration::ZERO);
            }
        }
    }

    fn end(&mut self, ordinal: u32) {
        let shard = &self.shards[&ordinal];
        let Some(process) = &shard.process else {
            self.gone(ordinal);
            return;
        };
        process.signal(Signal::TERM);
        self.after(self.options.grace, Event::Grace(ordinal, shard.number));
        self.tell(Some(ordinal), What::Stopping);
    }

    fn ended(&mut self, ordinal: u32, status: ExitStatus) {
        let told = self
            .set
            .pod(ordinal)
            .is_some_and(|pod| pod.phase == Phase::Ending);
        let shard = self.shards.get_mut(&ordinal).expect("the shard exists");
        let ran = shard.ended();
        let (code, signal) = (status.code(), status.signal());
        self.tell(Some(ordinal), What::Ended { code, signal, told });
        if ordinal == 0 {
            self.set.unobserved();
        }
        if told {
            self.gone(ordinal);
        } else if code == Some(REJECTED) {
            // It would say the same again.
            let shard = self.shards.get_mut(&ordinal).expect("the shard exists");
            shard.rejected = Some(shard.number);
            self.set.is_now(ordinal, Phase::Down);
            self.tell(Some(ordinal), What::WaitsForContent);
        } else {
            self.again(ordinal, ran);
        }
    }

    /// Restarts a process after a pause, as the kubelet does, independently of other shards.
    fn again(&mut self, ordinal: u32, ran: Duration) {
        let shard = self.shards.get_mut(&ordinal).expect("the shard exists");
        let wait = self.options.backoff.after(ran, &mut shard.ends);
        shard.restarts += 1;
        let number = shard.number;
        self.set.is_now(ordinal, Phase::Down);
        self.after(wait, Event::Restart(ordinal, number));
        self.tell(Some(ordinal), What::Restarting(wait));
    }

    fn gone(&mut self, ordinal: u32) {
        self.shards.remove(&ordinal);
        self.set.is_gone(ordinal);
    }

    fn observed(&mut self, ordinal: u32, observation: Option<Observation>) {
        let shard = self.shards.get_mut(&ordinal).expect("the shard exists");
        let news = shard.observe(observation);
        let phase = if shard.ready {
            Phase::Ready
        } else {
            Phase::Running
        };
        self.set.is_now(ordinal, phase);
        let ending = self.set.pod(ordinal).map(|pod| pod.phase) == Some(Phase::Ending);
        for what in news {
            // A shard that is ending is expected not to be ready.
            if what != What::NotReady || !ending {
                self.tell(Some(ordinal), what);
            }
        }
        if ordinal == 0 {
            self.observe_topology();
        }
    }

    fn observe_topology(&mut self) {
        let coordinator = &self.shards[&0];
        let topology = coordinator
            .observation
            .as_ref()
            .and_then(|seen| seen.topology);
        let Some(topology) = topology else {
            return;
        };
        let spread = self.set.spread();
        self.set.observe(&topology, coordinator.is_current());
        if self.set.spread() != spread {
            self.note_spread();
        }
        if topology.stable {
            self.told_moving = None;
        } else if self
            .told_moving
            .is_none_or(|told| told.elapsed() >= TELL_EVERY)
        {
            self.told_moving = Some(Instant::now());
            let seen = |shard: &Shard| shard.observation.clone();
            let shards = self.shards.values();
            let batches = shards
                .clone()
                .filter_map(seen)
                .filter_map(|seen| seen.topology);
            self.tell(
                None,
                What::Moving {
                    from: topology.shards_before,
                    to: topology.shards,
                    entries: shards
                        .map(|shard| Some(seen(shard)?.store.entries))
                        .collect(),
                    batches: batches.map(|topology| topology.batches_to_send).sum(),
                },
            );
        }
    }

    /// The ConfigMap in the form that shards see.
    fn projected(&self) -> Files {
        let config = self
            .config
            .as_ref()
            .expect("Pods are created only after the first publish");
        match self.options.numbers {
            Numbers::Published => with_shards(config, self.set.published()),
            Numbers::Heard => config.clone(),
        }
    }

    /// Schedules the newest content to reach each shard after its delay. A shard that is already
    /// scheduled will get the newest content then.
    fn propagate(&mut self) {
        for ordinal in self.shards.keys().copied().collect::<Vec<_>>() {
            let shard = self.shards.get_mut(&ordinal).expect("the shard exists");
            if shard.awaits_content {
                continue;
            }
            shard.awaits_content = true;
            match self.options.propagation.delay(ordinal) {
                Duration::ZERO => self.project(ordinal),
                delay => self.after(delay, Event::Project(ordinal)),
            }
        }
    }

    fn project(&mut self, ordinal: u32) {
        let config = self.projected();
        let Some(shard) = self.shards.get_mut(&ordinal) else {
            return;
        };
        match shard.show(&config, &self.secrets) {
            Ok(true) => {
                if let Some(number) = shard.rejected.take() {
                    self.after(Duration::ZERO, Event::Restart(ordinal, number));
                }
                self.tell(Some(ordinal), What::Projected);
            }
            Ok(false) => {}
            Err(error) => self.tell(Some(ordinal), What::Failed(error.to_string())),
        }
    }

    fn note_spread(&mut self) {
        if let Err(error) = self.place.set_spread(self.set.spread()) {
            self.tell(None, What::Failed(error.to_string()));
        }
    }

    fn after(&self, delay: Duration, event: Event) {
        let events = self.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let _ = events.send(event);
        });
    }

    fn tell(&mut self, shard: Option<u32>, what: What) {
        let at = Instant::now();
        let news = News { at, shard, what };
        self.subscribers
            .retain(|subscriber| subscriber.send(news.clone()).is_ok());
    }
}

/// Reports a process's status repeatedly, until nobody receives it.
async fn ask(
    admin: SocketAddr,
    mut every: watch::Receiver<Duration>,
    ordinal: u32,
    number: u64,
    events: UnboundedSender<Event>,
) {
    loop {
        let observation = Observation::of(admin).await;
        if events
            .send(Event::Observed(ordinal, number, observation))
            .is_err()
        {
            return;
        }
        let now = *every.borrow_and_update();
        tokio::select! {
            () = tokio::time::sleep(now) => {}
            changed = every.changed() => if changed.is_err() { return },
        }
    }
}
