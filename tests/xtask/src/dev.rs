//! `cargo xtask dev`: a shard on this machine whose guest and settings are
//! swapped on each save.

mod admin;
mod host;
mod sources;

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use ostrakon_tests::volume::Volume;
use ostrakon_toolchain::{Build, Search, Target, Toolchain};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::steps::say;
use admin::{Admin, Swap};
use host::Host;
use sources::Sources;

/// Settings that each new place begins with: all defaults, shown.
const OSTRAKON_TOML: &str = include_str!("dev/ostrakon.toml");

/// How often sources are looked at. A save is taken when two looks agree.
const LOOK_EVERY: Duration = Duration::from_millis(150);
/// How long the host may take over a swap before it is said to be slow.
const SWAP_LIMIT: Duration = Duration::from_secs(90);

/// What runs, and where.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The directory of the guest's crate [default: guest/kv].
    #[arg(long, value_name = "DIR")]
    guest: Option<PathBuf>,
    /// The port for clients, on 127.0.0.1.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The admin port, on 127.0.0.1.
    #[arg(long, default_value_t = 9090)]
    admin_port: u16,
    /// What the host logs.
    #[arg(long, default_value = "warn", value_name = "FILTER")]
    log: String,
}

/// Runs a shard until Ctrl-C.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(Dev::new(options)?.run())
}

/// What happens while the shard runs.
enum Event {
    Save,
    Stop,
    Ended(std::process::ExitStatus),
}

struct Dev {
    root: PathBuf,
    /// The host's binary.
    host: PathBuf,
    guest: PathBuf,
    toolchain: Toolchain,
    place: Place,
    volume: Volume,
    sources: Sources,
    published: BTreeMap<String, Vec<u8>>,
    listen: SocketAddr,
    admin: SocketAddr,
    log: String,
}

/// `.ostrakon/<guest>/`: all that one guest's shard leaves on this machine.
struct Place {
    /// The ConfigMap's files beside the guest, to be edited.
    settings: PathBuf,
    /// The ConfigMap as it is mounted.
    config: PathBuf,
    /// The Secret as it is mounted: put a file per secret here before the start.
    secrets: PathBuf,
    /// The shard's data.
    data: PathBuf,
}

impl Place {
    fn create(root: &Path, guest: &Path) -> anyhow::Result<Self> {
        let mut name = guest.file_name().context("name the guest's directory")?;
        // Two guests whose directories have one name are not to share data.
        let elsewhere = format!("{}-{:08x}", name.display(), path_hash(guest));
        if !guest.starts_with(root) {
            name = elsewhere.as_ref();
        }
        let place = root.join(".ostrakon").join(name);
        let [settings, config, secrets, data] =
            ["settings", "config", "secrets", "data"].map(|name| place.join(name));
        if !settings.exists() {
            fs::create_dir_all(&settings)?;
            fs::write(settings.join("ostrakon.toml"), OSTRAKON_TOML)?;
            if guest == root.join("guest/kv") {
                fs::write(settings.join("sharding"), "modulo")?;
            }
        }
        fs::create_dir_all(&secrets)?;
        fs::create_dir_all(&data)?;
        Ok(Self {
            settings,
            config,
            secrets,
            data,
        })
    }
}

