//! One Pod of the set: its process, its volumes, and its observed state.

use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::addresses::Addresses;
use super::controller::Options;
use super::news::{ShardStanding, What};
use super::observation::Observation;
use super::process::Process;
use super::projection::{Files, Projection};
use super::state_directory::StateDirectory;

/// Consecutive missed answers after which a shard counts as not ready, as with the kubelet.
const MISSES: u32 = 3;
/// How often a shard is asked for its status when no change is awaited.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How often it is asked when a change is awaited.
const ASK_SOON: Duration = Duration::from_millis(20);

/// The StatefulSet's name, with which each Pod's name begins.
const SET: &str = "shard";

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) ordinal: u32,
    /// The number of the current process, which distinguishes its events from those of earlier
    /// ones.
    pub(super) number: u64,
    pub(super) process: Option<Process>,
    pub(super) ready: bool,
    pub(super) paused: bool,
    /// Whether new content will be put into its volumes.
    pub(super) awaits_content: bool,
    /// The number of the process that rejected its configuration, until that changes.
    pub(super) rejected: Option<u64>,
    pub(super) ends: u32,
    pub(super) restarts: u32,
    pub(super) observation: Option<Observation>,
    pub(super) ask_every: watch::Sender<Duration>,
    directory: PathBuf,
    projection: Projection,
    started: Instant,
    misses: u32,
    generation: Option<u64>,
    asking: Option<AbortHandle>,
}

impl Shard {
    /// A Pod with this content in its volumes and no process yet.
    pub(super) fn create(
        place: &StateDirectory,
        ordinal: u32,
        config: &Files,
        secrets: &Files,
    ) -> io::Result<Self> {
        let directory = StateDirectory::shard(place.root(), ordinal);
        let mut projection = Projection::create(&directory)?;
        projection.show(config, secrets)?;
        Ok(Self {
            ordinal,
            number: 0,
            process: None,
            ready: false,
            paused: false,
            awaits_content: false,
            rejected: None,
            ends: 0,
            restarts: 0,
            observation: None,
            ask_every: watch::Sender::new(ASK_SOON),
            directory,
            projection,
            started: Instant::now(),
            misses: 0,
            generation: None,
            asking: None,
        })
    }

    pub(super) fn command(&self, options: &Options, with_secrets: bool) -> Command {
        let addresses = &options.addresses;
        let mut command = Command::new(&options.binary);
        command
            .arg("serve")
            .arg("--config-dir")
            .arg(self.projection.config_dir())
            .arg("--data-dir")
            .arg(self.directory.join("data"))
            .args(["--listen", &addresses.public(self.ordinal).to_string()])
            .args(["--admin", &addresses.admin(self.ordinal).to_string()])
            .args(["--peers", &addresses.peers()])
            .args(["--peer-listen", &addresses.peer(self.ordinal).to_string()])
            .args(["--ordinal", &self.ordinal.to_string()])
            .args(["--log", &options.log, "--log-format", "json"])
            .args(["--with-parent", &std::process::id().to_string()]);
        if with_secrets {
            command
                .arg("--secrets-dir")
                .arg(self.projection.secrets_dir());
        } else {
            command.env_remove("OSTRAKON_SECRETS_DIR");
        }
        let environment = options.environment.iter();
        // Needed if this machine is itself a Pod: its API server does not know these shards.
        command
            .env_remove("KUBERNETES_SERVICE_HOST")
            .env("POD_NAME", format!("{SET}-{}", self.ordinal))
            .envs(environment.map(|(name, value)| (name, value)))
            .args(&options.arguments);
        command
    }

    pub(super) fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Sets the running process, whose status `asking` polls.
    pub(super) fn runs(&mut self, process: Process, asking: AbortHandle) {
        self.process = Some(process);
        self.asking = Some(asking);
        self.started = Instant::now();
    }

    /// Clears the process, which has ended. Returns how long it ran.
    pub(super) fn ended(&mut self) -> Duration {
        self.process = None;
        self.ready = false;
        self.paused = false;
        self.misses = 0;
        self.observation = None;
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
        self.started.elapsed()
    }

    /// Puts content into the volumes. Returns whether it has changed.
    pub(super) fn show(&mut self, config: &Files, secrets: &Files) -> io::Result<bool> {
        self.awaits_content = false;
        self.projection.show(config, secrets)
    }

    /// Takes the shard's status, or `None` if it did not answer. Returns the resulting events.
    pub(super) fn observe(&mut self, observation: Option<Observation>) -> Vec<What> {
        let mut news = Vec::new();
        let Some(observation) = observation else {
            self.misses += 1;
            if self.misses >= MISSES && self.ready {
                self.ready = false;
                news.push(What::NotReady);
            }
            return news;
        };
        self.misses = 0;
        let before = self.observation.replace(observation);
        let now = self
            .observation
            .as_ref()
            .expect("the observation was just stored");
        if let Some(live) = &now.generation
            && self.generation != Some(live.generation)
        {
            let renamed = self.projection.renamed().filter(|_| {
                self.generation.is_some() && self.projection.config() == Some(live.digest)
            });
            self.generation = Some(live.generation);
            news.push(What::Live(live.clone(), renamed.map(|at| at.elapsed())));
        }
        if let Some(refused) = &now.refused
            && before.and_then(|before| before.refused).as_ref() != Some(refused)
        {
            news.push(What::Refused(refused.clone()));
        }
        if now.ready != self.ready {
            self.ready = now.ready;
            news.push(if self.ready {
                What::Ready(self.started.elapsed())
            } else {
                What::NotReady
            });
        }
        news
    }

    /// Whether the newest content is in the volumes, and was accepted or refused.
    pub(super) fn is_current(&self) -> bool {
        let observation = self.observation.as_ref().zip(self.projection.config());
        !self.awaits_content && observation.is_some_and(|(seen, config)| seen.has_seen(config))
    }

    /// Whether it prepares nothing.
    pub(super) fn is_idle(&self) -> bool {
        let observation = self.observation.as_ref();
        !self.awaits_content && observation.is_some_and(|seen| seen.candidate.is_none())
    }

    /// Whether the content in the volumes was refused.
    pub(super) fn has_refused(&self) -> bool {
        let refused = self
            .observation
            .as_ref()
            .and_then(|seen| seen.refused.as_ref());
        let refused = refused.and_then(|refused| refused.digest);
        refused.is_some() && refused == self.projection.config()
    }

    /// Sets how often the shard is asked for its status.
    pub(super) fn ask(&self, soon: bool) {
        let soon = soon || !self.ready || (!self.awaits_content && !self.is_current());
        let every = if soon && !self.paused {
            ASK_SOON
        } else {
            ASK_EVERY
        };
        self.ask_every.send_if_modified(|now| {
            let changed = *now != every;
            *now = every;
            changed
        });
    }

    pub(super) fn standing(&self, addresses: &Addresses, ending: bool) -> ShardStanding {
        let state = match &self.process {
            None => "down",
            Some(_) if ending => "stopping",
            Some(_) if self.paused => "paused",
            Some(_) if self.ready => "ready",
            Some(_) => "starting",
        };
        ShardStanding {
            ordinal: self.ordinal,
            address: addresses.public(self.ordinal),
            admin: addresses.admin(self.ordinal),
            pid: self.process.as_ref().map(|process| process.id),
            state,
            restarts: self.restarts,
            observation: self.observation.clone(),
        }
    }
}
