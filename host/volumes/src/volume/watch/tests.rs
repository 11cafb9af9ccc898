//! Tests a watcher on real directories that are updated in the kubelet's way.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use tokio::time::timeout;

use super::*;

/// Updates a volume in the kubelet's steps.
struct Kubelet {
    volume: PathBuf,
    updates: usize,
}

impl Kubelet {
    fn mount(volume: &Path) -> Self {
        fs::create_dir_all(volume).unwrap();
        Self {
            volume: volume.to_owned(),
            updates: 0,
        }
    }

    fn publish(&mut self, files: &[(&str, &str)]) {
        let old = fs::read_link(self.volume.join("..data")).ok();
        self.write(files);
        self.switch();
        for (name, _) in files {
            let link = self.volume.join(name);
            if fs::symlink_metadata(&link).is_err() {
                symlink(Path::new("..data").join(name), link).unwrap();
            }
        }
        if let Some(old) = old {
            fs::remove_dir_all(self.volume.join(old)).unwrap();
        }
    }

    /// The first half of an update: the new directory, which is not visible yet.
    fn write(&mut self, files: &[(&str, &str)]) {
        self.updates += 1;
        let directory = self.volume.join(self.target());
        fs::create_dir(&directory).unwrap();
        for (name, content) in files {
            fs::write(directory.join(name), content).unwrap();
        }
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The second half: one rename.
    fn switch(&self) {
        let temporary = self.volume.join("..data_tmp");
        symlink(self.target(), &temporary).unwrap();
        fs::rename(&temporary, self.volume.join("..data")).unwrap();
    }

    fn target(&self) -> String {
        format!("..2026_11_21_{:010}", self.updates)
    }
}

/// Reads the volume on events only, so that a test cannot pass by polling.
const EVENTS_ONLY: Options = Options {
    events: true,
    settle: Duration::from_millis(1),
    look_every: Duration::from_hours(1),
    poll_every: Duration::from_millis(5),
};

const POLLING_ONLY: Options = Options {
    events: false,
    ..EVENTS_ONLY
};

type Seen = Result<BTreeMap<String, String>, String>;

fn seen(observation: &Observation) -> Seen {
    let files = observation.as_ref().map_err(ToString::to_string)?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let contents = files.contents().iter();
    Ok(contents
        .map(|(name, content)| (name.clone(), text(content)))
        .collect())
}

fn map(files: &[(&str, &str)]) -> BTreeMap<String, String> {
    files
        .iter()
        .map(|(name, content)| ((*name).into(), (*content).into()))
        .collect()
}

async fn until(observations: &mut watch::Receiver<Observation>, expected: &[(&str, &str)]) {
    let expected = Ok(map(expected));
    let reached = observations.wait_for(|last| seen(last) == expected);
    timeout(Duration::from_secs(10), reached)
        .await
        .expect("it is seen in time")
        .unwrap();
}

async fn until_error(observations: &mut watch::Receiver<Observation>) {
    let reached = observations.wait_for(Result::is_err);
    timeout(Duration::from_secs(10), reached)
        .await
        .expect("it is seen in time")
        .unwrap();
}

fn start(volume: &Path, options: Options) -> (Watcher, watch::Receiver<Observation>) {
    let watcher = Watcher::start(volume, options).unwrap();
    let observations = watcher.observations();
    (watcher, observations)
}

#[tokio::test]
async fn an_update_by_the_kubelet_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let mut kubelet = Kubelet::mount(dir.path());
    kubelet.publish(&[("a", "1")]);
    let (_watcher, mut observations) = start(dir.path(), EVENTS_ONLY);
    assert_eq!(
        seen(&observations.borrow()),
        Ok(map(&[("a", "1")])),
        "the content must be known at once"
    );
    for (old, new) in [("1", "2"), ("2", "3")] {
        assert_eq!(seen(&observations.borrow()), Ok(map(&[("a", old)])));
        kubelet.publish(&[("a", new)]);
        until(&mut observations, &[("a", new)]).await;
    }
}

