//! The places of a server's connections. When all are taken, a new connection evicts one that is
//! not using its place.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::Id;
use tokio::time::Instant;

use super::wire::{Activity, Phase};

/// How long a client may take over one thing before it counts as slow, or send no request before
/// it counts as idle.
const SLOW: Duration = Duration::from_secs(1);
/// How many candidates for eviction one scan collects, so that not every new connection needs a
/// scan.
const CANDIDATES: usize = 64;
/// After a scan that found no candidate, the pause before the next scan, per taken place.
const LOOK_EVERY: Duration = Duration::from_micros(1);

/// How much a connection needs its place. Connections are evicted in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// The connection is finished, except for what its client still sends.
    Over,
    /// The client has sent nothing, or has been sending the same head or body for long.
    Slow,
    /// Between two requests for long.
    Idle,
    /// The connection is new and has sent nothing yet.
    New,
    /// Between two requests, for a short time.
    Used,
    /// A request has begun but does not run yet, or its answer has been in transit for long.
    Begun,
}

#[derive(Debug, Default)]
pub(super) struct Places {
    taken: HashMap<Id, Holder>,
    /// How many evicted connections have not ended yet.
    losers: usize,
    /// The candidates of the last scan, each with the time since which its state has not changed.
    /// The next one to evict is last.
    candidates: Vec<(Id, Instant)>,
    /// When a scan last found no candidate.
    none_at: Option<Instant>,
}

#[derive(Debug)]
struct Holder {
    activity: Arc<Activity>,
    lost: watch::Sender<bool>,
}

/// Tells a connection that it was evicted.
pub(super) type Lost = watch::Receiver<bool>;

impl Places {
    /// The number of taken places.
    pub(super) fn len(&self) -> usize {
        self.taken.len()
    }

    /// The number of places whose connections have not been evicted.
    pub(super) fn kept(&self) -> usize {
        self.taken.len() - self.losers
    }

    /// Takes a place for the connection served by `task`.
    pub(super) fn take(&mut self, task: Id, activity: Arc<Activity>, lost: watch::Sender<bool>) {
        self.taken.insert(task, Holder { activity, lost });
    }

    /// Frees the place of a task that has ended.
    pub(super) fn leave(&mut self, task: Id) {
        let left = self.taken.remove(&task);
        self.losers -= usize::from(left.is_some_and(|place| *place.lost.borrow()));
    }

    /// Evicts the connection that needs its place least, and returns whether there was one. A
    /// connection keeps its place while its request runs, and while its client has been taking an
    /// answer for at most `patience`. A client cannot keep a place for ever by sending small
    /// requests beside an answer that it does not take: that answer's stream is ended after the
    /// idle timeout.
    pub(super) fn make_room(&mut self, patience: Duration) -> bool {
        self.take_next(patience) || {
            self.look(patience);
            self.take_next(patience)
        }
    }

    fn take_next(&mut self, patience: Duration) -> bool {
        while let Some((task, since)) = self.candidates.pop() {
            // The connection may have ended or made progress since the scan.
            if let Some(place) = self.taken.get(&task)
                && rank(&place.activity, patience).is_some_and(|(_, began)| began == since)
                && !place.lost.send_replace(true)
            {
                self.losers += 1;
                return true;
            }
        }
        false
    }

    fn look(&mut self, patience: Duration) {
        let pause = LOOK_EVERY * u32::try_from(self.taken.len()).unwrap_or(u32::MAX);
        if self.none_at.is_some_and(|at| at.elapsed() < pause) {
            return;
        }
        let mut found: Vec<_> = self
            .taken
            .iter()
            .filter(|(_, place)| !*place.lost.borrow())
            .filter_map(|(task, place)| Some((rank(&place.activity, patience)?, *task)))
            .collect();
        if found.len() > CANDIDATES {
            found.select_nth_unstable_by_key(CANDIDATES, |(rank, _)| *rank);
            found.truncate(CANDIDATES);
        }
        found.sort_unstable_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        self.none_at = found.is_empty().then(Instant::now);
        self.candidates = found
            .into_iter()
            .map(|((_, since), task)| (task, since))
            .collect();
    }
}

/// Whether an evicted connection can be closed now: none of its requests is running, and its client
/// has its answers or did not take them for `patience`.
pub(super) fn gives_way(activity: &Activity, patience: Duration) -> bool {
    rank(activity, patience).is_some()
}

