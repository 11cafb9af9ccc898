//! Seeing that a volume's files changed.
//!
//! The kubelet updates a volume by renaming a new `..data` link over the old
//! one. So the directory itself is watched, any event means to look again, and
//! what a look finds is compared by content. Events can be lost, and some
//! filesystems send none: the files are looked at from time to time as well.

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

/// What was found at the last look.
pub type Observation = Result<Files, Arc<ReadError>>;

/// How often to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether to ask the operating system to tell of changes.
    pub events: bool,
    /// How long to wait for the rest of a burst after an event; five times that
    /// at most. Default 1 ms.
    pub settle: Duration,
    /// How often to look although nothing was told. Default 10 s.
    pub look_every: Duration,
    /// How often to look where nothing can be told: the directory is not there,
    /// or cannot be watched. Default 1 s.
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

/// How long the thread may take to end: a directory of another machine's can
/// keep it for ever, and must not keep the process.
const MAX_ENDING: Duration = Duration::from_secs(1);

/// A thread that watches one directory. Dropping this ends it.
pub struct Watcher {
    observations: watch::Receiver<Observation>,
    signals: mpsc::Sender<Signal>,
    /// Is disconnected when the thread ends.
    ended: mpsc::Receiver<()>,
}

impl Watcher {
    /// Looks at `directory` for the first time, which blocks, and goes on
    /// looking in a thread of its own. The directory need not be there yet.
    ///
    /// # Errors
    /// Where the thread cannot be started, or a relative path has no meaning
    /// because the current directory is gone.
    pub fn start(directory: &Path, options: Options) -> Result<Self, StartError> {
        // Not canonical: what a link in the path leads to may change.
        let directory = std::path::absolute(directory).map_err(StartError::Directory)?;
        let (signals, received) = mpsc::channel();
        let mut notices = Notices::new(directory.clone(), options.events, signals.clone());
        // Watch first, read second: a change between the two is told.
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

    /// What was found, now and later. Content that is the same as before is not
    /// a change.
    pub fn observations(&self) -> watch::Receiver<Observation> {
        self.observations.clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Where the thread is gone, there is nobody to stop or to await.
        let _ = self.signals.send(Signal::Stop);
        let _ = self.ended.recv_timeout(MAX_ENDING);
    }
}

/// Why watching could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The path is relative to nothing.
    #[error("cannot tell which directory to watch; give an absolute path")]
    Directory(#[source] io::Error),
    /// There is no thread to be had.
    #[error("cannot start the thread that watches a volume; raise the limit on processes")]
    Thread(#[source] io::Error),
}

enum Signal {
    /// Something happened in the directory.
    Changed,
    /// The directory itself went away, and the watch with it.
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
                    // No digest here: it could tell of a weak secret.
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
        // An update is several events: look when they are all there.
        let until = Instant::now() + 5 * self.options.settle;
        while !self.notices.stopped && Instant::now() < until && self.take(self.options.settle) {}
        !self.notices.stopped
    }

    /// Takes one signal; false when none came in time.
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

/// The operating system's watch on a directory, as long as there is one.
struct Notices {
    directory: PathBuf,
    wanted: bool,
    warned: bool,
    stopped: bool,
    signals: mpsc::Sender<Signal>,
    current: Option<(Identity, RecommendedWatcher)>,
}

/// Device and inode: a directory that was replaced has the same path, but the
/// watch stays with the old one.
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

    /// The watch ended with its directory. Its inode cannot tell: the next
    /// directory may be given the same.
    fn lost(&mut self) {
        self.current = None;
    }

    /// Sees that the directory that is there now is watched, if there is one.
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
            // It vanished just now, which is no trouble with watching.
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

/// What an event means. All but reading may be a change: a rename can look like
/// a creation or a modification, and an overflowed queue like nothing known.
fn signal(directory: &Path, event: notify::Result<notify::Event>) -> Option<Signal> {
    let Ok(event) = event else {
        return Some(Signal::Changed);
    };
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Signal::Changed),
        // Our own looks cause these: to look because of them would never end.
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

/// Whether a look found what the one before did.
fn same(one: &Observation, other: &Observation) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => one.digest() == other.digest(),
        (Err(one), Err(other)) => one.to_string() == other.to_string(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
