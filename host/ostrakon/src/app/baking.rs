//! Watching a new generation in all shards, and going back by itself where it does worse.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use ostrakon_base::digest::Digest;
use ostrakon_base::unix_time::unix_time;
use ostrakon_observe::metrics::Metrics;
use ostrakon_protocol::{Generation, Release, Trial};
use ostrakon_settings::settings::Rollout;
use ostrakon_shard::bake::{Bake, Waits, With, Worse};
use ostrakon_shard::swap::Kept;
use ostrakon_shard::swap::history::{self, Entry, History, NoWayBack, way_back};
use ostrakon_shard::writer::Writer;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::place::Place;
use crate::admin::{NoAnswer, Order};
use crate::drain::Drain;

/// How often all shards are asked what they have answered.
const EVERY: Duration = Duration::from_secs(1);

/// How long an operator's order waits until it is stored, and how often that is looked at.
const STORED_WITHIN: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_millis(5);

/// Watches new generations. Clones share it.
#[derive(Clone)]
pub(super) struct Baking(Arc<Inner>);

struct Inner {
    place: Place,
    writer: Writer,
    history: History,
    kept: Kept,
    metrics: Arc<Metrics>,
    /// Whether it only watches, as in development.
    only_watches: bool,
    /// When this process began, in seconds of Unix time.
    began: u64,
    /// A std mutex, because it is held only briefly.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    watch: Option<Watch>,
    /// The content that serves all partitions and has been watched for long enough, or is not to be: after
    /// a trial it has another number.
    done: Option<Digest>,
    /// The content that was watched for long enough, or was not to be, since this process began.
    proven: BTreeSet<Digest>,
    /// The generation whose trial ends.
    ended: Option<u64>,
    back: Option<WentBack>,
}

/// The watch over one generation.
struct Watch {
    stage: Stage,
    bake: Bake,
    settings: Rollout,
    /// The shards that do not serve by the newest release yet, and since when.
    behind: BTreeMap<u32, Instant>,
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A generation that serves a part of the partitions.
    Trial { live: Generation, trial: Trial },
    /// One that serves all of them, after the one with the other number.
    All { live: Generation, before: u64 },
}

/// All shards went back, or were made to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct WentBack {
    /// The generation that failed.
    generation: u64,
    digest: Digest,
    why: String,
    /// Whether an operator said so.
    by_operator: bool,
    unix_time: u64,
    /// Why that could not be done, if it could not.
    failed: Option<String>,
}

/// Why all shards do not go back.
enum NotBack {
    /// What is in its steps goes live in all shards by now.
    GoesLive,
    NoWay(String),
}

impl WentBack {
    fn new(from: Generation, why: String, failed: Option<String>) -> Self {
        Self {
            generation: from.number,
            digest: from.digest,
            why,
            by_operator: false,
            unix_time: unix_time(SystemTime::now()).as_secs(),
            failed,
        }
    }
}

/// For an Event.
impl fmt::Display for WentBack {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            generation, why, ..
        } = self;
        match &self.failed {
            None => write!(
                formatter,
                "all shards went back from generation {generation}: {why}; what the ConfigMap shows does not go live before it has changed"
            ),
            Some(failed) => write!(
                formatter,
                "generation {generation} stays live though {why}: it cannot be gone back: {failed}"
            ),
        }
    }
}

impl Stage {
    /// The generation that is watched.
    fn watched(&self) -> Generation {
        match self {
            Self::Trial { trial, .. } => trial.candidate,
            Self::All { live, .. } => *live,
        }
    }

    /// The number of the one that it is compared with.
    fn other(&self) -> u64 {
        match self {
            Self::Trial { live, .. } => live.number,
            Self::All { before, .. } => *before,
        }
    }

    fn with(&self) -> With {
        match self {
            Self::Trial { .. } => With::Beside,
            Self::All { .. } => With::Before,
        }
    }

    /// Whether this is another step than `before`. A pause is none.
    fn is_other_step(&self, before: &Self) -> bool {
        match (self, before) {
            (Self::Trial { trial, .. }, Self::Trial { trial: other, .. }) => {
                (trial.candidate, trial.share) != (other.candidate, other.share)
            }
            _ => self != before,
        }
    }
}

