//! Going back to what served before, whatever the volume shows.
//!
//! What the volume shows when an operator goes back is *held*: it does not go live until the volume
//! has shown something else. That is stored with the generation that was gone back to, so it outlives
//! the process.

use ostrakon_base::digest::Digest;

/// What an operator went back from, and to.
#[derive(Debug, Default)]
pub struct Back {
    /// What the volume shows.
    volume: Option<Digest>,
    /// What does not go live while the volume shows it.
    held: Option<Digest>,
    /// What is being gone back to.
    to: Option<Digest>,
    /// From what; whatever the volume shows, if that is not known.
    from: Option<Digest>,
    /// Why that failed the last time.
    failed: Option<String>,
}

/// Another generation is being gone back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy(pub Digest);

impl Back {
    /// A process that has started on a shard whose last generation held this.
    pub fn new(held: Option<Digest>) -> Self {
        Self {
            held,
            ..Self::default()
        }
    }

    /// Notes what the volume shows. If that is something new, it counts.
    pub fn volume_shows(&mut self, digest: Digest) {
        if self.volume.is_some_and(|before| before != digest) {
            self.to = None;
        }
        if self.held != Some(digest) {
            self.held = None;
        }
        self.volume = Some(digest);
    }

    /// Begins to go back to this content, unless it is live. What the volume shows is held from then on,
    /// if it is what is gone back from, `from`, or if that is not said.
    ///
    /// # Errors
    /// If other content is being gone back to.
    pub fn begin(
        &mut self,
        to: Digest,
        live: Option<Digest>,
        from: Option<Digest>,
    ) -> Result<(), Busy> {
        match self.to {
            _ if live == Some(to) => Ok(()),
            Some(other) if other != to => Err(Busy(other)),
            _ => {
                self.to = Some(to);
                self.from = from;
                self.failed = None;
                Ok(())
            }
        }
    }

    /// What is being gone back to.
    pub fn to(&self) -> Option<Digest> {
        self.to
    }

    /// What the volume shows, if that is not to go live.
    pub fn held(&self) -> Option<Digest> {
        self.held.filter(|held| self.volume == Some(*held))
    }

    /// What the volume shows, as far as it was ever readable.
    pub fn volume(&self) -> Option<Digest> {
        self.volume
    }

    /// What the volume shows and is not to be tried: it is held, and an operator does not go to it.
    pub fn held_back(&self) -> Option<Digest> {
        self.held().filter(|held| self.to != Some(*held))
    }

    /// What is to be served in place of what the volume shows, if anything is.
    pub fn instead(&self, live: Option<Digest>) -> Option<Digest> {
        self.to.or_else(|| self.held().and(live))
    }

    /// What is held from the moment when this content goes live, or goes on.
    pub fn holds_with(&self, digest: Digest, live: Option<Digest>) -> Option<Digest> {
        let is_left = |shown: &Digest| self.from.is_none_or(|from| from == *shown);
        let instead = self
            .volume
            .filter(|shown| *shown != digest && is_left(shown));
        let held = instead.filter(|_| self.to == Some(digest));
        held.or_else(|| self.held().filter(|_| live == Some(digest)))
    }

    /// Notes that content is live, and what is held with it, unless the volume has shown something
    /// else since.
    pub fn is_live(&mut self, digest: Digest, held: Option<Digest>) {
        if self.to == Some(digest) {
            self.to = None;
        }
        let is_shown = |held: &Digest| self.volume.is_none_or(|shown| shown == *held);
        self.held = held.filter(is_shown);
    }

    /// Notes that content cannot go live.
    pub fn refused(&mut self, digest: Digest, why: &str) {
        if self.to == Some(digest) {
            self.to = None;
            self.failed = Some(why.to_owned());
        }
    }

    /// Why going back failed the last time.
    pub fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    #[test]
    fn what_was_gone_back_from_is_held_until_the_volume_shows_something_else() {
        let (good, bad, fixed) = (digest("good"), digest("bad"), digest("fixed"));
        let mut back = Back::default();
        back.volume_shows(bad);
        assert_eq!((back.held(), back.holds_with(bad, None)), (None, None));
        back.begin(good, Some(bad), None)
            .expect("nothing is under way");
        assert_eq!(back.begin(fixed, Some(bad), None), Err(Busy(good)));
        back.begin(good, Some(bad), None).expect("it is the same");
        assert_eq!(back.to(), Some(good));
        let held = back.holds_with(good, None);
        assert_eq!(held, Some(bad));
        back.is_live(good, held);
        assert_eq!((back.to(), back.held()), (None, Some(bad)));
        assert_eq!(back.instead(Some(good)), Some(good));
        assert_eq!(back.holds_with(good, Some(good)), Some(bad));
        assert_eq!(
            (back.begin(good, Some(good), None), back.to()),
            (Ok(()), None)
        );

        // A start after the volume has shown something else does not go on with it.
        let mut other = Back::new(held);
        other.volume_shows(good);
        other.is_live(good, held);
        other.volume_shows(bad);
        assert_eq!(other.held(), None);
        // A start goes on with it.
        let mut back = Back::new(held);
        assert_eq!(back.held(), None);
        back.volume_shows(bad);
        assert_eq!(back.held(), Some(bad));
        back.volume_shows(good);
        assert_eq!(back.held(), None);
        back.volume_shows(bad);
        assert_eq!(back.held(), None, "it was shown anew");
        back.begin(good, Some(bad), None)
            .expect("nothing is under way");
        back.volume_shows(fixed);
        assert_eq!(back.to(), None, "newer content takes over");
        assert_eq!(back.holds_with(good, None), None);
    }

    /// All shards go back by themselves while the mended content is prepared.
    #[test]
    fn what_was_not_gone_back_from_is_not_held() {
        let (good, bad, mended) = (digest("good"), digest("bad"), digest("mended"));
        let mut back = Back::default();
        back.volume_shows(mended);
        let begun = back.begin(good, Some(bad), Some(bad));
        begun.expect("nothing is under way");
        assert_eq!(back.holds_with(good, Some(bad)), None);
        back.volume_shows(bad);
        let begun = back.begin(good, Some(bad), Some(bad));
        begun.expect("nothing is under way");
        assert_eq!(back.holds_with(good, Some(bad)), Some(bad));
    }

    #[test]
    fn what_cannot_go_live_is_gone_back_to_no_longer() {
        let (good, bad) = (digest("good"), digest("bad"));
        let mut back = Back::default();
        back.volume_shows(bad);
        back.begin(good, Some(bad), None)
            .expect("nothing is under way");
        back.refused(bad, "another");
        assert_eq!(back.to(), Some(good));
        back.refused(good, "it traps");
        assert_eq!((back.to(), back.failed()), (None, Some("it traps")));
        // What is held can be gone to all the same.
        back.is_live(good, Some(bad));
        assert_eq!(back.held_back(), Some(bad));
        back.begin(bad, Some(good), None)
            .expect("nothing is under way");
        assert_eq!((back.held_back(), back.held()), (None, Some(bad)));
        back.is_live(bad, None);
        assert_eq!(back.held(), None);
        back.begin(good, Some(bad), None)
            .expect("nothing is under way");
        assert_eq!(back.failed(), None);
    }
}
