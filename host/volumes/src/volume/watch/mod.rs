//! Detects changes to a volume's files.
//!
//! The kubelet updates a volume by renaming a new `..data` link over the old one. So the
//! directory itself is watched, and every event triggers a look; the result is compared by
//! content. Events can be lost, and some filesystems send none, so the files are also looked at
//! periodically.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::files::{Files, ReadError};

/// The result of the last look.
pub type Observation = Result<Files, Arc<ReadError>>;

/// How often to look at the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether to ask the operating system for change events.
    pub events: bool,
    /// How long to wait for the rest of a burst after an event; at most five times that in all.
    /// Default 1 ms.
    pub settle: Duration,
    /// How often to look if no event arrives. Default 10 s.
    pub look_every: Duration,
    /// How often to look if no event can arrive: the directory does not exist, or cannot be
    /// watched. Default 1 s.
    pub poll_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            events: true,
            settle: Duration::from_millis(1),
            look_every: Duration::from_secs(10),
            poll_every: Duration::from_secs(1),
        }
    }
}

/// How long to wait for the thread to end: a directory on another machine can block it for ever,
/// which must not keep the process from exiting.
const MAX_ENDING: Duration = Duration::from_secs(1);

/// A thread that watches one directory. Dropping the watcher stops the thread.
pub struct Watcher {
    observations: watch::Receiver<Observation>,
    signals: mpsc::Sender<Signal>,
    /// Disconnected when the thread ends.
    ended: mpsc::Receiver<()>,
}

impl Watcher {
    /// Takes the first look at `directory`, which blocks, then continues in its own thread. The
    /// directory need not exist yet.
    ///
    /// # Errors
    /// If the thread cannot be started, or if the path is relative and the current directory no
    /// longer exists.
    pub fn start(directory: &Path, options: Options) -> Result<Self, StartError> {
        // Not canonicalised: the target of a link in the path may change.
        let directory = std::path::absolute(directory).map_err(StartError::Directory)?;
        let (signals, received) = mpsc::channel();
        let mut notices = Notices::new(directory.clone(), options.events, signals.clone());
        // Watch first, read second: a change in between causes an event.
        notices.establish();
        let (sender, observations) = watch::channel(look(&directory));
        let looking = Looking {
            directory,
            options,
            notices,
            received,
            observations: sender,
        };
        let (ending, ended) = mpsc::channel();
        thread::Builder::new()
            .name("volume".into())
            .spawn(move || {
                let _ending: mpsc::Sender<()> = ending;
                looking.run();
            })
            .map_err(StartError::Thread)?;
        Ok(Self {
            observations,
            signals,
            ended,
        })
    }