impl Baking {
    pub(super) fn new(
        place: Place,
        writer: Writer,
        (history, kept): (History, Kept),
        metrics: Arc<Metrics>,
        only_watches: bool,
    ) -> Self {
        Self(Arc::new(Inner {
            place,
            writer,
            history,
            kept,
            metrics,
            only_watches,
            began: history::now(),
            state: Mutex::default(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no holder of this lock panics")
    }

    /// Watches until the shard drains. Only the shard that says what goes live does anything.
    pub(super) async fn run(self, drain: Drain) {
        if !self.0.place.leads() {
            return;
        }
        loop {
            tokio::select! {
                biased;
                () = drain.begun() => return,
                () = sleep(EVERY) => {}
            }
            let stage = self.stage();
            self.enter(stage);
            if stage.is_some() {
                self.look().await;
            }
            self.look_back();
        }
    }

    /// What is to be watched now.
    fn stage(&self) -> Option<Stage> {
        let release = self.0.place.serves_by()?;
        let live = release.live;
        if let Some(trial) = release.trial {
            // One that is given up ends in a moment.
            let is_ended = self.state().ended == Some(trial.candidate.number);
            return (!is_ended).then_some(Stage::Trial { live, trial });
        }
        let is_watched = {
            let state = self.state();
            if state.done == Some(live.digest) {
                return None;
            }
            let watch = state.watch.as_ref();
            watch.is_some_and(|watch| watch.stage.watched() == live)
        };
        let settings = self.settings(&release)?;
        let generations = self.0.history.generations();
        // It is noted a moment after it went live.
        generations
            .last()
            .filter(|last| last.generation == live.number)?;
        let is_proven = |first: &Entry, until| self.is_proven(first, until, settings.bake);
        match before(&generations, is_proven).filter(|_| !settings.bake.is_zero()) {
            // One that waits for requests is watched on, but not anew.
            Some(before) if is_watched || self.elapsed() < settings.bake => {
                Some(Stage::All { live, before })
            }
            _ => {
                self.is_proved(live.digest);
                None
            }
        }
    }

    /// Content has been watched for long enough, or is not to be.
    fn is_proved(&self, digest: Digest) {
        let generations = self.0.history.generations();
        let mut state = self.state();
        state.done = Some(digest);
        state.proven.insert(digest);
        // As many as are noted.
        let is_noted = |digest: &Digest| generations.iter().any(|entry| entry.digest == *digest);
        state
            .proven
            .retain(|proven| *proven == digest || is_noted(proven));
    }

    /// Whether others can be compared with former content, which was live from this entry until then: it
    /// was watched to the end in this process or, for all that is known, before.
    fn is_proven(&self, first: &Entry, until: u64, bake: Duration) -> bool {
        let watched = first.live_since.saturating_add(bake.as_secs());
        let was_before = watched <= until.min(self.0.began);
        was_before || self.state().proven.contains(&first.digest)
    }

    /// The settings of what is watched; `None` as long as its guest is not prepared here.
    fn settings(&self, release: &Release) -> Option<Rollout> {
        let view = self.0.writer.views().get()?;
        let view = match release.trial {
            None => &view,
            Some(_) => view.tried.as_ref()?.view.as_ref()?,
        };
        Some(view.guest.settings().rollout.clone())
    }

    /// Begins another watch, or another step of it.
    fn enter(&self, stage: Option<Stage>) {
        let settings = self.0.place.serves_by();
        let settings = settings.and_then(|release| self.settings(&release));
        let mut state = self.state();
        let State { watch, .. } = &mut *state;
        let (Some(stage), Some(settings)) = (stage, settings) else {
            drop(state);
            self.ends();
            return;
        };
        match watch {
            Some(watch) if watch.stage.watched() == stage.watched() => {
                if stage.is_other_step(&watch.stage) {
                    let is_same = stage.other() == watch.stage.other();
                    watch.bake.next_step(stage.with(), is_same);
                }
                (watch.stage, watch.settings) = (stage, settings);
            }
            _ => {
                let elapsed = match stage {
                    Stage::Trial { .. } => Duration::ZERO,
                    Stage::All { .. } => self.elapsed(),
                };
                *watch = Some(Watch {
                    stage,
                    bake: Bake::new(stage.with(), elapsed),
                    settings,
                    behind: BTreeMap::new(),
                });
            }
        }
        drop(state);
        let (share, paused) = match stage {
            Stage::Trial { trial, .. } => (f64::from(trial.share) / 1e6, trial.paused),
            Stage::All { .. } => (1.0, false),
        };
        self.0.metrics.rollout_step(Some((share, paused)));
    }

    /// How long ago the live content went live.
    fn elapsed(&self) -> Duration {
        let generations = self.0.history.generations();
        let live = contents(&generations).next().and_then(<[Entry]>::first);
        live.map_or(Duration::ZERO, |live| {
            Duration::from_secs(history::now().saturating_sub(live.live_since))
        })
    }

    /// Asks all shards what they have answered, and goes on or back.
    async fn look(&self) {
        let Some(stage) = self.state().watch.as_ref().map(|watch| watch.stage) else {
            return;
        };
        let Some(release) = self.0.place.serves_by() else {
            return;
        };
        let asked = [stage.watched().number, stage.other()];
        let answers = self.0.place.served(&self.0.writer, &asked).await;
        let shards = self.0.place.shards();
        if self.0.place.serves_by() != Some(release) {
            // They were asked about something else.
            return;
        }
        let verdict = {
            let mut state = self.state();
            let Some(watch) = state.watch.as_mut().filter(|watch| watch.stage == stage) else {
                return;
            };
            let follows = |shard: &u32| {
                let mut answers = answers.iter();
                answers.any(|answer| answer.shard.0 == *shard && answer.release == Some(release))
            };
            let since = std::mem::take(&mut watch.behind);
            let behind = (0..shards).filter(|shard| !follows(shard));
            let now = Instant::now();
            watch.behind = behind
                .map(|shard| (shard, since.get(&shard).copied().unwrap_or(now)))
                .collect();
            for answer in &answers {
                let mut served = answer.served.iter().cloned();
                let (its, other) = (served.next().flatten(), served.next().flatten());
                watch.bake.note(answer.shard.0, its, other);
            }
            watch.verdict()
        };
        match verdict {
            Verdict::Waits => {}
            Verdict::Worse(worse) if self.0.only_watches => {
                tracing::warn!(
                    generation = stage.watched().number,
                    "the new generation does worse: {worse}"
                );
                self.end_of_step(&stage);
            }
            Verdict::Worse(worse) => self.goes_back_by_itself(&stage, worse.to_string()).await,
            Verdict::Over => self.end_of_step(&stage),
        }
    }

    fn end_of_step(&self, stage: &Stage) {
        match stage {
            Stage::Trial { trial, .. } => self.0.place.was_watched(trial.turn),
            Stage::All { live, .. } => {
                self.is_proved(live.digest);
                let state = self.state();
                let watch = state.watch.as_ref();
                let (requests, failed) = watch.map_or((0, 0), |watch| watch.bake.answered());
                let compared_with = watch.map_or(0, |watch| watch.bake.compared_with());
                drop(state);
                tracing::info!(
                    generation = live.number,
                    requests,
                    failed,
                    compared_with,
                    "the new generation has been watched for long enough"
                );
                self.ends();
            }
        }
    }

    /// Nothing is watched any longer.
    fn ends(&self) {
        self.state().watch = None;
        self.0.metrics.rollout_step(None);
    }

    /// All shards go back from what does worse, if they can.
    async fn goes_back_by_itself(&self, stage: &Stage, why: String) {
        let error = match self.go_back(stage, &why, false).await {
            // If it goes live meanwhile, it is watched on.
            Ok(()) | Err(NotBack::GoesLive) => return,
            Err(NotBack::NoWay(error)) => error,
        };
        let Generation { number, digest } = stage.watched();
        tracing::error!(generation = number, digest = %digest.short(), why, error, "the new generation does worse, and it cannot be gone back");
        self.state().done = Some(digest);
        self.ends();
        self.state().back = Some(WentBack::new(stage.watched(), why, Some(error)));
    }

    /// Has all shards go back from what is watched.
    ///
    /// # Errors
    /// If they cannot; then nothing has changed.
    async fn go_back(&self, stage: &Stage, why: &str, by_operator: bool) -> Result<(), NotBack> {
        let Generation { number, digest } = stage.watched();
        match stage {
            Stage::Trial { .. } => {
                if !self.0.place.give_up() {
                    return Err(NotBack::GoesLive);
                }
                self.state().ended = Some(number);
            }
            Stage::All { before, .. } => {
                // An operator goes back to what was live before, as by `ostrakon rollback`.
                let to = Some(*before).filter(|_| !by_operator);
                if let Err(why) = self.begin_to_go_back(to, digest).await {
                    // What is compared with may be too old to be kept.
                    let begun = match to {
                        Some(_) => self.begin_to_go_back(None, digest).await,
                        None => Err(why),
                    };
                    begun.map_err(NotBack::NoWay)?;
                }
                let mut state = self.state();
                state.done = Some(digest);
                state.proven.remove(&digest);
            }
        }
        tracing::error!(generation = number, digest = %digest.short(), why, "all shards go back from a generation");
        self.0.metrics.went_back(by_operator);
        self.ends();
        let mut back = WentBack::new(stage.watched(), why.to_owned(), None);
        back.by_operator = by_operator;
        self.state().back = Some(back);
        Ok(())
    }

    /// Has all shards go back from content that serves all partitions to that of a former generation.
    async fn begin_to_go_back(&self, to: Option<u64>, from: Digest) -> Result<(), String> {
        let back = way_back(&self.0.history.generations(), to);
        let to = back.map_err(|error| error.to_string())?;
        if !self.0.place.has(to.digest, &self.0.kept).await {
            return Err(NoWayBack::Gone(to.generation).to_string());
        }
        // What is to mend it is not held.
        let begun = self.0.place.go_back(to.digest, Some(from));
        begun.map_err(|_| "it is being gone back to another generation".to_owned())
    }

    /// Notes if a way back that had begun came to nothing.
    fn look_back(&self) {
        let failed = self.0.place.back(|back| back.failed().map(str::to_owned));
        let live = self.0.place.serves_by().map(|release| release.live.number);
        let mut state = self.state();
        if let (Some(failed), Some(back)) = (failed, state.back.as_mut())
            && live == Some(back.generation)
            && back.failed.is_none()
        {
            back.failed = Some(failed);
        }
    }

    /// Which generation is in its steps, and its share of the partitions, in millionths.
    pub(super) fn step(&self) -> Option<(u64, u32)> {
        let release = self.0.place.serves_by()?;
        let trial = release.trial?;
        Some((trial.candidate.number, trial.share))
    }

    /// The last time that all shards went back.
    pub(super) fn went_back(&self) -> Option<WentBack> {
        self.state().back.clone()
    }

    /// What is watched, and what was gone back from, for the status.
    pub(super) fn show(&self) -> Value {
        let stage = self.0.place.leads().then(|| self.stage()).flatten();
        if self.0.place.leads() {
            self.enter(stage);
        }
        let release = self.0.place.serves_by().filter(|_| self.0.place.leads());
        let state = self.state();
        let watch = state.watch.as_ref();
        // What went live is noted a moment later.
        let is_pending = release.is_some_and(|release| {
            watch.is_none() && release.trial.is_none() && state.done != Some(release.live.digest)
        });
        json!({
            "watch": watch.map(Watch::show),
            "pending": is_pending,
            "went_back": state.back,
        })
    }

    /// Does what an operator says. Tells what it was done to, and whether that is stored: if not, a
    /// restart forgets it.
    ///
    /// # Errors
    /// If there is nothing that it could be done to.
    pub(super) async fn obey(&self, order: Order) -> Result<Value, NoAnswer> {
        let trial = self.0.place.serves_by().and_then(|release| release.trial);
        let mut told = self.obey_at_once(order).await?;
        told["stored"] = match trial {
            Some(trial) => self.is_stored(order, &trial).await.into(),
            None => false.into(),
        };
        Ok(told)
    }

    /// Waits for a while until the release says what was ordered of this trial.
    async fn is_stored(&self, order: Order, before: &Trial) -> bool {
        let says_so = |release: &Release| {
            let trial = release.trial.filter(|it| it.candidate == before.candidate);
            match order {
                Order::Pause => trial.is_none_or(|trial| trial.paused),
                Order::Resume => trial.is_none_or(|trial| !trial.paused),
                Order::Promote { full: false } => trial.is_none_or(|it| it.share > before.share),
                Order::Promote { full: true } => release.live == before.candidate,
                Order::Abort => trial.is_none() && release.live != before.candidate,
            }
        };
        let until = Instant::now() + STORED_WITHIN;
        while !self.0.place.serves_by().is_some_and(|it| says_so(&it)) {
            if Instant::now() >= until {
                return false;
            }
            sleep(SOON).await;
        }
        true
    }

    async fn obey_at_once(&self, order: Order) -> Result<Value, NoAnswer> {
        let refused = |why: &str| {
            let (status, why) = (StatusCode::CONFLICT, why.to_owned());
            Err(NoAnswer { status, why })
        };
        if !self.0.place.leads() {
            return refused("shard 0 says what all shards serve: ask that one");
        }
        let stage = self.stage();
        let Some(stage) = stage else {
            return refused(
                "no generation is in its steps, or watched: `ostrakon rollback` goes back from what is live",
            );
        };
        let paused = matches!(stage, Stage::Trial { trial, .. } if trial.paused);
        match (order, stage) {
            (Order::Pause, Stage::All { .. }) | (Order::Resume, Stage::All { .. }) => {
                return refused(
                    "the generation serves all partitions: there is no step to wait before",
                );
            }
            (Order::Pause, _) if paused => return refused("it is paused already"),
            (Order::Resume, _) if !paused => return refused("it is not paused"),
            (Order::Pause | Order::Resume, _) => self.0.place.pause(order == Order::Pause),
            (Order::Promote { full }, Stage::Trial { trial, .. }) => {
                self.0.place.promote(trial.turn, full);
            }
            (Order::Promote { .. }, Stage::All { .. }) => self.end_of_step(&stage),
            (Order::Abort, _) => match self.go_back(&stage, "an operator ended it", true).await {
                Ok(()) => {}
                Err(NotBack::GoesLive) => {
                    return refused("it goes live in all shards just now: say it again");
                }
                Err(NotBack::NoWay(why)) => return refused(&why),
            },
        }
        let Generation { number, digest } = stage.watched();
        tracing::info!(generation = number, ?order, "an operator's order");
        Ok(json!({ "generation": number, "digest": digest }))
    }
}

enum Verdict {
    Waits,
    Over,
    Worse(Worse),
}

impl Watch {
    fn verdict(&self) -> Verdict {
        if let Some(worse) = self.bake.worse(&self.settings) {
            return Verdict::Worse(worse);
        }
        let is_paused = matches!(self.stage, Stage::Trial { trial, .. } if trial.paused);
        // A shard that is away for too long is not waited for any longer.
        let mut behind = self.behind.values();
        let is_behind = behind.any(|since| since.elapsed() < self.settings.wait);
        match self.bake.waits(&self.settings) {
            None if !is_paused && !is_behind => Verdict::Over,
            _ => Verdict::Waits,
        }
    }

    fn show(&self) -> Value {
        let Generation { number, digest } = self.stage.watched();
        let (trial, percent) = match self.stage {
            Stage::Trial { trial, .. } => (Some(trial), f64::from(trial.share) / 10_000.0),
            Stage::All { .. } => (None, 100.0),
        };
        let (answered, failed) = self.bake.answered();
        let waits = self.bake.waits(&self.settings);
        let waits = waits.unwrap_or(Waits {
            time: Duration::ZERO,
            requests: 0,
        });
        json!({
            "generation": number,
            "digest": digest,
            "percent": percent,
            "first": trial.map(|_| &self.settings.first),
            "steps": self.settings.steps.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "paused": trial.is_some_and(|trial| trial.paused),
            "answered": answered,
            "failed": failed,
            "waits_s": waits.time.as_secs_f64().ceil(),
            "waits_requests": waits.requests,
            "waits_for_shards": self.behind.keys().collect::<Vec<_>>(),
        })
    }
}

/// The generations by their content, the newest first: after a trial content has another number.
fn contents(generations: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    let same = generations.chunk_by(|one, other| one.digest == other.digest);
    same.rev()
}

/// The number of the generation that the live one is to be compared with, and that is gone back to if that
/// does worse: the last one that is proven and was not gone back from. If none is, it is the one before.
/// `None` if there is none, or if the live one is what was gone back to, or has that content.
fn before(generations: &[Entry], is_proven: impl Fn(&Entry, u64) -> bool) -> Option<u64> {
    let mut contents = contents(generations).peekable();
    let live = contents.next()?.first()?;
    if live.held.is_some() {
        return None;
    }
    let (mut next, mut last_one) = (live, None);
    while let Some(entries) = contents.next() {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            continue;
        };
        let is_around = |entries: &&[Entry]| entries[0].digest == next.digest;
        // What came before it came after it, too.
        let was_undone = contents.peek().is_some_and(is_around);
        let was_bad = was_undone || next.held == Some(last.digest);
        let its = (last.digest != live.digest).then_some(last.generation);
        if !was_bad && is_proven(first, next.live_since) {
            return its;
        }
        last_one = last_one.or_else(|| its.filter(|_| !was_bad));
        next = first;
    }
    last_one
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(generation: u64, content: &str, held: Option<&str>) -> Entry {
        let of = |content: &str| Digest::of(content.as_bytes());
        Entry {
            generation,
            digest: of(content),
            name: "kv".to_owned(),
            version: "1.0.0".to_owned(),
            schema: 1,
            live_since: 1_800_000_000,
            held: held.map(of),
        }
    }

    #[test]
    fn a_generation_is_compared_with_the_last_one_that_was_watched_to_the_end() {
        let of = |generations: &[Entry], proven: &[u64]| {
            before(generations, |first, _| proven.contains(&first.generation))
        };
        assert_eq!(of(&[], &[]), None);
        let mut all = vec![entry(1, "good", None)];
        assert_eq!(of(&all, &[1]), None);
        all.push(entry(2, "bad", None));
        assert_eq!(of(&all, &[]), Some(1), "none is proven");
        // Bad ones that follow each other are no measure for each other.
        all.push(entry(3, "as bad", None));
        assert_eq!(of(&all, &[1]), Some(1));
        assert_eq!(of(&all, &[1, 2]), Some(2));
        assert_eq!(of(&all, &[]), Some(2), "none is proven");
        // What was gone back to has nothing to be compared with; what was gone back from is no measure.
        all.push(entry(4, "good", Some("as bad")));
        assert_eq!(of(&all, &[1, 3]), None);
        all.push(entry(5, "mended", None));
        assert_eq!(of(&all, &[1, 3, 4]), Some(4));
        assert_eq!(of(&all[..3], &[1]), Some(1));
        // The same content again.
        all.push(entry(6, "good", None));
        assert_eq!(of(&all, &[1, 4]), None);
        // After a trial, whatever its end, what was live has another number, and nothing else.
        let all = [
            entry(1, "good", None),
            entry(2, "bad", None),
            entry(4, "bad", Some("tried")),
            entry(5, "as bad", None),
        ];
        assert_eq!(of(&all[..3], &[1]), Some(1));
        assert_eq!(of(&all, &[1]), Some(1));
        assert_eq!(of(&all, &[1, 2]), Some(4));
        // It was gone back while the mended content was shown, so nothing is held.
        let undone = [
            entry(1, "good", None),
            entry(2, "bad", None),
            entry(3, "good", None),
            entry(4, "mended", None),
        ];
        assert_eq!(of(&undone[..3], &[2]), None);
        assert_eq!(of(&undone, &[2]), Some(3));
    }
}
