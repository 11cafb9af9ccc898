//! A person's session with a set: shows events, takes commands, publishes saved files.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ostrakon_base::signals::Signals;
use ostrakon_toolchain::{Target, search};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::controller::{Controller, Options, StartError};
use super::ctl::{Ctl, home};
use super::handle::Handle;
use super::news::{News, What};
use super::order::Order;
use super::screen::Screen;
use super::state_directory::{StateDirectory, StateDirectoryError};
use super::workshop::Workshop;

/// The settings of a new state directory: all defaults, written out.
const OSTRAKON_TOML: &str = include_str!("ostrakon.toml");

/// The source of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A crate, which is built on each save.
    Guest(PathBuf),
    /// A directory with the ConfigMap's files.
    Config(PathBuf),
}

#[derive(Clone, Debug)]
pub struct Session {
    pub source: Source,
    /// The directory of the Secret's files; `secrets` in the state directory by default.
    pub secrets: Option<PathBuf>,
    /// The state directory; the source's name in `.ostrakon` by default.
    pub state: Option<PathBuf>,
    /// Additional directories in which a save triggers a build.
    pub watched: Vec<PathBuf>,
    /// The target that the guest is compiled for.
    pub target: Target,
    pub options: Options,
}

/// Why a session did not begin, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no directory {}: give another with {flag}", path.display())]
    NoSource {
        path: PathBuf,
        /// The flag with which it was given.
        flag: &'static str,
    },
    #[error("{} holds no Cargo.toml: name a guest's crate with --guest, or a directory with a guest.wasm with --config-dir", .0.display())]
    NoCrate(PathBuf),
    #[error(transparent)]
    StateDirectory(#[from] StateDirectoryError),
    /// The socket for commands cannot be opened.
    #[error("cannot open the socket {}", path.display())]
    Ctl {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Toolchain(#[from] search::Error),
    /// The system denied a thread, a signal handler or an event queue.
    #[error("the system denied a thread, a signal handler or an event queue")]
    System(#[from] io::Error),
}

enum Event {
    News(News),
    /// Ctrl-C, or SIGTERM.
    Signal,
    /// A typed line, or `None` at the end of the input.
    Line(Option<String>),
    NoToolchain(search::Error),
    Ended,
}

impl Session {
    /// Runs the session until it is told to end and all shards have ended.
    ///
    /// # Errors
    /// When the session cannot begin, or guests cannot be built here.
    pub fn run(self) -> Result<(), Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let ended = runtime.block_on(self.hold());
        // A build may still run, and standard input may still be read: neither is waited for.
        runtime.shutdown_background();
        ended
    }

    async fn hold(self) -> Result<(), Error> {
        let mut signals = Signals::new()?;
        let source = self.source.directory()?;
        let state = self.state.clone().unwrap_or_else(|| {
            // Only the root directory has no name.
            home().join(source.file_name().unwrap_or_default())
        });
        let place = StateDirectory::open(state)?;
        place.belongs_to(&source)?;
        let root = place.root().to_owned();
        let screen = Arc::new(Screen::new(self.options.addresses)?);
        let workshop = self.workshop(&root, source, Arc::clone(&screen))?;
        let ctl = Ctl::open(&root).map_err(|source| Error::Ctl {
            path: StateDirectory::socket(&root),
            source,
        })?;
        let (config, secrets) = (workshop.config.clone(), workshop.secrets.clone());
        let controller = Controller::start(place, self.options.clone())?;
        let handle = controller.handle().clone();
        let mut news = handle.news().expect("the controller has just been started");
        let serving = tokio::spawn(ctl.serve(handle.clone()));
        let lines = read_lines();
        screen.say(&format!(
            "state in {}: each shard's data and log in shard-N\nconfiguration from {}, secrets from {}",
            near(&root),
            near(&config),
            near(&secrets)
        ));
        let told = self
            .follow(&handle, &mut news, lines, &mut signals, workshop, &screen)
            .await;
        // The last events.
        while let Ok(news) = news.try_recv() {
            screen.show(&news);
        }
        let _answered = serving.await;
        screen.end();
        told
    }

    async fn follow(
        &self,
        handle: &Handle,
        news: &mut UnboundedReceiver<News>,
        mut lines: UnboundedReceiver<Option<String>>,
        signals: &mut Signals,
        workshop: Workshop,
        screen: &Screen,
    ) -> Result<(), Error> {
        let is_terminal = io::stdin().is_terminal();
        let mut workshop = std::pin::pin!(workshop.run(handle.clone()));
        let (mut introduced, mut stopping, mut no_toolchain) = (false, false, None);
        loop {
            let event = tokio::select! {
                biased;
                _ = signals.recv() => Event::Signal,
                Some(news) = news.recv() => Event::News(news),
                Some(line) = lines.recv() => Event::Line(line),
                error = &mut workshop, if no_toolchain.is_none() => Event::NoToolchain(error),
                () = handle.ended() => Event::Ended,
            };
            match event {
                Event::News(news) => {
                    screen.show(&news);
                    if matches!(news.what, What::Settled(_)) && !introduced {
                        introduced = true;
                        self.introduce(screen);
                    }
                }
                Event::Signal if stopping => handle.abort(),
                Event::Signal => {
                    screen.say("stopping; Ctrl-C again kills");
                    stopping = true;
                    handle.stop();
                }
                Event::Line(Some(line)) => match line.parse::<Order>() {
                    Err(error) => screen.complain(&error.to_string()),
                    Ok(order) => match order.carry_out(handle, false).await {
                        Ok(said) => {
                            screen.say(&said);
                            screen.ask_again(said.is_empty());
                            stopping |= order == Order::Stop;
                        }
                        Err(refusal) => screen.complain(&refusal.to_string()),
                    },
                },
                // A pipe's end only means that there are no more commands; at a terminal, Ctrl-D
                // means to leave.
                Event::Line(None) if is_terminal => {
                    stopping = true;
                    handle.stop();
                }
                Event::Line(None) => {}
                Event::NoToolchain(error) => {
                    no_toolchain = Some(error);
                    handle.stop();
                }
                Event::Ended => break,
            }
        }
        no_toolchain.map_or(Ok(()), |error| Err(error.into()))
    }

    /// The source directories. Those that belong to the state directory are created.
    fn workshop(
        &self,
        root: &Path,
        source: PathBuf,
        screen: Arc<Screen>,
    ) -> Result<Workshop, Error> {
        let own = |name: &str| {
            let path = root.join(name);
            let made = fs::create_dir_all(&path).map(|()| path.clone());
            made.map_err(|source| StateDirectoryError::Io { path, source })
        };
        let secrets = match &self.secrets {
            None => own("secrets")?,
            Some(secrets) => directory(secrets, "--secrets-dir")?,
        };
        let (guest, config) = match self.source {
            Source::Config(_) => (None, source),
            Source::Guest(_) => (Some(source), own("settings")?),
        };
        let settings = config.join("ostrakon.toml");
        if guest.is_some() && !settings.exists() {
            fs::write(&settings, OSTRAKON_TOML).map_err(|source| StateDirectoryError::Io {
                path: settings,
                source,
            })?;
        }
        let watched = self.watched.iter().map(|path| directory(path, "--watch"));
        Ok(Workshop {
            guest,
            config,
            secrets,
            watched: watched.collect::<Result<_, _>>()?,
            target: self.target,
            screen,
        })
    }

    /// Shows commands to try.
    fn introduce(&self, screen: &Screen) {
        let addresses = &self.options.addresses;
        let mut text = String::from("any shard accepts any request; try:\n");
        if matches!(&self.source, Source::Guest(guest) if guest.ends_with("kv")) {
            for (shard, path) in [(0, "/save/apple/red"), (1, "/load/apple")] {
                let _ = writeln!(text, "  curl http://{}{path}", addresses.public(shard));
            }
        } else {
            let _ = writeln!(text, "  curl http://{}/", addresses.public(0));
        }
        let _ = writeln!(text, "  curl http://{}/status", addresses.admin(0));
        text += "and here: scale 5, restart, kill 1, status, help";
        screen.say(&text);
    }
}

impl Source {
    /// The source's canonical directory.
    fn directory(&self) -> Result<PathBuf, Error> {
        match self {
            Self::Config(path) => directory(path, "--config-dir"),
            Self::Guest(path) => {
                let path = directory(path, "--guest")?;
                let is_crate = path.join("Cargo.toml").is_file();
                is_crate.then_some(path.clone()).ok_or(Error::NoCrate(path))
            }
        }
    }
}

fn directory(path: &Path, flag: &'static str) -> Result<PathBuf, Error> {
    let whole = path.canonicalize().ok().filter(|path| path.is_dir());
    whole.ok_or_else(|| Error::NoSource {
        path: path.to_owned(),
        flag,
    })
}

/// A path, relative to the working directory if it is below it.
pub(super) fn near(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    match path.strip_prefix(here) {
        // The working directory itself has no other name here than its own.
        Ok(near) if near.as_os_str().is_empty() => path.file_name().map_or_else(
            || path.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        ),
        Ok(near) => near.display().to_string(),
        Err(_) => path.display().to_string(),
    }
}

/// The lines of standard input, read by a thread of their own, because reading blocks.
fn read_lines() -> UnboundedReceiver<Option<String>> {
    let (read, lines) = unbounded_channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if read.send(Some(line)).is_err() {
                return;
            }
        }
        let _ = read.send(None);
    });
    lines
}
