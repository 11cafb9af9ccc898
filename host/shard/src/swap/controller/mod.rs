//! Runs the swap machine: feeds it the volume's contents, performs its actions, and publishes
//! its status.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ostrakon_base::causes::with_causes;
use ostrakon_base::unix_time::unix_time;
use ostrakon_contract::contract::Description;
use ostrakon_volumes::volume::{Files, Observation, ReadError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::candidate::{self, Candidate};
use super::default_guest::DefaultGuest;
use super::machine::{Action, Effect, Event, Refusal, State, Step};
use super::performer::{Failure, Performer};
use super::status::{InProgress, LiveGeneration, Refused, Status};

/// How many bytes of a reason are kept, because a guest may have written it.
const MAX_REASON_BYTES: usize = 4096;

/// How long after a transient refusal the same content is tried again. The delay doubles with
/// each further refusal, up to the maximum.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const RETRY_AFTER_AT_MOST: Duration = Duration::from_mins(1);

/// The one task that swaps generations in a shard.
pub struct Controller<P: Performer> {
    performer: Arc<P>,
    observations: watch::Receiver<Observation>,
    default_guest: DefaultGuest,
    status: watch::Sender<Status>,
    machine: State,
    /// The content that the machine was last told of, and when.
    observed: Option<(Files, Instant)>,
    /// The generation that serves, or that served last before the restart.
    serves: Serves,
    work: Work<P>,
    /// The compiled component of the live generation.
    live_compiled: Option<P::Compiled>,
    /// Whether content that is shown again is to be tried again.
    is_told: bool,
    /// When to retry the refused content, and how long that wait is.
    retry: Option<(Instant, Duration)>,
}

/// The results of the actions for one candidate so far.
struct Work<P: Performer> {
    since: Option<Instant>,
    candidate: Option<Arc<Candidate>>,
    compiled: Option<P::Compiled>,
    linked: Option<P::Linked>,
    checked: Option<P::Checked>,
    description: Option<Description>,
    agreed: Option<P::Agreed>,
}

impl<P: Performer> Default for Work<P> {
    fn default() -> Self {
        Self {
            since: None,
            candidate: None,
            compiled: None,
            linked: None,
            checked: None,
            description: None,
            agreed: None,
        }
    }
}

/// The result of an action.
enum Made<P: Performer> {
    Candidate(Arc<Candidate>),
    Compiled(P::Compiled),
    Linked(P::Linked),
    Checked(P::Checked, Description),
    Rehearsed(P::Checked),
    Agreed(P::Checked, P::Agreed),
    Live(u64),
}

/// What serves in this shard.
enum Serves {
    /// No generation ever served.
    Nothing,
    Content(Files),
    /// A generation served, and its content is no longer there.
    Lost,
}

struct Failed {
    reason: String,
    transient: bool,
}

type Running<P> = Pin<Box<dyn Future<Output = Result<Made<P>, Failed>> + Send>>;

/// What happens to the action under way.
enum Next<P: Performer> {
    AsBefore,
    Cancelled,
    Begun(Running<P>),
}

enum Input<P: Performer> {
    Observed,
    NoMoreObservations,
    Ended(Result<Made<P>, Failed>),
    Retry,
    Shutdown,
}

impl<P: Performer> Controller<P> {
    /// A controller that has not begun. Where content served before the restart, the controller
    /// begins with that, so that an unusable volume does not keep the shard from serving; then
    /// it takes the volume's content.
    pub fn new(
        performer: Arc<P>,
        mut observations: watch::Receiver<Observation>,
        last_good: Option<Files>,
    ) -> Self {
        observations.mark_changed();
        Self {
            performer,
            observations,
            default_guest: DefaultGuest::default(),
            status: watch::Sender::default(),
            machine: State::default(),
            serves: last_good.clone().map_or(Serves::Lost, Serves::Content),
            observed: last_good.map(|files| (files, Instant::now())),
            work: Work::default(),
            live_compiled: None,
            is_told: false,
            retry: None,
        }
    }

    /// The same controller, with a component for a volume that contains none. In a shard where
    /// nothing `has_served` yet, the component serves with an empty volume too.
    #[must_use]
    pub fn with_default_guest(self, default_guest: DefaultGuest, has_served: bool) -> Self {
        Self {
            default_guest,
            serves: if has_served {
                self.serves
            } else {
                Serves::Nothing
            },
            ..self
        }
    }

    /// The same controller for a shard of several, which takes nothing for the volume's content before
    /// the first change: it is not known yet what it is to serve. Where it is told what to try
    /// (`is_told`), content that is shown again is tried again.
    #[must_use]
    pub fn of_several(mut self, is_told: bool) -> Self {
        self.observations.mark_unchanged();
        self.is_told = is_told;
        self
    }

    /// The status, now and as it changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Swaps until shutdown. An action under way is then dropped, except a promotion: the
    /// controller waits for its end, which its own deadline bounds.
    pub async fn run(mut self, shutdown: impl Future<Output = ()> + Send) {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut running: Option<Running<P>> = None;
        let mut observing = true;
        let mut stopping = false;
        // The content that served last has its turn before the volume can supersede it.
        let mut restoring = false;
        if let Some((files, _)) = &self.observed {
            let event = Event::Observed(files.digest());
            if let Next::Begun(first) = self.apply(event) {
                running = Some(first);
            }
            restoring = true;
        }
        loop {
            if stopping && !self.is_in(&[Step::Promote, Step::Migrate]) {
                return;
            }
            // What other shards serve can supersede it, too.
            restoring &= running.is_some() && !self.is_in(&[Step::Rehearse, Step::Agree]);
            let watching = observing && !restoring && !stopping;
            let input = tokio::select! {
                biased;
                () = &mut shutdown, if !stopping => Input::Shutdown,
                ended = ended(&mut running) => Input::Ended(ended),
                changed = self.observations.changed(), if watching => match changed {
                    Ok(()) => Input::Observed,
                    Err(_) => Input::NoMoreObservations,
                },
                () = until(self.retry), if running.is_none() && !stopping => Input::Retry,
            };
            let event = match input {
                Input::Shutdown => {
                    stopping = true;
                    continue;
                }
                // Whoever ends the watcher is about to end the controller, too.
                Input::NoMoreObservations => {
                    observing = false;
                    continue;
                }
                Input::Observed => self.observe(),
                Input::Retry => Event::Retry,
                Input::Ended(result) => {
                    running = None;
                    self.keep(result)
                }
            };
            match self.apply(event) {
                // Dropping the action ends it.
                Next::Cancelled => running = None,
                Next::Begun(next) => running = Some(next),
                Next::AsBefore => {}
            }
        }
    }

    fn is_in(&self, steps: &[Step]) -> bool {
        let in_progress = self.machine.in_progress();
        in_progress.is_some_and(|(_, step)| steps.contains(&step))
    }

    fn observe(&mut self) -> Event {
        let observation = self.observations.borrow_and_update().clone();
        let shown = match observation {
            Ok(files) => Ok(self.default_guest.complete(files)),
            Err(error) if matches!(*error, ReadError::Empty(_)) => {
                self.of_empty_volume().ok_or(error)
            }
            Err(error) => Err(error),
        };
        match shown {
            Ok(files) => {
                let digest = files.digest();
                self.observed = Some((files, Instant::now()));
                if self.machine.live().map(|live| live.digest) == Some(digest) {
                    self.performer.shows_live(digest);
                }
                if self.is_told {
                    Event::Again(digest)
                } else {
                    Event::Observed(digest)
                }
            }
            Err(error) => Event::Unreadable(reason(&*error)),
        }
    }

    /// The content that an empty volume stands for: the default guest without settings. `None`
    /// where something else has served, because that was most likely not removed on purpose.
    fn of_empty_volume(&self) -> Option<Files> {
        let may_serve = match &self.serves {
            Serves::Nothing => true,
            Serves::Content(files) => candidate::is_component_alone(files),
            Serves::Lost => false,
        };
        self.default_guest.alone().filter(|_| may_serve)
    }

    /// Keeps the result of an action for the actions after it.
    fn keep(&mut self, result: Result<Made<P>, Failed>) -> Event {
        let made = match result {
            Ok(made) => made,
            Err(Failed { reason, transient }) => return Event::Failed { reason, transient },
        };
        match made {
            Made::Candidate(candidate) => {
                self.performer.begins(&candidate);
                let component = candidate.component_digest;
                // Where the machine skips compiling, the live component is used.
                self.work.compiled = self.live_compiled.clone();
                self.work.candidate = Some(candidate);
                Event::Verified { component }
            }
            Made::Compiled(compiled) => {
                self.work.compiled = Some(compiled);
                Event::Compiled
            }
            Made::Linked(linked) => {
                self.work.linked = Some(linked);
                Event::Linked
            }
            Made::Checked(checked, description) => {
                let schema = description.schema;
                self.work.checked = Some(checked);
                self.work.description = Some(description);
                Event::Checked {
                    schema,
                    stored: self.performer.stored_schema(),
                }
            }
            Made::Rehearsed(checked) => {
                self.work.checked = Some(checked);
                Event::Rehearsed
            }
            Made::Agreed(checked, agreed) => {
                self.work.checked = Some(checked);
                self.work.agreed = Some(agreed);
                Event::Agreed
            }
            Made::Live(generation) => Event::Promoted { generation },
        }
    }

    /// Applies an event to the machine, performs the effects, and publishes the status.
    fn apply(&mut self, event: Event) -> Next<P> {
        let machine = std::mem::take(&mut self.machine);
        let (machine, effects) = machine.apply(event, unix_time(SystemTime::now()).as_secs());
        self.machine = machine;
        let mut next = Next::AsBefore;
        let mut went_live = None;
        for effect in effects {
            match effect {
                Effect::Begin(action) => next = Next::Begun(self.begin(action)),
                Effect::Cancel => next = Next::Cancelled,
                Effect::Refused(refusal) => {
                    self.performer.refused(&refusal);
                    let Refusal {
                        digest,
                        step,
                        reason,
                        transient,
                        ..
                    } = refusal;
                    self.retry = transient.then(|| next_retry(self.retry));
                    let digest = digest.map(|digest| digest.short());
                    let retry_after_s = self.retry.map(|(_, wait)| wait.as_secs());
                    warn!(%step, %reason, digest, retry_after_s, "generation refused");
                }
                Effect::Live(live) => {
                    let work = std::mem::take(&mut self.work);
                    if let Some(candidate) = &work.candidate {
                        self.serves = Serves::Content(candidate.source.clone());
                    }
                    self.live_compiled = work.compiled;
                    let took = work.since.map_or(Duration::ZERO, |since| since.elapsed());
                    self.performer.went_live(took);
                    let described = work.description.expect("described before it was promoted");
                    let Description {
                        name,
                        version,
                        sharding,
                        schema,
                    } = described;
                    let (generation, digest) = (live.generation, live.digest);
                    info!(generation, digest = %digest.short(), name, version, ?took, "generation live");
                    went_live = Some(LiveGeneration {
                        generation,
                        digest,
                        name,
                        version,
                        sharding,
                        schema,
                    });
                }
            }
        }
        let (candidate, refused) = (self.machine.in_progress(), self.machine.refusal());
        if refused.is_none_or(|refusal| !refusal.transient) {
            self.retry = None;
        }
        self.status.send_if_modified(|status| {
            let before = status.clone();
            if went_live.is_some() {
                status.live = went_live;
            }
            status.candidate = candidate.map(|(digest, step)| InProgress { digest, step });
            status.refused = refused.map(Refused::from);
            if status.refused.is_some() {
                status.last_refused.clone_from(&status.refused);
            }
            *status != before
        });
        if self.machine.in_progress().is_none() {
            self.work = Work::default();
        }
        next
    }

    fn begin(&mut self, action: Action) -> Running<P> {
        let performer = Arc::clone(&self.performer);
        debug!(step = %action.step(), "swap step begins");
        if let Action::Verify(digest) = action {
            let (files, since) = self
                .observed
                .clone()
                .expect("observed before it is verified");
            debug_assert_eq!(files.digest(), digest, "the content observed last");
            self.work = Work {
                since: Some(since),
                ..Work::default()
            };
            return Box::pin(verify(files));
        }
        let candidate = self
            .work
            .candidate
            .clone()
            .expect("verified before anything else");
        match action {
            Action::Verify(_) | Action::Compile => {
                Box::pin(async move { made(performer.compile(&candidate).await, Made::Compiled) })
            }
            Action::Link => {
                let compiled = self
                    .work
                    .compiled
                    .clone()
                    .expect("compiled before it is linked");
                Box::pin(
                    async move { made(performer.link(&candidate, compiled).await, Made::Linked) },
                )
            }
            Action::Check => {
                let linked = self
                    .work
                    .linked
                    .take()
                    .expect("linked before it is checked");
                Box::pin(async move {
                    made(
                        performer.check(&candidate, linked).await,
                        |(checked, description)| Made::Checked(checked, description),
                    )
                })
            }
            Action::Rehearse { migrate_from } => {
                let checked = self.work.checked.take();
                let checked = checked.expect("checked before it rehearses");
                Box::pin(async move {
                    let rehearsed = performer.rehearse(&candidate, checked, migrate_from);
                    made(rehearsed.await, Made::Rehearsed)
                })
            }
            Action::Agree { .. } => {
                let checked = self.work.checked.take();
                let checked = checked.expect("rehearsed before it is agreed on");
                Box::pin(async move {
                    made(
                        performer.agree(&candidate, checked).await,
                        |(checked, agreed)| Made::Agreed(checked, agreed),
                    )
                })
            }
            Action::Promote { migrate_from } => {
                let agreed = self.work.agreed.take();
                let agreed = agreed.expect("agreed before it is promoted");
                let checked = self
                    .work
                    .checked
                    .take()
                    .expect("checked before it is promoted");
                Box::pin(async move {
                    made(
                        performer
                            .promote(&candidate, checked, agreed, migrate_from)
                            .await,
                        Made::Live,
                    )
                })
            }
        }
    }
}

/// The end of the action under way; where there is none, waits for ever.
async fn ended<T>(running: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match running {
        Some(running) => running.await,
        None => pending().await,
    }
}

/// Runs on a blocking thread: hashing and unpacking would block the runtime's thread.
async fn verify<P: Performer>(files: Files) -> Result<Made<P>, Failed> {
    let candidate = tokio::task::spawn_blocking(move || Candidate::new(&files)).await;
    let candidate = candidate.expect("verifying does not panic");
    let made = candidate.map(|candidate| Made::Candidate(Arc::new(candidate)));
    made.map_err(|rejection| Failed {
        reason: reason(&rejection),
        transient: false,
    })
}

fn made<P: Performer, T, E: Failure>(
    result: Result<T, E>,
    kind: impl FnOnce(T) -> Made<P>,
) -> Result<Made<P>, Failed> {
    result.map(kind).map_err(|error| Failed {
        reason: reason(&error),
        transient: error.is_transient(),
    })
}

/// When to retry content that is refused now, given the last retry.
fn next_retry(last: Option<(Instant, Duration)>) -> (Instant, Duration) {
    let wait = last.map_or(RETRY_AFTER, |(_, wait)| (2 * wait).min(RETRY_AFTER_AT_MOST));
    (Instant::now() + wait, wait)
}

/// Waits until that time; where there is none, for ever.
async fn until(retry: Option<(Instant, Duration)>) {
    match retry {
        Some((at, _)) => sleep_until(at).await,
        None => pending().await,
    }
}

/// An error with all its sources, cut to `MAX_REASON_BYTES`.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = with_causes(error);
    if text.len() > MAX_REASON_BYTES {
        text.truncate(text.floor_char_boundary(MAX_REASON_BYTES));
    }
    text
}

#[cfg(test)]
mod tests;