fn rank(activity: &Activity, patience: Duration) -> Option<(Standing, Instant)> {
    let (phase, mut began) = activity.began();
    if phase == Phase::Answering {
        // New requests on the same connection do not make an untaken answer younger.
        let oldest = activity.untaken().oldest();
        began = oldest.map_or(began, |oldest| oldest.min(began));
    }
    let standing = match phase {
        // The system has the whole answer, but the client does not.
        Phase::Idle | Phase::Lingering
            if began.elapsed() < patience && activity.send_queue().untaken() > 0 =>
        {
            return None;
        }
        Phase::Lingering => Standing::Over,
        Phase::Silent | Phase::Head | Phase::Body if began.elapsed() >= SLOW => Standing::Slow,
        Phase::Idle if began.elapsed() >= SLOW => Standing::Idle,
        Phase::Silent => Standing::New,
        Phase::Idle => Standing::Used,
        Phase::Head | Phase::Body => Standing::Begun,
        Phase::Answering if began.elapsed() >= patience => Standing::Begun,
        Phase::Answering | Phase::Busy => return None,
    };
    Some((standing, began))
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::super::taken::Taken;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);
    const MOMENT: Duration = Duration::from_millis(1);

    /// Connections, each with its current activity.
    struct World {
        places: Places,
        tasks: JoinSet<()>,
    }

    impl World {
        fn new() -> Self {
            let (places, tasks) = (Places::default(), JoinSet::new());
            Self { places, tasks }
        }

        fn connect(&mut self) -> (Arc<Activity>, Lost) {
            let (activity, (sender, lost)) = (Activity::new(), watch::channel(false));
            let task = self.tasks.spawn(std::future::pending()).id();
            self.places.take(task, Arc::clone(&activity), sender);
            (activity, lost)
        }

        fn idle(&mut self) -> (Arc<Activity>, Lost) {
            let (activity, lost) = self.connect();
            activity.spoke();
            drop(activity.request(0));
            activity.flushed();
            (activity, lost)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_gives_way_first_then_the_slow_the_idle_and_those_that_have_just_begun() {
        let mut world = World::new();
        let mut idle = Vec::new();
        for _ in 0..2 {
            idle.push(world.idle());
            tokio::time::advance(MOMENT).await;
        }
        let slow_body = world.connect();
        slow_body.0.spoke();
        let request = slow_body.0.request(0);
        let reading = slow_body.0.reading();
        tokio::time::advance(MOMENT).await;
        let busy = world.connect();
        busy.0.spoke();
        let busy_request = busy.0.request(0);
        let answering = world.connect();
        answering.0.spoke();
        drop(answering.0.request(0));
        let silent = world.connect();
        tokio::time::advance(SLOW).await;
        let used = world.idle();
        let new = world.connect();

        let over = world.connect();
        over.0.lingers();

        let order = [
            &over.1,
            &slow_body.1,
            &silent.1,
            &idle[0].1,
            &idle[1].1,
            &new.1,
            &used.1,
        ];
        for (at, lost) in order.iter().enumerate() {
            assert!(!*lost.borrow(), "{at} is too early");
            assert!(world.places.make_room(PATIENCE));
            assert!(*lost.borrow(), "{at} is next");
        }
        // A connection keeps its place while its request runs, and while its answer has not been
        // in transit for long.
        assert!(!world.places.make_room(PATIENCE));
        tokio::time::advance(PATIENCE).await;
        assert!(world.places.make_room(PATIENCE) && *answering.1.borrow());
        tokio::time::advance(MOMENT).await;
        assert!(!world.places.make_room(PATIENCE) && !*busy.1.borrow());
        drop((request, reading, busy_request));
    }

    #[tokio::test(start_paused = true)]
    async fn what_got_on_since_it_was_looked_at_keeps_its_place() {
        let mut world = World::new();
        let mut used = Vec::new();
        for _ in 0..3 {
            used.push(world.idle());
            tokio::time::advance(MOMENT).await;
        }
        assert!(world.places.make_room(PATIENCE) && *used[0].1.borrow());
        let request = used[1].0.request(0);
        assert!(world.places.make_room(PATIENCE));
        assert!(!*used[1].1.borrow() && *used[2].1.borrow());
        assert!(gives_way(&used[2].0, PATIENCE) && !gives_way(&used[1].0, PATIENCE));
        assert_eq!((world.places.len(), world.places.kept()), (3, 1));
        drop(request);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_gives_way_whatever_is_asked_meanwhile() {
        let mut world = World::new();
        let (activity, lost) = world.connect();
        activity.spoke();
        let request = activity.request(0);
        let large = Taken::followed(vec![b'x'; 100].into(), activity.untaken());
        drop(request);
        for _ in 0..4 {
            tokio::time::advance(PATIENCE / 4).await;
            let request = activity.request(0);
            assert!(!world.places.make_room(PATIENCE), "a request is run");
            drop(Taken::followed(vec![b'x'; 1].into(), activity.untaken()));
            drop(request);
        }
        tokio::time::advance(MOMENT).await;
        assert!(world.places.make_room(PATIENCE) && *lost.borrow());
        drop(large);
    }
}