#[tokio::test]
async fn half_an_update_is_not_seen() {
    let dir = tempfile::tempdir().unwrap();
    let mut kubelet = Kubelet::mount(dir.path());
    kubelet.publish(&[("a", "1")]);
    let (watcher, mut observations) = start(dir.path(), EVENTS_ONLY);
    observations.mark_unchanged();
    kubelet.write(&[("a", "2")]);
    drop(watcher);
    assert!(
        observations.has_changed().is_err(),
        "half an update was seen, or the watcher still runs"
    );
    assert_eq!(seen(&observations.borrow()), Ok(map(&[("a", "1")])));

    let (_watcher, mut observations) = start(dir.path(), EVENTS_ONLY);
    kubelet.switch();
    until(&mut observations, &[("a", "2")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_updates_end_with_the_last_and_never_mix() {
    let dir = tempfile::tempdir().unwrap();
    let mut kubelet = Kubelet::mount(dir.path());
    kubelet.publish(&[("a", "0"), ("b", "0")]);
    let (_watcher, mut observations) = start(dir.path(), EVENTS_ONLY);
    let publishing = tokio::task::spawn_blocking(move || {
        for update in 1..=200 {
            let content = update.to_string();
            kubelet.publish(&[("a", &content), ("b", &content)]);
        }
    });
    let watching = async {
        loop {
            let now = seen(&observations.borrow_and_update());
            if let Ok(files) = &now {
                assert_eq!(
                    files["a"], files["b"],
                    "the files are from different updates"
                );
                if files["a"] == "200" {
                    return;
                }
            }
            observations.changed().await.unwrap();
        }
    };
    timeout(Duration::from_secs(20), watching)
        .await
        .expect("the last one is seen in time");
    publishing.await.unwrap();
}

#[tokio::test]
async fn a_directory_that_is_removed_and_comes_back_is_watched_again() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("volume");
    let (_watcher, mut observations) = start(&volume, EVENTS_ONLY);
    assert!(
        observations.borrow().is_err(),
        "the volume must be found although it was missing at first"
    );
    for round in ["1", "2", "3"] {
        let mut kubelet = Kubelet::mount(&volume);
        kubelet.publish(&[("a", round)]);
        until(&mut observations, &[("a", round)]).await;
        // An event reports this change, so polling has stopped.
        kubelet.publish(&[("a", "next")]);
        until(&mut observations, &[("a", "next")]).await;
        fs::remove_dir_all(&volume).unwrap();
        until_error(&mut observations).await;
    }
    // The directory is moved away and replaced, so it is missing only for a moment.
    Kubelet::mount(&volume).publish(&[("a", "4")]);
    until(&mut observations, &[("a", "4")]).await;
    fs::rename(&volume, dir.path().join("old")).unwrap();
    let mut kubelet = Kubelet::mount(&volume);
    kubelet.publish(&[("a", "5")]);
    until(&mut observations, &[("a", "5")]).await;
    kubelet.publish(&[("a", "6")]);
    until(&mut observations, &[("a", "6")]).await;
}

#[tokio::test]
async fn changes_in_a_plain_directory_are_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    fs::write(&a, "1").unwrap();
    let (_watcher, mut observations) = start(dir.path(), EVENTS_ONLY);
    until(&mut observations, &[("a", "1")]).await;
    fs::write(&b, "2").unwrap();
    until(&mut observations, &[("a", "1"), ("b", "2")]).await;
    fs::write(&a, "3").unwrap();
    until(&mut observations, &[("a", "3"), ("b", "2")]).await;
    fs::remove_file(&a).unwrap();
    until(&mut observations, &[("b", "2")]).await;
    fs::remove_file(&b).unwrap();
    until_error(&mut observations).await;
}

#[tokio::test]
async fn identical_content_is_no_change() {
    let dir = tempfile::tempdir().unwrap();
    let mut kubelet = Kubelet::mount(dir.path());
    kubelet.publish(&[("a", "1")]);
    let (_watcher, mut observations) = start(dir.path(), EVENTS_ONLY);
    observations.mark_unchanged();
    kubelet.publish(&[("a", "1")]);
    kubelet.publish(&[("a", "2")]);
    let changed = timeout(Duration::from_secs(10), observations.changed());
    changed
        .await
        .expect("the second one is seen in time")
        .unwrap();
    assert_eq!(seen(&observations.borrow()), Ok(map(&[("a", "2")])));
}

#[tokio::test]
async fn polling_alone_sees_changes() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("volume");
    let mut kubelet = Kubelet::mount(&volume);
    kubelet.publish(&[("a", "1")]);
    let (_watcher, mut observations) = start(&volume, POLLING_ONLY);
    kubelet.publish(&[("a", "2")]);
    until(&mut observations, &[("a", "2")]).await;
    fs::remove_dir_all(&volume).unwrap();
    until_error(&mut observations).await;
    Kubelet::mount(&volume).publish(&[("a", "3")]);
    until(&mut observations, &[("a", "3")]).await;
}

#[test]
fn our_own_reading_is_no_reason_to_look_again() {
    let event = |kind| Ok(notify::Event::new(kind).add_path("/volume/a".into()));
    let means = |kind| signal(Path::new("/volume"), event(kind));
    assert!(means(EventKind::Access(AccessKind::Open(AccessMode::Any))).is_none());
    assert!(means(EventKind::Access(AccessKind::Close(AccessMode::Read))).is_none());
    assert!(means(EventKind::Access(AccessKind::Close(AccessMode::Write))).is_some());
    // An overflowed queue.
    assert!(matches!(means(EventKind::Other), Some(Signal::Changed)));
    let failed = signal(Path::new("/volume"), Err(notify::Error::generic("failed")));
    assert!(matches!(failed, Some(Signal::Changed)));
}

/// A directory that is removed and recreated at once may get the old one's inode. Then only the
/// event shows that the watch is dead.
#[test]
fn a_directory_that_went_away_is_watched_anew_whatever_its_inode() {
    let removed = EventKind::Remove(notify::event::RemoveKind::Folder);
    let event = |path: &str| Ok(notify::Event::new(removed).add_path(path.into()));
    let means = |path| signal(Path::new("/volume"), event(path));
    assert!(matches!(means("/volume"), Some(Signal::Lost)));
    assert!(matches!(means("/volume/..1"), Some(Signal::Changed)));

    let dir = tempfile::tempdir().unwrap();
    let (signals, received) = mpsc::channel();
    let mut notices = Notices::new(dir.path().to_owned(), true, signals.clone());
    notices.establish();
    let (observations, _) = watch::channel(look(dir.path()));
    let directory = dir.path().to_owned();
    let options = EVENTS_ONLY;
    let mut looking = Looking {
        directory,
        options,
        notices,
        received,
        observations,
    };
    assert!(looking.notices.in_place());
    signals.send(Signal::Lost).unwrap();
    assert!(looking.wait());
    assert!(!looking.notices.in_place(), "the dead watch is still held");
    looking.notices.establish();
    assert!(looking.notices.in_place());
}
