//! The content that a shard's swap is to see: the volume's in shard 0, and what shard 0 says in others.

use std::sync::Arc;
use std::time::Duration;

use ostrakon_base::digest::Digest;
use ostrakon_protocol::Ordinal;
use ostrakon_shard::swap::DefaultGuest;
use ostrakon_volumes::volume::{Files, Observation, ReadError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::state::{State, Wanted};
use crate::Cluster;

/// How long after content was not found it is looked for again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long shard 0 looks for the content of the newest release, before it goes on without it.
const LOST: Duration = Duration::from_secs(5);

impl Cluster {
    /// The content that this shard's swap is to see, and the work that finds it, which ends with the
    /// receiver. Nothing is to be seen before the first change.
    pub fn directed(
        &self,
        volume: watch::Receiver<Observation>,
        default_guest: DefaultGuest,
    ) -> (
        watch::Receiver<Observation>,
        impl Future<Output = ()> + Send + 'static,
    ) {
        let nothing: Observation = Err(Arc::new(ReadError::Empty("nothing yet".into())));
        let (shown, receiver) = watch::channel(nothing);
        let directing = Directing {
            cluster: self.clone(),
            volume,
            default_guest,
            shown,
        };
        (receiver, directing.run())
    }
}

struct Directing {
    cluster: Cluster,
    volume: watch::Receiver<Observation>,
    default_guest: DefaultGuest,
    shown: watch::Sender<Observation>,
}

impl Directing {
    async fn run(mut self) {
        let cluster = self.cluster.clone();
        let mut shows = Wanted::Unknown;
        let mut looks: Option<(Digest, Instant)> = None;
        // Whether the volume shows something that is not shown, or not noted.
        let (mut has_changed, mut is_noted) = (true, false);
        loop {
            let changed = cluster.0.rolling.changed.notified();
            tokio::pin!(changed);
            if !is_noted && let Some(files) = self.of_the_volume() {
                cluster.know_for_now(|state| state.volume_shows(files.digest()));
            }
            is_noted = true;
            let wanted = cluster.knows(State::wanted);
            let mut is_found = true;
            match wanted {
                Wanted::Unknown => {}
                Wanted::Volume if shows == wanted && !has_changed => {}
                Wanted::Volume => {
                    has_changed = false;
                    let observed = self.volume.borrow_and_update().clone();
                    let _before = self.shown.send_replace(observed);
                    shows = wanted;
                }
                Wanted::Content(..) if shows == wanted => {}
                Wanted::Content(digest, _) => {
                    if let Some(files) = self.content(digest).await {
                        let _before = self.shown.send_replace(Ok(files));
                        shows = wanted;
                        looks = None;
                    } else if cluster.live() == Some(digest) {
                        // It is live already.
                        shows = wanted;
                    } else {
                        is_found = false;
                        looks = looks.filter(|(of, _)| *of == digest);
                        let (_, since) = *looks.get_or_insert_with(|| (digest, Instant::now()));
                        if self.cluster.0.me == Ordinal::COORDINATOR && since.elapsed() >= LOST {
                            self.go_on_without(digest);
                        }
                    }
                }
            }
            tokio::select! {
                biased;
                () = self.shown.closed() => return,
                () = &mut changed => {}
                Ok(()) = self.volume.changed() => (has_changed, is_noted) = (true, false),
                () = sleep(AGAIN), if !is_found => {}
            }
        }
    }

    /// Nobody has the content of the newest release any longer: the volume's goes live instead.
    fn go_on_without(&self, digest: Digest) {
        tracing::warn!(
            %digest,
            "no shard that can be asked has content that is to go live: what shard 0's volume shows takes its place"
        );
        self.cluster.know(|state| state.is_lost(digest));
    }

    /// The files with this digest: from the volume, the data directory or another shard.
    async fn content(&self, digest: Digest) -> Option<Files> {
        let shown = self.of_the_volume();
        match shown.filter(|files| files.digest() == digest) {
            Some(files) => Some(files),
            None => self.cluster.find(digest).await,
        }
    }

    /// The content that the volume shows, with the default guest where it has none.
    fn of_the_volume(&self) -> Option<Files> {
        let shown = self.volume.borrow().clone();
        self.default_guest.of(&shown)
    }
}
