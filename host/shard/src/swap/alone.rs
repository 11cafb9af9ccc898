//! What a shard that is alone is to serve: what its volume shows, unless an operator went back from
//! that.

use std::sync::{Arc, Mutex, MutexGuard};

use ostrakon_base::digest::Digest;
use ostrakon_volumes::volume::Observation;
use tokio::sync::{Notify, watch};

use super::{Back, Busy, DefaultGuest, Kept};
use crate::writer;

/// Decides what a shard's swap is to see. Clones share it.
#[derive(Clone, Debug)]
pub struct Alone(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// A std mutex, because it is held only briefly.
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    back: Back,
    live: Option<Digest>,
    /// Whether it is live in this process.
    serves: bool,
}

impl State {
    /// The content that is to be seen in place of the volume's, if there is some.
    fn wanted(&self) -> Option<Digest> {
        self.back.instead(self.live)
    }
}

impl Alone {
    /// `stored` is what the shard's disk says of the generation that served last.
    pub fn new(stored: Option<&writer::Live>) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::new(State {
                back: Back::new(stored.and_then(|live| live.held)),
                live: stored.map(|live| live.digest),
                serves: false,
            }),
            changed: Notify::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no holder of this lock panics")
    }

    /// The content that the swap is to see, and the work that finds it, which ends with the receiver.
    pub fn directed(
        &self,
        volume: watch::Receiver<Observation>,
        default_guest: DefaultGuest,
        kept: Kept,
    ) -> (
        watch::Receiver<Observation>,
        impl Future<Output = ()> + Send + 'static,
    ) {
        let mut directing = Directing {
            alone: self.clone(),
            volume,
            default_guest,
            kept,
        };
        let (wanted, first) = directing.look();
        let volume = directing.volume.borrow().clone();
        let (shown, receiver) = watch::channel(first.unwrap_or(volume));
        (receiver, directing.run(shown, wanted))
    }

    /// Begins to go back to kept content.
    ///
    /// # Errors
    /// If other content is being gone back to.
    pub fn go_back(&self, to: Digest) -> Result<(), Busy> {
        let mut state = self.state();
        let live = state.live;
        state.back.begin(to, live)?;
        drop(state);
        self.0.changed.notify_one();
        Ok(())
    }

    /// Whether an operator goes back to this content.
    pub fn goes_back_to(&self, digest: Digest) -> bool {
        self.state().back.to() == Some(digest)
    }

    /// What is held from the moment when this content goes live.
    pub fn holds_with(&self, digest: Digest) -> Option<Digest> {
        let state = self.state();
        // A start goes live with what served last.
        state.back.holds_with(digest, state.live)
    }

    /// Notes that content is live, and what is held with it.
    pub fn is_live(&self, digest: Digest, held: Option<Digest>) {
        let mut state = self.state();
        (state.live, state.serves) = (Some(digest), true);
        state.back.is_live(digest, held);
        drop(state);
        self.0.changed.notify_one();
    }

    /// Notes that content cannot go live.
    pub fn refused(&self, digest: Digest, why: &str) {
        self.state().back.refused(digest, why);
        self.0.changed.notify_one();
    }

    /// What is done with this, such as to show it.
    pub fn back<T>(&self, look: impl FnOnce(&Back) -> T) -> T {
        look(&self.state().back)
    }
}

struct Directing {
    alone: Alone,
    volume: watch::Receiver<Observation>,
    default_guest: DefaultGuest,
    kept: Kept,
}

impl Directing {
    async fn run(mut self, shown: watch::Sender<Observation>, mut shows: Option<Digest>) {
        let alone = self.alone.clone();
        loop {
            let is_news = tokio::select! {
                biased;
                () = shown.closed() => return,
                Ok(()) = self.volume.changed() => true,
                () = alone.0.changed.notified() => false,
            };
            let before = shows;
            let (wanted, observed) = self.look();
            shows = wanted;
            // What the volume shows is shown again: it may have been refused before.
            let is_other = before != shows || is_news && shows.is_none();
            if let Some(observed) = observed.filter(|_| is_other) {
                let _before = shown.send_replace(observed);
            }
        }
    }

    /// Which content is to be seen now in place of the volume's, if some is, and what is to be seen;
    /// nothing else than before where what is live stays so.
    fn look(&mut self) -> (Option<Digest>, Option<Observation>) {
        let observed = self.volume.borrow_and_update().clone();
        if let Some(files) = self.default_guest.of(&observed) {
            self.alone.state().back.volume_shows(files.digest());
        }
        loop {
            let wanted = self.alone.state().wanted();
            let Some(digest) = wanted else {
                return (None, Some(observed));
            };
            if let Some(files) = self.kept.find(digest) {
                return (wanted, Some(Ok(files)));
            }
            if !self.is_given_up(digest) {
                return (wanted, None);
            }
        }
    }

    /// Content that is wanted is not kept. Returns whether it is given up; not if it is live.
    fn is_given_up(&self, digest: Digest) -> bool {
        let mut state = self.alone.state();
        if state.serves && state.live == Some(digest) && state.back.to() != Some(digest) {
            return false;
        }
        let why = "its content is no longer kept";
        tracing::warn!(%digest, "{why}: what was live, or what the volume shows, takes its place");
        state.back.refused(digest, why);
        if state.live == Some(digest) {
            state.back.is_live(digest, None);
        }
        true
    }
}