    /// The latest observation, and its changes. Content that is the same as before is not a
    /// change.
    pub fn observations(&self) -> watch::Receiver<Observation> {
        self.observations.clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // If the thread is gone, there is nothing to stop or to wait for.
        let _ = self.signals.send(Signal::Stop);
        let _ = self.ended.recv_timeout(MAX_ENDING);
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The path is relative, and there is no current directory.
    #[error("cannot tell which directory to watch; give an absolute path")]
    Directory(#[source] io::Error),
    /// The system did not start another thread.
    #[error("cannot start the thread that watches a volume; raise the limit on processes")]
    Thread(#[source] io::Error),
}

enum Signal {
    /// The directory's contents changed.
    Changed,
    /// The directory itself was removed, and the watch with it.
    Lost,
    Stop,
}

/// The state of the watching thread.
struct Looking {
    directory: PathBuf,
    options: Options,
    notices: Notices,
    received: mpsc::Receiver<Signal>,
    observations: watch::Sender<Observation>,
}

impl Looking {
    fn run(mut self) {
        while self.wait() {
            self.notices.establish();
            let found = look(&self.directory);
            self.observations.send_if_modified(|last| {
                let changed = !same(last, &found);
                if changed {
                    // No digest here: a weak secret could be guessed from it.
                    match &found {
                        Ok(_) => debug!(directory = %self.directory.display(), "volume changed"),
                        Err(error) => debug!(%error, "volume unreadable"),
                    }
                    *last = found;
                }
                changed
            });
        }
    }

    /// Waits until it is time to look; false when it is time to stop.
    fn wait(&mut self) -> bool {
        let unsteady = matches!(&*self.observations.borrow(), Err(error) if !error.is_lasting());
        let every = if self.notices.in_place() && !unsteady {
            self.options.look_every
        } else {
            self.options.poll_every
        };
        if !self.take(every) {
            return true;
        }
        // An update is several events: look once they have all arrived.
        let until = Instant::now() + 5 * self.options.settle;
        while !self.notices.stopped && Instant::now() < until && self.take(self.options.settle) {}
        !self.notices.stopped
    }

    /// Handles one signal; false if none came in time.
    fn take(&mut self, within: Duration) -> bool {
        match self.received.recv_timeout(within) {
            Ok(Signal::Changed) => {}
            Ok(Signal::Lost) => self.notices.lost(),
            Ok(Signal::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                self.notices.stopped = true;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => return false,
        }
        true
    }
}

/// The operating system's watch on a directory, while there is one.
struct Notices {
    directory: PathBuf,
    wanted: bool,
    warned: bool,
    stopped: bool,
    signals: mpsc::Sender<Signal>,
    current: Option<(Identity, RecommendedWatcher)>,
}

/// Device and inode. A directory that was replaced has the same path, but the watch stays with
/// the old one.
type Identity = (u64, u64);

impl Notices {
    fn new(directory: PathBuf, wanted: bool, signals: mpsc::Sender<Signal>) -> Self {
        Self {
            directory,
            wanted,
            warned: false,
            stopped: false,
            signals,
            current: None,
        }
    }

    fn in_place(&self) -> bool {
        self.current.is_some()
    }

    /// The watch ended with its directory. The inode cannot show this: the next directory may get
    /// the same one.
    fn lost(&mut self) {
        self.current = None;
    }

    /// Makes sure that the directory that exists now, if any, is watched.
    fn establish(&mut self) {
        if !self.wanted {
            return;
        }
        let Ok(metadata) = fs::metadata(&self.directory) else {
            self.current = None;
            return;
        };
        let identity = (metadata.dev(), metadata.ino());
        if self
            .current
            .as_ref()
            .is_some_and(|(watched, _)| *watched == identity)
        {
            return;
        }
        self.current = None;
        match self.watch() {
            Ok(watcher) => self.current = Some((identity, watcher)),
            // The directory has just vanished, so watching as such is not at fault.
            Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => {}
            Err(error) => {
                if !self.warned {
                    let directory = self.directory.display();
                    warn!(%directory, %error, "cannot watch the volume, polling it instead; \
                        raise fs.inotify.max_user_watches and max_user_instances");
                }
                self.warned = true;
            }
        }
    }

    fn watch(&self) -> notify::Result<RecommendedWatcher> {
        let (directory, signals) = (self.directory.clone(), self.signals.clone());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<_>| {
            if let Some(signal) = signal(&directory, event) {
                // Fails only after the thread has stopped.
                let _ = signals.send(signal);
            }
        })?;
        watcher.watch(&self.directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }
}

/// Turns an event into a signal. Every event but a read may be a change: a rename can look like a
/// creation or a modification, and a queue overflow has no known kind.
fn signal(directory: &Path, event: notify::Result<notify::Event>) -> Option<Signal> {
    let Ok(event) = event else {
        return Some(Signal::Changed);
    };
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Signal::Changed),
        // Our own reads cause these events: reacting to them would never end.
        EventKind::Access(_) => None,
        EventKind::Remove(_) | EventKind::Modify(notify::event::ModifyKind::Name(_))
            if event.paths.iter().any(|path| path == directory) =>
        {
            Some(Signal::Lost)
        }
        _ => Some(Signal::Changed),
    }
}

fn look(directory: &Path) -> Observation {
    Files::read(directory).map_err(Arc::new)
}

/// Whether a look found the same as the one before.
fn same(one: &Observation, other: &Observation) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => one.digest() == other.digest(),
        (Err(one), Err(other)) => one.to_string() == other.to_string(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