impl Dev {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let root = crate::root();
        let guest = options
            .guest
            .clone()
            .unwrap_or_else(|| root.join("guest/kv"));
        let guest = guest
            .canonicalize()
            .with_context(|| format!("there is no guest at {}", guest.display()))?;
        let [listen, admin] = [options.port, options.admin_port]
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        for (address, flag) in [(listen, "--port"), (admin, "--admin-port")] {
            // The host binds it again in a moment; this is for the clear line.
            TcpListener::bind(address)
                .with_context(|| format!("{address} is taken: name another port with {flag}"))?;
        }
        let place = Place::create(&root, &guest)?;
        Ok(Self {
            host: crate::target(&root)?.join("debug/ostrakon"),
            toolchain: Search::new(Target::Unknown, &guest)?.find()?,
            volume: Volume::create(&place.config)?,
            sources: Sources::new(vec![
                guest.clone(),
                root.join("guest/sdk"),
                root.join("wit"),
                place.settings.clone(),
            ]),
            published: BTreeMap::new(),
            log: options.log.clone(),
            root,
            guest,
            place,
            listen,
            admin,
        })
    }

    async fn run(mut self) -> anyhow::Result<()> {
        let mut stop = Stop::new()?;
        build_host(&self.root)?;
        // Without a first guest there is nothing to run: saves are waited for.
        while !self.publish(&mut stop).await? {
            say("waiting for a save that compiles; Ctrl-C ends");
            tokio::select! {
                () = self.sources.saved(LOOK_EVERY) => {}
                () = stop.requested() => return Ok(()),
            }
        }
        let mut host = Host::start(&self.host_command())?;
        let ready = tokio::select! {
            ready = host.ready(Admin::new(self.admin)) => ready,
            () = stop.requested() => Ok(()),
        };
        if ready.is_ok() {
            self.introduce();
            let ended = self.follow(&mut host, &mut stop).await;
            host.stop().await?;
            return ended;
        }
        host.stop().await?;
        ready
    }

    /// Publishes each save until something ends.
    async fn follow(&mut self, host: &mut Host, stop: &mut Stop) -> anyhow::Result<()> {
        loop {
            let event = tokio::select! {
                () = self.sources.saved(LOOK_EVERY) => Event::Save,
                () = stop.requested() => Event::Stop,
                status = host.ended() => Event::Ended(status?),
            };
            match event {
                Event::Save => self.swap(stop).await?,
                Event::Stop => {
                    say("stopping");
                    return Ok(());
                }
                Event::Ended(status) => bail!("the host ended by itself ({status})"),
            }
        }
    }

    /// Publishes what was saved and says what became of it.
    async fn swap(&mut self, stop: &mut Stop) -> anyhow::Result<()> {
        let admin = Admin::new(self.admin);
        let before = admin.swap().await.unwrap_or_default();
        if !self.publish(stop).await? {
            return Ok(());
        }
        let started = Instant::now();
        let outcome = tokio::select! {
            outcome = admin.outcome(&before, SWAP_LIMIT) => outcome,
            // The request is seen again by whoever waits next.
            () = stop.requested() => return Ok(()),
        };
        let after = started.elapsed().as_millis();
        match outcome {
            Ok(Swap {
                refused: Some(refused),
                live,
            }) => say(&format!(
                "refused at step `{}`: {}\n  generation {live} goes on",
                refused.step, refused.reason
            )),
            Ok(Swap { live, .. }) if live == before.live => {
                say(&format!("back to what generation {live} has; it goes on"));
            }
            Ok(Swap { live, .. }) => say(&format!("live as generation {live} after {after} ms")),
            Err(error) => say(&format!("{error:#}")),
        }
        Ok(())
    }

    /// Builds the guest and publishes it with the settings. False where the
    /// guest does not compile, nothing changed, or the end was requested.
    async fn publish(&mut self, stop: &mut Stop) -> anyhow::Result<bool> {
        let started = Instant::now();
        let (build, toolchain) = (Build::new(&self.guest), self.toolchain.clone());
        let building = tokio::task::spawn_blocking(move || build.run(&toolchain));
        let built = tokio::select! {
            built = building => built?,
            () = stop.requested() => return Ok(false),
        };
        let built = match built {
            Ok(built) => built,
            Err(error) => {
                say(&format!("{:#}", anyhow::Error::from(error)));
                return Ok(false);
            }
        };
        let published = sources::settings(&self.place.settings).and_then(|mut files| {
            files.insert("guest.wasm".to_owned(), fs::read(&built.path)?);
            if files == self.published {
                return Ok(false);
            }
            self.volume.publish(&files)?;
            self.published = files;
            Ok(true)
        });
        match published {
            Ok(true) => {
                let (bytes, millis) = (built.bytes, started.elapsed().as_millis());
                say(&format!("built in {millis} ms: {bytes} bytes"));
                Ok(true)
            }
            Ok(false) => {
                say("nothing changed");
                Ok(false)
            }
            Err(error) => {
                say(&format!("not published: {error}"));
                Ok(false)
            }
        }
    }

    fn host_command(&self) -> Command {
        let mut command = Command::new(&self.host);
        command
            .arg("serve")
            .arg("--config-dir")
            .arg(&self.place.config)
            .arg("--data-dir")
            .arg(&self.place.data)
            .args(["--listen", &self.listen.to_string()])
            .args(["--admin", &self.admin.to_string()])
            .args(["--ordinal", "0", "--log", &self.log]);
        if fs::read_dir(&self.place.secrets).is_ok_and(|mut files| files.next().is_some()) {
            command.arg("--secrets-dir").arg(&self.place.secrets);
        }
        command
    }

    /// What to try.
    fn introduce(&self) {
        let (listen, admin) = (self.listen, self.admin);
        say(&format!("\nA shard serves on http://{listen}. Try:"));
        if self.guest.ends_with("guest/kv") {
            for path in ["/save/apple/red", "/load/apple", "/allKeys"] {
                say(&format!("  curl http://{listen}{path}"));
            }
            say(&format!(
                "  curl -i -X PUT --data-binary 'any bytes' http://{listen}/kv/pear"
            ));
            say(&format!("  curl 'http://{listen}/kv?prefix=p'"));
        }
        say(&format!("  curl http://{admin}/status"));
        let relative = |path: &Path| {
            let shown = path.strip_prefix(&self.root).unwrap_or(path);
            shown.display().to_string()
        };
        say(&format!(
            "Save a file of {} or {} and it is swapped in. Ctrl-C ends.\n",
            relative(&self.guest),
            relative(&self.place.settings),
        ));
    }
}

/// Tells paths apart. The same for each run of one build.
fn path_hash(path: &Path) -> u32 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "any 32 of its bits will do"
    )]
    let short = hasher.finish() as u32;
    short
}

fn build_host(root: &Path) -> anyhow::Result<()> {
    let status = Command::new("cargo")
        // With the whole workspace's features, as the tests build it: nothing is compiled twice.
        .args(["build", "--workspace", "--bin", "ostrakon"])
        .current_dir(root)
        .status()
        .context("cannot run cargo")?;
    ensure!(
        status.success(),
        "the host does not compile: see cargo's messages above"
    );
    Ok(())
}

/// Ctrl-C, or a request to end from elsewhere; once seen, it stays.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
    seen: bool,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            seen: false,
        })
    }

    async fn requested(&mut self) {
        if !self.seen {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
            }
            self.seen = true;
        }
    }
}
