//! From saved sources to the shards' volumes: builds, reads and publishes them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ostrakon_base::causes::with_causes;
use ostrakon_base::regular;
use ostrakon_toolchain::{Build, Search, Target, Toolchain, search};
use ostrakon_volumes::volume::MAX_BYTES;
use tokio::task::spawn_blocking;

use super::config;
use super::handle::Handle;
use super::projection::Files;
use super::screen::Screen;
use super::session::near;
use super::sources::{self, Sources};

/// How often sources are polled. A save counts once two looks agree.
const LOOK_EVERY: Duration = Duration::from_millis(150);

const GUEST: &str = "guest.wasm";

/// The sources of the ConfigMap and the Secret.
#[derive(Debug)]
pub(super) struct Workshop {
    /// The guest's crate; `None` if the component is among the ConfigMap's files.
    pub(super) guest: Option<PathBuf>,
    pub(super) config: PathBuf,
    pub(super) secrets: PathBuf,
    /// Additional directories in which a save triggers a build.
    pub(super) watched: Vec<PathBuf>,
    /// What the guest is compiled for.
    pub(super) target: Target,
    pub(super) screen: Arc<Screen>,
}

impl Workshop {
    /// Publishes the sources now and on each save. Returns only if no toolchain here can build
    /// guests.
    pub(super) async fn run(self, handle: Handle) -> search::Error {
        let mut directories = vec![self.config.clone(), self.secrets.clone()];
        directories.extend(self.guest.clone());
        directories.extend(self.watched.clone());
        // The files are looked at before they are read, so that a save meanwhile is not missed.
        let mut sources = Sources::new(directories);
        let toolchain = match &self.guest {
            None => None,
            Some(guest) => match find(guest.clone(), self.target).await {
                Ok(toolchain) => Some(toolchain),
                Err(error) => return error,
            },
        };
        let mut published = (Files::new(), Files::new());
        loop {
            if let Some((config, secrets)) = self.make(toolchain.as_ref()).await {
                // If the controller has ended, nobody is left to see an error.
                if secrets != published.1 {
                    let _ = handle.publish_secrets(secrets.clone());
                }
                if config != published.0 {
                    if config::says_shards(&config) && !config::says_shards(&published.0) {
                        self.screen.say(
                            "cluster.shards in ostrakon.toml is ignored here: write `scale N`",
                        );
                    }
                    let _ = handle.publish(config.clone());
                }
                if (&config, &secrets) == (&published.0, &published.1) {
                    self.screen.say("nothing changed");
                }
                published = (config, secrets);
            }
            sources.saved(LOOK_EVERY).await;
        }
    }

    /// The current ConfigMap and Secret; `None`, after showing why, if they cannot be made.
    async fn make(&self, toolchain: Option<&Toolchain>) -> Option<(Files, Files)> {
        let built = match (&self.guest, toolchain) {
            (Some(guest), Some(toolchain)) => Some(self.build(guest, toolchain).await?),
            _ => None,
        };
        let read = || -> std::io::Result<_> {
            let mut config = sources::files(&self.config)?;
            if let Some(built) = built {
                config.insert(GUEST.to_owned(), regular::read(&built, MAX_BYTES)?.into());
            }
            Ok((config, sources::files(&self.secrets)?))
        };
        match read() {
            Ok((config, _)) if config.is_empty() => {
                let directory = self.config.display();
                self.screen.complain(&format!(
                    "not published: {directory} holds no files: put {GUEST} there"
                ));
                None
            }
            Ok(made) => Some(made),
            Err(error) => {
                self.screen.complain(&format!("not published: {error}"));
                None
            }
        }
    }

    async fn build(&self, guest: &std::path::Path, toolchain: &Toolchain) -> Option<PathBuf> {
        self.screen.say(&format!("building {}", near(guest)));
        let started = Instant::now();
        let (build, toolchain) = (Build::new(guest).quiet(), toolchain.clone());
        // On a blocking thread, so that the build does not delay anything else.
        let built = spawn_blocking(move || build.run(&toolchain)).await;
        match built.expect("a build does not panic") {
            Ok(built) => {
                let millis = started.elapsed().as_millis();
                self.screen
                    .say(&format!("built in {millis} ms: {} bytes", built.bytes));
                Some(built.path)
            }
            Err(error) => {
                self.screen
                    .complain(&format!("{}; waiting for a save", with_causes(&error)));
                None
            }
        }
    }
}

async fn find(guest: PathBuf, target: Target) -> Result<Toolchain, search::Error> {
    let found = spawn_blocking(move || Search::new(target, guest)?.find()).await;
    found.expect("a search does not panic")
}
